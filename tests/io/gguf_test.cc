#include "refrain/io/gguf/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/error_of.h"
#include "support/gguf_bytes.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using io::Gguf;
using io::GgufType;

class GgufFile : public ::testing::Test {
 protected:
  Gguf open(const GgufBytes& bytes) const { return Gguf(folder_.put("m.gguf", bytes.bytes())); }
  // Without the path.
  std::string error(const std::string& bytes) const {
    const std::string path = folder_.put("m.gguf", bytes);
    const std::string what = error_of([&] { Gguf file(path); });
    return what.starts_with(path + ": ") ? what.substr(path.size() + 2) : what;
  }
  std::string error(const GgufBytes& bytes) const { return error(bytes.bytes()); }

  TemporaryFolder folder_;
};

TEST_F(GgufFile, ReadsKeysOfAllTypes) {
  GgufBytes bytes(0, 16);
  bytes.key("u8", 0).number(uint8_t{200}).key("i8", 1).number(int8_t{-3});
  bytes.key("u16", 2).number(uint16_t{60000}).key("i16", 3).number(int16_t{-300});
  bytes.key("u32", 4).number(uint32_t{4000000000}).key("i32", 5).number(int32_t{-70000});
  bytes.key("f32", 6).number(1e-5f).key("bool", 7).number(uint8_t{1});
  bytes.key("text", 8).text("a\nb").key("u64", 10).number(uint64_t{1} << 40);
  bytes.key("most", 10).number(UINT64_MAX).key("i64", 11).number(INT64_MIN);
  bytes.key("f64", 12).number(0.1);
  bytes.key("texts", 9).number(uint32_t{8}).number(uint64_t{2}).text("x").text("");
  bytes.key("ints", 9).number(uint32_t{1}).number(uint64_t{2}).number(int8_t{-1}).number(int8_t{5});
  bytes.key("floats", 9).number(uint32_t{6}).number(uint64_t{1}).number(0.1f);
  const Gguf file = open(bytes);
  EXPECT_EQ(file.get_int("u8", 0, 255), 200);
  EXPECT_EQ(file.get_int("i8", -10, 0), -3);
  EXPECT_EQ(file.get_int("u16", 0, INT64_MAX), 60000);
  EXPECT_EQ(file.get_int("i16", INT64_MIN, 0), -300);
  EXPECT_EQ(file.get_int("u32", 0, INT64_MAX), 4000000000);
  EXPECT_EQ(file.get_int("i32", INT64_MIN, 0), -70000);
  EXPECT_EQ(file.get_int("u64", 0, INT64_MAX), int64_t{1} << 40);
  EXPECT_EQ(file.get_int("i64", INT64_MIN, 0), INT64_MIN);
  EXPECT_EQ(file.get_number("most"), std::pow(2.0, 64));
  EXPECT_EQ(file.get_number("f32"), 1e-5);  // not 9.999999747378752e-06
  EXPECT_EQ(file.get_number("f64"), 0.1);
  EXPECT_TRUE(file.get_bool("bool"));
  EXPECT_EQ(file.get_string("text"), "a\nb");
  EXPECT_EQ(*file.find_strings("texts"), (std::vector<std::string>{"x", ""}));
  EXPECT_EQ(*file.find_ints("ints"), (std::vector<int64_t>{-1, 5}));
  EXPECT_EQ(*file.find_numbers("floats"), (std::vector<double>{0.1}));
  EXPECT_EQ(file.get_int("none", 0, 9, 7), 7);
  EXPECT_EQ(file.find_strings("none"), nullptr);
  const std::string path = folder_ / "m.gguf: ";
  EXPECT_EQ(error_of([&] { file.get_int("none", 0, 9); }),
            path + "none: missing, expected an integer from 0 to 9");
  EXPECT_EQ(error_of([&] { file.get_int("u8", 0, 9); }),
            path + "u8: expected an integer from 0 to 9, found 200");
  EXPECT_EQ(error_of([&] { file.get_int("text", 0, 9); }),
            path + "text: expected an integer from 0 to 9, found \"a\\nb\"");
  EXPECT_EQ(error_of([&] { file.find_ints("texts"); }),
            path + "texts: expected a list of integers, found a list");
}

TEST_F(GgufFile, ReadsTensorsWhereTheyStand) {
  GgufBytes bytes(2, 1, 2);  // version 2
  bytes.key("general.alignment", 4).number(uint32_t{64});
  bytes.tensor("b", {32, 2}, 8, 64).tensor("a", {3}, 0, 0).data(64 + 68, 64);
  const Gguf file = open(bytes);
  ASSERT_EQ(file.tensors().size(), 2);
  EXPECT_EQ(file.tensors()[0].name, "a");
  const io::GgufTensor& b = *file.find_tensor("b");
  EXPECT_EQ(b.type, GgufType::kQ8_0);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 32}));
  EXPECT_EQ(b.bytes, 68);
  EXPECT_EQ(b.row_bytes(), 34);
  std::vector<std::byte> row(34);
  file.read(b, 34, row);
  EXPECT_EQ(row, std::vector<std::byte>(34, std::byte{1}));
  EXPECT_EQ(file.find_tensor("c"), nullptr);
}

TEST_F(GgufFile, ComesBackAsItWasWritten) {
  const io::GgufKeys keys = {{"general.architecture", std::string("llama")},
                             {"n", int64_t{7}},
                             {"x", 0.25},
                             {"yes", true},
                             {"tokens", std::vector<std::string>{"a", "\u2581"}},
                             {"types", std::vector<int64_t>{1, -1}},
                             {"scores", std::vector<double>{-0.5, 1e10}}};
  const std::vector<float> numbers = {1, 2, 3, 4, 5, 6};
  const auto write = [&](const auto& put) {
    put(std::as_bytes(std::span(numbers).first(2)));
    put(std::as_bytes(std::span(numbers).subspan(2)));
  };
  const std::string path = folder_ / "w.gguf";
  io::write_gguf(path, keys,
                 std::vector<io::GgufTensorToWrite>{{"m", GgufType::kF32, {2, 3}, write},
                                                    {"v", GgufType::kF32, {6}, write}});
  const Gguf file(path);
  EXPECT_EQ(file.keys().size(), keys.size());
  for (const auto& [key, value] : keys) EXPECT_EQ(*file.find(key), value) << key;
  for (const char* name : {"m", "v"}) {
    const io::GgufTensor& tensor = *file.find_tensor(name);
    std::vector<float> found(6);
    file.read(tensor, 0, std::as_writable_bytes(std::span(found)));
    EXPECT_EQ(found, numbers);
  }
  EXPECT_EQ(file.find_tensor("m")->shape, (std::vector<int64_t>{2, 3}));
}

TEST_F(GgufFile, IsKnownByItsBytesOrItsName) {
  EXPECT_TRUE(io::is_gguf(folder_.put("a", GgufBytes().bytes())));
  EXPECT_TRUE(io::is_gguf(folder_.put("b.gguf", "GG")));
  EXPECT_FALSE(io::is_gguf(folder_.put("c", "{}")));
  EXPECT_FALSE(io::is_gguf(folder_.path()));
  EXPECT_FALSE(io::is_gguf(folder_ / "nothing.gguf"));
}

TEST_F(GgufFile, RefusesHeadersThatAreNone) {
  EXPECT_EQ(error(""), "not a GGUF file: it does not begin with \"GGUF\" and a header");
  EXPECT_EQ(error("GGUF"), "not a GGUF file: it does not begin with \"GGUF\" and a header");
  EXPECT_EQ(error(std::string(100, 'x')),
            "not a GGUF file: it does not begin with \"GGUF\" and a header");
  EXPECT_EQ(error(GgufBytes(0, 0, 1)), "expected GGUF of version 2 or 3, found version 1");
  EXPECT_EQ(error(GgufBytes(0, 0, 0x03000000)),
            "expected GGUF of version 2 or 3, found one whose bytes stand in the other order");
}

TEST_F(GgufFile, RefusesCountsAndLengthsBeyondTheFile) {
  constexpr uint64_t kHuge = uint64_t{1} << 63;
  EXPECT_EQ(error(GgufBytes(kHuge, 0)),
            "number of tensors: 9223372036854775808 of them, but only 8 bytes follow");
  EXPECT_EQ(error(GgufBytes(0, kHuge)),
            "number of keys: 9223372036854775808 of them, but only 0 bytes follow");
  // A string of 4 GB: the name, the value, a member of a list.
  constexpr uint64_t kLong = uint64_t{1} << 32;
  const std::string some(100, ' ');
  EXPECT_EQ(error(GgufBytes(0, 1).number(kLong).bytes() + some),
            "name of a key: 4294967296 bytes, but only 100 follow");
  EXPECT_EQ(error(GgufBytes(0, 1).key("k", 8).number(kLong).bytes() + some),
            "k: 4294967296 bytes, but only 100 follow");
  EXPECT_EQ(error(GgufBytes(0, 1)
                      .key("k", 9)
                      .number(uint32_t{8})
                      .number(uint64_t{1})
                      .number(kLong)
                      .bytes() +
                  some),
            "k: 4294967296 bytes, but only 100 follow");
  EXPECT_EQ(error(GgufBytes(0, 1).key("k", 9).number(uint32_t{0}).number(kHuge).bytes() + some),
            "k: 9223372036854775808 of them, but only 100 bytes follow");
  EXPECT_EQ(
      error(GgufBytes(0, 1).key("k", 9).number(uint32_t{10}).number(uint64_t{13}).bytes() + some),
      "k: 13 of them, but only 100 bytes follow");
  EXPECT_EQ(error(GgufBytes(0, 1).key("k", 10).number(uint32_t{1})),
            "k: 8 bytes, but only 4 follow");
}

TEST_F(GgufFile, RefusesKeysThatAreWrong) {
  EXPECT_EQ(
      error(GgufBytes(0, 1).key("k", 13).number(uint64_t{})),
      "\"k\": expected a value of type 0 to 12, and in a list none that is a list, found type "
      "13");
  EXPECT_EQ(
      error(GgufBytes(0, 1).key("k", 9).number(uint32_t{9}).number(uint64_t{})),
      "\"k\": expected a value of type 0 to 12, and in a list none that is a list, found type "
      "9");
  EXPECT_EQ(error(GgufBytes(0, 1).key("k", 7).number(uint8_t{2})),
            "\"k\": expected 0 or 1, found 2");
  EXPECT_EQ(error(GgufBytes(0, 2).key("k", 7).number(uint8_t{1}).key("k", 7).number(uint8_t{1})),
            "key \"k\" twice");
  EXPECT_EQ(error(GgufBytes(0, 1).key("", 7).number(uint8_t{1})),
            "key 0: expected a name of 1 to 256 bytes, found 0");
  const auto with_alignment = [&](uint32_t n) {
    return error(GgufBytes(0, 1).key("general.alignment", 4).number(n));
  };
  EXPECT_EQ(with_alignment(48), "general.alignment: expected a power of two, found 48");
  EXPECT_EQ(with_alignment(0), "general.alignment: expected an integer from 1 to 65536, found 0");
}

TEST_F(GgufFile, RefusesTensorsThatAreWrong) {
  const auto one = [&](const std::vector<uint64_t>& sizes, uint32_t type, uint64_t offset = 0) {
    return error(GgufBytes(1).tensor("t", sizes, type, offset).data(4096));
  };
  EXPECT_EQ(one({1024}, 0), "(no error)");
  EXPECT_EQ(one({}, 0), "\"t\": expected 1 to 4 dimensions, found 0");
  EXPECT_EQ(one({1, 1, 1, 1, 1}, 0), "\"t\": expected 1 to 4 dimensions, found 5");
  EXPECT_EQ(one({0}, 0), "\"t\": expected sizes of 1 or more, whose product 63 bits hold, found 0");
  EXPECT_EQ(one({uint64_t{1} << 32, uint64_t{1} << 32}, 0),
            "\"t\": expected sizes of 1 or more, whose product 63 bits hold, found 4294967296");
  EXPECT_EQ(one({uint64_t{1} << 62}, 0), "\"t\": more bytes than 64 bits count");
  EXPECT_EQ(one({1024}, 4), "\"t\": expected a known type, found type 4");
  EXPECT_EQ(one({1024}, 200), "\"t\": expected a known type, found type 200");
  EXPECT_EQ(one({33}, 8),
            "\"t\": expected rows of a multiple of 32 numbers, as Q8_0 has them, found 33");
  EXPECT_EQ(one({32}, 12),
            "\"t\": expected rows of a multiple of 256 numbers, as Q4_K has them, found 32");
  EXPECT_EQ(one({1025}, 0), "\"t\": 4100 bytes at 0, but the file has 4096 bytes of data");
  EXPECT_EQ(one({8}, 0, 4096), "\"t\": 32 bytes at 4096, but the file has 4096 bytes of data");
  EXPECT_EQ(one({8}, 0, UINT64_MAX - 31),
            "\"t\": 32 bytes at 18446744073709551584, but the file has 4096 bytes of data");
  EXPECT_EQ(one({8}, 0, 8), "\"t\": expected an offset that is a multiple of 32, found 8");
  EXPECT_EQ(error(GgufBytes(2).tensor("t", {9}, 0, 0).tensor("u", {8}, 0, 32).data(4096)),
            "\"u\": overlaps \"t\"");
  EXPECT_EQ(error(GgufBytes(2).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).data(4096)),
            "\"t\" twice");
  EXPECT_EQ(error(GgufBytes(1).tensor("", {8}, 0, 0).data(4096)),
            "\"\": expected a name of 1 to 256 bytes, found 0");
  EXPECT_EQ(error(GgufBytes(1).tensor("t", {8}, 0, 0)),
            "\"t\": 32 bytes at 0, but the file has 0 bytes of data");
}

// Wherever it is cut.
TEST_F(GgufFile, RefusesEveryPartOfAFile) {
  GgufBytes bytes(1, 2);
  bytes.key("general.alignment", 4).number(uint32_t{32});
  bytes.key("l", 9).number(uint32_t{8}).number(uint64_t{2}).text("x").text("yy");
  bytes.tensor("t", {32, 2}, 8, 0).data(68);
  EXPECT_EQ(error(bytes), "(no error)");
  for (size_t n = 0; n < bytes.bytes().size(); ++n)
    EXPECT_NE(error(bytes.bytes().substr(0, n)), "(no error)") << n;
}

}  // namespace
}  // namespace refrain

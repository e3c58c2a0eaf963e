#include "refrain/io/safetensors.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

using namespace std::string_literals;

std::string bytes_of(uint64_t length) {
  return {reinterpret_cast<const char*>(&length), sizeof(length)};
}

// A file with this header and `data` zero bytes.
std::string file_of(const std::string& header, size_t data) {
  return bytes_of(header.size()) + header + std::string(data, '\0');
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", name, dtype,
                     shape, offsets);
}

std::vector<float> read_all(const Safetensors& file, const std::string& name) {
  const TensorInfo* info = file.find(name);
  if (!info) throw std::runtime_error("no " + name);
  std::vector<float> values(static_cast<size_t>(info->size()));
  file.read(*info, values);
  return values;
}

template <class T>
std::vector<float> converted(const std::string& dtype, const std::vector<T>& elements) {
  const TemporaryFolder folder;
  const size_t bytes = elements.size() * sizeof(T);
  std::string file = file_of(
      "{" + entry("x", dtype, std::to_string(elements.size()), "0," + std::to_string(bytes)) + "}",
      bytes);
  std::memcpy(file.data() + file.size() - bytes, elements.data(), bytes);
  return read_all(Safetensors(folder.put("f", file)), "x");
}

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

// What would be a signal if the file were mapped.
TEST(Safetensors, TruncatedWhileItIsRead) {
  const TemporaryFolder folder;
  const std::vector<float> values(300'000, 1.5f);
  const std::string path = folder / "a.safetensors";
  const TensorToWrite tensor{"w", {300, 1000}, values.data()};
  write_safetensors(path, {&tensor, 1}, {});
  const Safetensors file(path);
  std::vector<float> found(values.size());
  file.read(file.tensors()[0], found);
  EXPECT_EQ(found, values);
  std::filesystem::resize_file(path, 1000);
  const std::string expected = path + ": changed while it was read: it ends at byte 1000";
  EXPECT_TRUE(error_of([&] { file.read(file.tensors()[0], found); }).starts_with(expected));
  EXPECT_TRUE(error_of([&] { (void)file.bytes(file.tensors()[0]); }).starts_with(expected));
}

TEST(Safetensors, ReadsWhatItWrites) {
  const TemporaryFolder folder;
  const std::string path = folder / "m.safetensors";
  const std::vector<float> a = {1, -0.0f, 1e-45f, std::numeric_limits<float>::infinity(), 5, 6};
  const std::vector<float> b = {7}, none;
  const std::vector<TensorToWrite> tensors = {{"z.weight", {2, 3}, a.data()},
                                              {"scalar", {}, b.data()},
                                              {"empty", {0, 5}, none.data()},
                                              {"a \"quoted\" 名", {1, 1, 1}, b.data()}};
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"note", "a\nb"}};
  write_safetensors(path, tensors, metadata);

  const Safetensors file(path);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(file.tensors()[i].shape, file.find(file.tensors()[i].name)->shape);
    EXPECT_EQ(file.tensors()[i].dtype, "F32");
  }
  EXPECT_EQ(file.tensors()[0].name, "z.weight");
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.find("scalar")->size(), 1);
  EXPECT_EQ(file.find("empty")->size(), 0);
  EXPECT_EQ(file.find("absent"), nullptr);
  EXPECT_TRUE(read_all(file, "empty").empty());
  const std::vector<float> found = read_all(file, "z.weight");
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(found[i], a[i])) << i;
  EXPECT_EQ(read_all(file, "scalar"), b);
  EXPECT_EQ(read_all(file, "a \"quoted\" 名"), b);
  EXPECT_EQ(std::memcmp(file.bytes(file.tensors()[0]).data(), a.data(), 24), 0);
}

TEST(Safetensors, WritesTheSameBytesAligned) {
  const TemporaryFolder folder;
  const float values[] = {1, 2};
  for (size_t length = 1; length < 66; ++length) {
    const std::vector<TensorToWrite> tensors = {{std::string(length, 'n'), {2}, values}};
    write_safetensors(folder / "a", tensors, {});
    const std::string a = read_file(folder / "a");
    EXPECT_EQ((a.size() - 8) % 64, 0u) << "the data is not aligned";
    EXPECT_LT(a.size(), 8 + length + 60 + 64 + 8) << "more spaces than needed";
  }
  write_safetensors(folder / "a", std::vector<TensorToWrite>{{"x", {2}, values}}, {{"k", "v"}});
  const std::string header =
      R"({"__metadata__":{"k":"v"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string expected = bytes_of(120) + header + std::string(120 - header.size(), ' ') +
                               std::string(reinterpret_cast<const char*>(values), 8);
  EXPECT_EQ(read_file(folder / "a"), expected);

  write_safetensors(folder / "none", {}, {});
  EXPECT_TRUE(Safetensors(folder / "none").tensors().empty());
}

TEST(Safetensors, RefusesToWriteWhatCannotBeRead) {
  const TemporaryFolder folder;
  const float value = 1;
  const auto write = [&](std::vector<TensorToWrite> tensors) {
    write_safetensors(folder / "f", tensors, {});
  };
  EXPECT_THROW(write({{"x", {}, &value}, {"x", {}, &value}}), std::logic_error);
  EXPECT_THROW(write({{"__metadata__", {}, &value}}), std::logic_error);
  EXPECT_THROW(write({{"\xFF", {}, &value}}), Error);
  EXPECT_FALSE(exists(folder / "f"));
}

TEST(Safetensors, HalfPrecisionIsExact) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const std::vector<float> values = converted("F16", bits);
  for (int i = 0; i < 65536; ++i) {
    const int exponent = i >> 10 & 31, fraction = i & 1023;
    const float sign = i & 0x8000 ? -1.0f : 1.0f, value = values[static_cast<size_t>(i)];
    ASSERT_EQ(std::signbit(value), std::signbit(sign)) << i;
    if (exponent == 31 && fraction > 0)
      ASSERT_TRUE(std::isnan(value)) << i;
    else if (exponent == 31)
      ASSERT_EQ(value, sign * std::numeric_limits<float>::infinity()) << i;
    else if (exponent == 0)
      ASSERT_EQ(value, sign * std::ldexp(static_cast<float>(fraction), -24)) << i;
    else
      ASSERT_EQ(value, sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)) << i;
  }
}

TEST(Safetensors, BrainFloatIsTheUpperHalf) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const std::vector<float> values = converted("BF16", bits);
  for (size_t i = 0; i < bits.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), static_cast<uint32_t>(i) << 16);
  EXPECT_EQ(values[0x3FC0], 1.5f);
}

TEST(Safetensors, DoubleIsRoundedToNearest) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<double> from = {1.5, 1 + 0x1p-24, 1 + 0x1.8p-24, -0.0, 1e300, -INFINITY, NAN};
  const std::vector<float> to = converted("F64", from);
  EXPECT_EQ(to[0], 1.5f);
  EXPECT_EQ(to[1], 1.0f);
  EXPECT_EQ(to[2], 1 + 0x1p-23f);
  EXPECT_TRUE(same_bits(to[3], -0.0f));
  EXPECT_EQ(to[4], inf);
  EXPECT_EQ(to[5], -inf);
  EXPECT_TRUE(std::isnan(to[6]));
}

TEST(Safetensors, OtherTypesHaveBytesOnly) {
  const TemporaryFolder folder;
  const std::string header = "{" + entry("i", "I64", "2", "0,16") + "," +
                             entry("b", "BOOL", "3", "16,19") + "," +
                             entry("f", "F32", "1", "19,23") + "}";  // not aligned
  const std::string path = folder.put("f", file_of(header, 23));
  const Safetensors file(path);
  EXPECT_EQ(file.bytes(*file.find("i")).size(), 16u);
  EXPECT_EQ(file.bytes(*file.find("b")).size(), 3u);
  EXPECT_EQ(read_all(file, "f"), std::vector<float>{0});
  EXPECT_EQ(error_of([&] { read_all(file, "i"); }),
            path + ": \"i\": expected a tensor of F32, BF16, F16 or F64, found I64");
}

TEST(Safetensors, TakesEveryOrderOfTheHeader) {
  const TemporaryFolder folder;
  const std::string header = "{" + entry("last", "F32", "1", "8,12") + "," +
                             entry("empty", "F32", "0", "4,4") + "," +
                             entry("middle", "F32", "1", "4,8") + R"(,"__metadata__":{})" + "," +
                             entry("first", "F32", "1", "0,4") + "}   ";
  const Safetensors file(folder.put("f", file_of(header, 12)));
  std::vector<std::string> names;
  for (const TensorInfo& info : file.tensors()) names.push_back(info.name);
  EXPECT_EQ(names, (std::vector<std::string>{"first", "empty", "middle", "last"}));
}

TEST(Safetensors, RefusesHostileHeaders) {
  struct Case {
    std::string file, says;
  };
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets, size_t data) {
    return file_of("{" + entry("x", dtype, shape, offsets) + "}", data);
  };
  const auto two = [](const std::string& a, const std::string& b, size_t data) {
    return file_of("{" + entry("a", "U8", "4", a) + "," + entry("b", "U8", "4", b) + "}", data);
  };
  const std::string good = one("F32", "2", "0,8", 8);
  const std::vector<Case> cases = {
      // The file around the header.
      {"", ": not a safetensors file: 0 bytes long"},
      {"1234567", ": not a safetensors file: 7 bytes long"},
      {bytes_of(0), ": not a safetensors file: no JSON object"},
      {bytes_of(1), ": truncated: a header of 1 bytes in a file of 8"},
      {bytes_of(UINT64_MAX) + "{}",
       ": not a safetensors file: a header of 18446744073709551615 bytes"},
      {bytes_of(UINT64_MAX - 7) + "{}", "a header of 18446744073709551608 bytes"},
      {bytes_of(100'000'001) + "{}", "a header of 100000001 bytes, at most 100000000 are read"},
      {bytes_of(100'000'000) + "{}", ": truncated: a header of 100000000 bytes in a file of 10"},
      {bytes_of(3) + "{}", ": truncated: a header of 3 bytes in a file of 10"},
      {good.substr(0, 20), ": truncated: a header of"},
      {good.substr(0, good.size() - 1),
       ": truncated: the tensors need 8 bytes of data, the file has 7"},
      {good + "x",
       ": bytes that belong to no tensor: the tensors need 8 bytes of data, the file has 9"},
      {"PK\3\4 a zip file and no tensors", ": not a safetensors file: a header of"},
      {file_of("{}", 1), ": bytes that belong to no tensor"},
      // The JSON.
      {file_of("", 0), ": not a safetensors file"},
      {file_of("[]", 0), ": not a safetensors file: no JSON object"},
      {file_of(" {}", 0), ": not a safetensors file: no JSON object"},
      {file_of("\xEF\xBB\xBF{}", 0), ": not a safetensors file: no JSON object"},
      {file_of("{", 0), "invalid JSON"},
      {file_of("{}x", 0), "invalid JSON"},
      {file_of("{}\0"s, 0), "a zero byte at offset 2"},
      {file_of("{\"\xFF\":1}", 0), "invalid JSON"},
      {file_of("{\"x\":" + std::string(99'000, '['), 0), "nested deeper than 64"},
      {file_of("{" + entry("x", "U8", "0", "0,0") + "," + entry("x", "U8", "0", "0,0") + "}", 0),
       ": key \"x\" twice in one object"},
      {file_of(R"({"__metadata__":{},"__metadata__":{}})", 0),
       ": key \"__metadata__\" twice in one object"},
      {file_of(R"({"x":{"dtype":"U8","dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0),
       ": key \"dtype\" twice in one object"},
      // The members.
      {file_of(R"({"x":7})", 0), "\"x\": dtype: expected an object with this key, found 7"},
      {file_of(R"({"x":null})", 0), "\"x\": dtype: expected an object with this key, found null"},
      {file_of(R"({"x":{}})", 0), "\"x\": dtype: missing"},
      {file_of(R"({"x":{"dtype":"F32"}})", 0), "\"x\": shape: missing"},
      {file_of(R"({"x":{"dtype":"F32","shape":[]}})", 4), "\"x\": data_offsets: missing"},
      {file_of(R"({"x":{"dtype":3,"shape":[],"data_offsets":[0,4]}})", 4),
       "\"x\": dtype: expected a string, found 3"},
      {file_of(R"({"a\nb":{"dtype":3}})", 0), R"("a\nb": dtype: expected a string)"},
      {one("F31", "1", "0,4", 4), "dtype: expected F32, BF16 or another known type, found \"F31\""},
      {one("f32", "1", "0,4", 4), "dtype: expected F32"},
      {one("", "1", "0,4", 4), "dtype: expected F32"},
      {file_of(R"({"x":{"dtype":"F32","shape":4,"data_offsets":[0,4]}})", 4),
       "shape: expected a list of integers, found 4"},
      {file_of(R"({"x":{"dtype":"F32","shape":{"0":1},"data_offsets":[0,4]}})", 4),
       "shape: expected a list of integers, found an object"},
      {file_of(R"({"__metadata__":[]})", 0), "\"__metadata__\": expected an object of strings"},
      {file_of(R"({"__metadata__":null})", 0), "\"__metadata__\": expected an object of strings"},
      {file_of(R"({"__metadata__":{"a":1}})", 0), "\"__metadata__\": \"a\": expected a string"},
      {file_of(R"({"__metadata__":{"a":{"b":"c"}}})", 0), "\"a\": expected a string"},
      // Shapes.
      {one("F32", "-1", "0,4", 4),
       "shape: expected integers from 0 to 9223372036854775807, found -1"},
      {one("F32", "-2,-2", "0,16", 16), "found -2"},
      {one("F32", "1.0", "0,4", 4),
       "shape: expected integers from 0 to 9223372036854775807, found 1.0"},
      {one("F32", "\"1\"", "0,4", 4), "found \"1\""},
      {one("F32", "[1]", "0,4", 4), "found a list"},
      {one("F32", "true", "0,4", 4), "found true"},
      {one("F32", "null", "0,4", 4), "found null"},
      {one("F32", "1e3", "0,4000", 4000), "found 1000.0"},
      {one("F32", "9223372036854775808", "0,4", 4), "found 9223372036854775808"},
      {one("F32", "99999999999999999999", "0,4", 4), "found 1e+20"},
      {one("F32", "1e999", "0,4", 4), "number overflow"},
      {one("F32", "9223372036854775807", "0,4", 4), "shape: more bytes than 64 bits count"},
      {one("F32", "4611686018427387905", "0,4", 4), "shape: more bytes than 64 bits count"},
      {one("U8", "4294967296,4294967296", "0,0", 0), "shape: more bytes than 64 bits count"},
      {one("U8", "4294967296,4294967297", "0,4294967296", 0), "more bytes than 64 bits count"},
      {one("U8", "4294967296,4294967296,0", "0,0", 0), "shape: more bytes than 64 bits count"},
      {one("F32", "2", "0,4", 4), "data_offsets: 4 bytes, but type and shape need 8"},
      {one("F32", "", "0,8", 8), "data_offsets: 8 bytes, but type and shape need 4"},
      {one("F32", "0", "0,4", 4), "data_offsets: 4 bytes, but type and shape need 0"},
      {one("F64", "1", "0,4", 4), "data_offsets: 4 bytes, but type and shape need 8"},
      // Offsets.
      {one("U8", "4", "", 4), "data_offsets: expected the begin and the end of the data"},
      {one("U8", "4", "4", 4), "data_offsets: expected the begin and the end of the data"},
      {one("U8", "4", "0,4,4", 4), "data_offsets: expected the begin and the end of the data"},
      {one("U8", "4", "4,0", 4), "data_offsets: expected the begin and the end of the data"},
      {one("U8", "4", "-4,0", 4), "data_offsets: expected integers"},
      {one("U8", "4", "0,4.0", 4), "data_offsets: expected integers"},
      {one("U8", "4", "18446744073709551612,18446744073709551616", 4), "data_offsets: expected"},
      {one("U8", "4", "9223372036854775803,9223372036854775807", 4), "leaves a hole"},
      {one("U8", "4", "4,8", 4), "leaves a hole: begins at 4, expected 0"},
      {one("U8", "8", "0,8", 4), ": truncated: the tensors need 8 bytes of data, the file has 4"},
      {one("U8", "1000000000000", "0,1000000000000", 4),
       ": truncated: the tensors need 1000000000000"},
      {one("U8", "9223372036854775807", "0,9223372036854775807", 4), ": truncated"},
      {two("0,4", "5,9", 9), "\"b\": data_offsets: leaves a hole: begins at 5, expected 4"},
      {two("4,8", "9,13", 13), "\"a\": data_offsets: leaves a hole: begins at 4, expected 0"},
      {two("0,4", "3,7", 7),
       "\"b\": data_offsets: overlaps another tensor: begins at 3, expected 4"},
      {two("2,6", "0,4", 6),
       "\"a\": data_offsets: overlaps another tensor: begins at 2, expected 4"},
      {two("0,4", "0,4", 4), "overlaps another tensor: begins at 0, expected 4"},
      {two("0,4", "0,4", 8), "overlaps another tensor: begins at 0, expected 4"},
      {two("0,4", "4,8", 4), ": truncated: the tensors need 8 bytes of data, the file has 4"},
      {file_of("{" + entry("a", "U8", "4", "0,4") + "," + entry("b", "U8", "0", "2,2") + "}", 4),
       "overlaps another tensor"},
      {file_of("{" + entry("a", "U8", "4", "0,4") + "," + entry("b", "U8", "0", "9,9") + "}", 4),
       "leaves a hole"},
  };
  const TemporaryFolder folder;
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string path = folder.put("f", cases[i].file);
    const std::string error = error_of([&] { Safetensors file(path); });
    EXPECT_TRUE(error.starts_with(path + ": ")) << i << ": " << error;
    EXPECT_NE(error.find(cases[i].says), error.npos) << i << ": " << error;
    EXPECT_EQ(error.find('\n'), error.npos) << i << ": " << error;
  }
  EXPECT_NO_THROW(Safetensors(folder.put("f", good)));
  EXPECT_THROW(Safetensors(folder / "none"), Error);
  EXPECT_THROW(Safetensors(folder.path()), Error);
}

TEST(Safetensors, BoundsWhatOneEntryIsMadeOf) {
  const TemporaryFolder folder;
  std::string ones = "1", pairs = "\"0\":\"\"";
  for (int i = 1; i < 70'000; ++i) {
    ones += ",1";
    pairs += fmt::format(",\"{}\":\"\"", i);
  }
  for (const std::string& header :
       {"{" + entry("x", "U8", ones, "0,1") + "}", "{\"__metadata__\":{" + pairs + "}}",
        "{\"x\":[" + ones + "]}"}) {
    const std::string path = folder.put("f", file_of(header, 1));
    EXPECT_EQ(error_of([&] { Safetensors file(path); }), path + ": more than 65536 JSON values");
  }
  // In order, out of order, with names that are sorted otherwise than the data.
  const std::string path = folder.put(
      "f", file_of("{" + entry("b", "U8", "1", "2,3") + "," + entry("c", "U8", "2", "0,2") + "," +
                       entry("a", "U8", "0", "0,0") + "}",
                   3));
  const Safetensors file(path);
  std::string names;
  for (const TensorInfo& info : file.tensors()) {
    names += info.name;
    EXPECT_EQ(file.find(info.name), &info);
  }
  EXPECT_EQ(names, "acb");
  for (const char* absent : {"", "0", "aa", "bb", "d"}) EXPECT_EQ(file.find(absent), nullptr);
}

// Whatever is done to a valid file: an Error, or tensors that can all be read.
TEST(Safetensors, MutatedFilesNeverDoHarm) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},)" + entry("a", "F32", "2,3", "0,24") + "," +
      entry("b", "BF16", "4", "24,32") + "," + entry("c", "F16", "", "32,34") + "," +
      entry("d", "F64", "0,7", "34,34") + "," + entry("e", "F64", "1,1", "34,42") + "}";
  const std::vector<std::string> numbers = {"0",
                                            "1",
                                            "-1",
                                            "2",
                                            "8",
                                            "24",
                                            "34",
                                            "42",
                                            "4294967296",
                                            "2147483648",
                                            "9223372036854775807",
                                            "9223372036854775808",
                                            "18446744073709551615",
                                            "18446744073709551616",
                                            "1e3",
                                            "1e308",
                                            "0.5",
                                            "null",
                                            "[]",
                                            "\"F64\"",
                                            "{}"};
  const TemporaryFolder folder;
  Random random(mix_key(1, "safetensors mutations"));
  int accepted = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string text = header;
    for (uint64_t n = 1 + random.below(2); n > 0 && !text.empty(); --n) {
      size_t at = random.below(text.size());
      switch (random.below(5)) {
        case 0:
          text[at] = static_cast<char>(text[at] ^ 1 << random.below(8));
          break;
        case 1:
          text.erase(at, 1 + random.below(20));
          break;
        case 2:
          text.insert(at, text.substr(random.below(text.size()), random.below(60)));
          break;
        case 3:
          text[at] = static_cast<char>(' ' + random.below(95));
          break;
        default:  // another number in place of one that is there
          at = std::min(text.find_first_of("0123456789", at), text.size());
          text.replace(at, std::min(text.find_first_not_of("0123456789", at), text.size()) - at,
                       numbers[random.below(numbers.size())]);
      }
    }
    std::string bytes = file_of(text, 42);
    if (random.below(16) == 0) bytes[random.below(8)] = static_cast<char>(random.below(256));
    if (random.below(16) == 0) bytes.resize(random.below(bytes.size() + 8));
    const std::string path = folder.put("f", bytes);
    try {
      const Safetensors file(path);
      size_t end = 0;
      for (const TensorInfo& info : file.tensors()) {
        ASSERT_EQ(file.bytes(info).size(), info.end - info.begin);
        ASSERT_EQ(info.begin, end);
        end = info.end;
        if (info.dtype[0] == 'F' || info.dtype[0] == 'B') {
          try {
            read_all(file, info.name);
          } catch (const Error&) {  // BOOL, F8_E4M3
          }
        }
      }
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 30);
  EXPECT_LT(accepted, 4000);
}

}  // namespace
}  // namespace refrain::io

// Blocks of GGUF files against what Python's `gguf` package makes of them
// (tools/make_golden_gguf.py).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "refrain/formats/gguf/blocks.h"
#include "refrain/io/safetensors.h"

#ifndef REFRAIN_GOLDEN
#error "REFRAIN_GOLDEN names the folder of golden files"
#endif

namespace refrain {
namespace {

using io::GgufType;

const std::map<std::string, GgufType> kTypes = {
    {"F32", GgufType::kF32},   {"F16", GgufType::kF16},   {"BF16", GgufType::kBf16},
    {"Q8_0", GgufType::kQ8_0}, {"Q4_0", GgufType::kQ4_0}, {"Q4_1", GgufType::kQ4_1},
    {"Q5_0", GgufType::kQ5_0}, {"Q5_1", GgufType::kQ5_1}, {"Q4_K", GgufType::kQ4_K},
    {"Q5_K", GgufType::kQ5_K}, {"Q6_K", GgufType::kQ6_K},
};

class GgufBlocks : public ::testing::Test {
 protected:
  std::vector<std::byte> bytes(const std::string& name) const {
    return golden_.bytes(*golden_.find(name));
  }
  std::vector<float> numbers(const std::string& name) const {
    const io::TensorInfo& info = *golden_.find(name);
    std::vector<float> values(static_cast<size_t>(info.size()));
    golden_.read(info, values);
    return values;
  }

 private:
  io::Safetensors golden_{std::string(REFRAIN_GOLDEN) + "/gguf_blocks.safetensors"};
};

TEST_F(GgufBlocks, HaveTheNumbersThatTheyHaveInPython) {
  for (const auto& [name, type] : kTypes) {
    ASSERT_TRUE(is_readable(type)) << name;
    const std::vector<float> expected = numbers("read " + name + " numbers");
    std::vector<float> found(expected.size());
    dequantise(type, bytes("read " + name + " blocks"), found);
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(found[i], expected[i]) << name << i;
  }
}

TEST_F(GgufBlocks, AreWrittenAsPythonWritesThem) {
  const std::vector<float> values = numbers("write numbers");
  for (const char* name : {"F32", "F16", "BF16", "Q8_0", "Q4_0"}) {
    const std::vector<std::byte> expected = bytes(std::string("write ") + name + " blocks");
    std::vector<std::byte> found(expected.size());
    quantise(kTypes.at(name), values, found);
    EXPECT_EQ(found, expected) << name;
  }
}

// What is packed without being rounded again has the same numbers.
TEST_F(GgufBlocks, KeepTheirNumbersInPanels) {
  constexpr int64_t K = 64, N = 2;
  const auto unpacked = [&](Storage type, const std::vector<std::byte>& panel) {
    std::vector<float> rows(N * K);
    kernels::unpack({type, panel.data()}, {rows.data(), {N, K}});
    return rows;
  };
  for (const char* name : {"Q8_0", "Q4_0", "Q4_1"}) {
    const GgufType type = kTypes.at(name);
    const size_t each = io::gguf_type_info(type).bytes, blocks = N * K / 32;
    std::vector<std::byte> from = bytes(std::string("read ") + name + " blocks");
    from.resize(blocks * each);
    const Storage stored = type == GgufType::kQ8_0 ? Storage::kQ8_0 : Storage::kQ4;
    std::vector<std::byte> panel(kernels::packed_bytes(stored, N, K));
    if (stored == Storage::kQ8_0) {
      std::vector<kernels::Q8Block> read(blocks);
      read_blocks(type, from, read);
      kernels::pack_blocks(std::span<const kernels::Q8Block>(read), K, panel.data());
    } else {
      std::vector<kernels::Q4Block> read(blocks);
      read_blocks(type, from, read);
      kernels::pack_blocks(std::span<const kernels::Q4Block>(read), K, panel.data());
    }
    std::vector<float> expected(N * K);
    dequantise(type, from, expected);
    EXPECT_EQ(unpacked(stored, panel), expected) << name;
  }
}

TEST_F(GgufBlocks, WhatIsNotFiniteIsNotHidden) {
  std::vector<float> values(32, 1);
  values[7] = std::nanf("");
  for (const char* name : {"Q8_0", "Q4_0"}) {
    std::vector<std::byte> block(io::gguf_type_info(kTypes.at(name)).bytes);
    values[8] = std::numeric_limits<float>::infinity();
    quantise(kTypes.at(name), values, block);
    std::vector<float> found(32);
    dequantise(kTypes.at(name), block, found);
    EXPECT_FALSE(std::isfinite(found[8])) << name;
  }
  EXPECT_FALSE(is_readable(GgufType{10}));  // Q2_K
}

}  // namespace
}  // namespace refrain

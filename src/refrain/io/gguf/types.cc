#include <algorithm>
#include <array>

#include "refrain/base/error.h"
#include "refrain/io/gguf/layout.h"

namespace refrain::io {
namespace {

// All types that the format has, so that an error can name one that is not read.
constexpr auto kTypes = std::to_array<GgufTypeInfo>({
    {GgufType::kF32, "F32", 1, 4},       {GgufType::kF16, "F16", 1, 2},
    {GgufType::kQ4_0, "Q4_0", 32, 18},   {GgufType::kQ4_1, "Q4_1", 32, 20},
    {GgufType::kQ5_0, "Q5_0", 32, 22},   {GgufType::kQ5_1, "Q5_1", 32, 24},
    {GgufType::kQ8_0, "Q8_0", 32, 34},   {GgufType{9}, "Q8_1", 32, 36},
    {GgufType{10}, "Q2_K", 256, 84},     {GgufType{11}, "Q3_K", 256, 110},
    {GgufType::kQ4_K, "Q4_K", 256, 144}, {GgufType::kQ5_K, "Q5_K", 256, 176},
    {GgufType::kQ6_K, "Q6_K", 256, 210}, {GgufType{15}, "Q8_K", 256, 292},
    {GgufType{16}, "IQ2_XXS", 256, 66},  {GgufType{17}, "IQ2_XS", 256, 74},
    {GgufType{18}, "IQ3_XXS", 256, 98},  {GgufType{19}, "IQ1_S", 256, 50},
    {GgufType{20}, "IQ4_NL", 32, 18},    {GgufType{21}, "IQ3_S", 256, 110},
    {GgufType{22}, "IQ2_S", 256, 82},    {GgufType{23}, "IQ4_XS", 256, 136},
    {GgufType{24}, "I8", 1, 1},          {GgufType{25}, "I16", 1, 2},
    {GgufType{26}, "I32", 1, 4},         {GgufType{27}, "I64", 1, 8},
    {GgufType{28}, "F64", 1, 8},         {GgufType{29}, "IQ1_M", 256, 56},
    {GgufType::kBf16, "BF16", 1, 2},     {GgufType{34}, "TQ1_0", 256, 54},
    {GgufType{35}, "TQ2_0", 256, 66},    {GgufType{39}, "MXFP4", 32, 17},
    {GgufType{40}, "NVFP4", 64, 36},     {GgufType{41}, "Q1_0", 128, 18},
});

}  // namespace

const GgufTypeInfo* find_gguf_type(uint32_t id) {
  const auto found = std::ranges::find(kTypes, GgufType{id}, &GgufTypeInfo::type);
  return found == kTypes.end() ? nullptr : &*found;
}

const GgufTypeInfo& gguf_type_info(GgufType type) {
  const GgufTypeInfo* info = find_gguf_type(static_cast<uint32_t>(type));
  REFRAIN_CHECK(info != nullptr);
  return *info;
}

size_t GgufTensor::row_bytes() const {
  const GgufTypeInfo& info = gguf_type_info(type);
  return static_cast<size_t>(row_size() / info.numbers) * info.bytes;
}

}  // namespace refrain::io

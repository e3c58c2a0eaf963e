// safetensors files: [u64 little-endian header length][JSON header][tensor bytes].
//
// The header maps names to {dtype, shape, data_offsets}, and "__metadata__" to strings. A file is
// checked whole when it is opened, so reading cannot fail: header length against file size, types,
// shapes against byte counts (with overflow), offsets in range, no overlap, no holes. Little of the
// header stays in memory; a header that was made to be large takes a few times its bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/io/input_file.h"

namespace refrain::io {

struct TensorInfo {
  std::string name;
  std::string_view dtype;  // "F32", "BF16", "F16", "F64", "I64", ...
  std::vector<int64_t> shape;
  size_t begin = 0, end = 0;  // bytes, from the start of the data

  int64_t size() const;  // elements
};

class Safetensors {
 public:
  explicit Safetensors(const std::string& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // by offset
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorInfo* find(const std::string& name) const;  // null when absent
  std::vector<std::byte> bytes(const TensorInfo&) const;
  void read_bytes(const TensorInfo&, std::span<std::byte> to) const;  // of any type, as it is
  // The tensor as float32 (from F32, BF16, F16 or F64, the last rounded to nearest); `to` has its
  // size. Error on other types.
  void read(const TensorInfo&, std::span<float> to) const;
  // The elements from `first` on, as many as `to` has room for.
  void read(const TensorInfo&, int64_t first, std::span<float> to) const;
  const std::string& path() const { return file_.name(); }

 private:
  void read_part(const TensorInfo&, std::span<const std::byte> from, std::span<float> to) const;

  InputFile file_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> by_name_;  // places in tensors_
  std::map<std::string, std::string> metadata_;
  size_t data_ = 0;  // where tensor bytes start in the file
};

// A tensor to be written: float32 as F32 or rounded to BF16 or F16, or bytes as any type. An Error
// where a number is not in F16's range.
struct TensorToWrite {
  std::string name;
  std::vector<int64_t> shape;
  const float* data = nullptr;
  std::string_view dtype = "F32";
  const std::byte* bytes = nullptr;
  // In the place of data: makes the numbers when they are written, one tensor after another.
  std::function<std::vector<float>()> make{};
};
int64_t tensor_bytes(const TensorToWrite&);  // in the file

// Writes tensors in the order given; the same tensors and metadata give the same bytes.
// Data starts 64-byte aligned (header padded with spaces). Durable and atomic (AtomicFile).
void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace refrain::io

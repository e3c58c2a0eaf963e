// GGUF, the files of llama.cpp: typed keys, then tensors whose numbers stand in blocks. Little
// endian:
//
//   0  "GGUF", u32 version (3; 2 is the same), u64 tensors, u64 keys
//      per key: string name, u32 type, value
//      per tensor: string name, u32 dimensions, u64 sizes (the fastest first), u32 type, u64 offset
//      zeros up to a multiple of general.alignment (32), where offsets count from; the tensors
//
// A string is a u64 length and bytes; an array a u32 type, a u64 count and the values. A file is
// checked whole when it is opened: counts and lengths against its size, names that occur twice,
// types, sizes (with overflow), offsets in range, no overlap. So reading a tensor cannot fail.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "refrain/io/input_file.h"

namespace refrain::io {

enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBf16 = 30
};

// How numbers are stored: so many of a row in so many bytes. There are more types than those above.
struct GgufTypeInfo {
  GgufType type;
  std::string_view name;
  int64_t numbers;
  size_t bytes;
};
const GgufTypeInfo& gguf_type_info(GgufType);  // of a known type

struct GgufTensor {
  std::string name;
  GgufType type;
  std::vector<int64_t> shape;  // the slowest first, as everywhere here
  size_t offset = 0, bytes = 0;

  int64_t row_size() const { return shape.back(); }
  size_t row_bytes() const;
};

// Integers, numbers of floating point, truth, text, and lists of them. A u64 that an int64 cannot
// hold is a double; a list of truths has numbers; a float32 is the double of its shortest decimals.
using GgufValue = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;
using GgufKeys = std::vector<std::pair<std::string, GgufValue>>;

// Whether a path is a file of this kind, by its first bytes or its name's end; what is no regular
// file is not.
bool is_gguf(const std::string& path);

class Gguf {
 public:
  explicit Gguf(const std::string& path);

  const std::string& path() const { return file_.name(); }

  const std::map<std::string, GgufValue>& keys() const { return keys_; }
  // A key's value; null when it is absent.
  const GgufValue* find(const std::string& key) const;
  // An absent key gives `absent`, or is an Error if there is no `absent`; another type is an Error.
  int64_t get_int(const std::string& key, int64_t low, int64_t high,
                  std::optional<int64_t> absent = {}) const;
  double get_number(const std::string& key, std::optional<double> absent = {}) const;
  bool get_bool(const std::string& key, std::optional<bool> absent = {}) const;
  std::string get_string(const std::string& key, std::optional<std::string> absent = {}) const;
  // Null when absent.
  const std::vector<std::string>* find_strings(const std::string& key) const;
  const std::vector<int64_t>* find_ints(const std::string& key) const;
  const std::vector<double>* find_numbers(const std::string& key) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // by offset
  const GgufTensor* find_tensor(const std::string& name) const;        // null when absent
  // Whole blocks, from the byte `first` of the tensor on.
  void read(const GgufTensor&, size_t first, std::span<std::byte> to) const;

 private:
  class Header;
  void read_tensors(Header& header, uint64_t count);

  InputFile file_;
  std::map<std::string, GgufValue> keys_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, const GgufTensor*> by_name_;
  size_t data_ = 0;  // where offsets count from
};

// A tensor to be written: write() gives its bytes, in pieces, in order.
struct GgufTensorToWrite {
  std::string name;
  GgufType type;
  std::vector<int64_t> shape;
  std::function<void(const std::function<void(std::span<const std::byte>)>& put)> write;
};

// Version 3. Integers are written as u32 (of a list, i32), numbers as f32. Keys and tensors stand
// in the order given; the same ones give the same bytes. Durable and atomic (AtomicFile).
void write_gguf(const std::string& path, const GgufKeys& keys,
                std::span<const GgufTensorToWrite> tensors);

}  // namespace refrain::io

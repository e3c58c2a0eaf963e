#include <limits>

#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/gguf/layout.h"

namespace refrain::io {
namespace {

using namespace gguf_value;

// The bytes of a header.
class HeaderText {
 public:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void string(std::string_view text) {
    number(uint64_t{text.size()});
    bytes_ += text;
  }
  void value(const GgufValue& value) {
    std::visit([this](const auto& v) { put(v); }, value);
  }
  void fill(size_t alignment) { bytes_.resize(gguf_align(bytes_.size(), alignment)); }
  const std::string& bytes() const { return bytes_; }

 private:
  void put(int64_t v) {
    REFRAIN_CHECK(v >= 0 && v <= std::numeric_limits<uint32_t>::max());
    number(uint32_t{kU32});
    number(static_cast<uint32_t>(v));
  }
  void put(double v) {
    number(uint32_t{kF32});
    number(static_cast<float>(v));
  }
  void put(bool v) {
    number(uint32_t{kBool});
    number(static_cast<uint8_t>(v));
  }
  void put(const std::string& v) {
    number(uint32_t{kString});
    string(v);
  }
  void begin_array(uint32_t type, size_t n) {
    number(uint32_t{kArray});
    number(type);
    number(uint64_t{n});
  }
  void put(const std::vector<int64_t>& v) {
    begin_array(kI32, v.size());
    for (const int64_t n : v) number(static_cast<int32_t>(n));
  }
  void put(const std::vector<double>& v) {
    begin_array(kF32, v.size());
    for (const double n : v) number(static_cast<float>(n));
  }
  void put(const std::vector<std::string>& v) {
    begin_array(kString, v.size());
    for (const std::string& text : v) string(text);
  }

  std::string bytes_;
};

size_t bytes_of(const GgufTensorToWrite& tensor) {
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  int64_t numbers = 1;
  for (const int64_t size : tensor.shape) numbers *= size;
  REFRAIN_CHECK(tensor.shape.back() % info.numbers == 0);
  return static_cast<size_t>(numbers / info.numbers) * info.bytes;
}

}  // namespace

void write_gguf(const std::string& path, const GgufKeys& keys,
                std::span<const GgufTensorToWrite> tensors) {
  HeaderText header;
  for (const char c : kGgufMagic) header.number(c);
  header.number(kGgufVersion);
  header.number(uint64_t{tensors.size()});
  header.number(uint64_t{keys.size()});
  for (const auto& [key, value] : keys) {
    header.string(key);
    header.value(value);
  }
  size_t offset = 0;
  for (const GgufTensorToWrite& tensor : tensors) {
    header.string(tensor.name);
    header.number(static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
      header.number(static_cast<uint64_t>(*size));
    header.number(static_cast<uint32_t>(tensor.type));
    header.number(uint64_t{offset});
    offset = gguf_align(offset + bytes_of(tensor), kGgufAlignment);
  }
  header.fill(kGgufAlignment);

  AtomicFile file(path);
  file.write(header.bytes());
  for (const GgufTensorToWrite& tensor : tensors) {
    size_t written = 0;
    tensor.write([&](std::span<const std::byte> bytes) {
      file.write(bytes);
      written += bytes.size();
    });
    REFRAIN_CHECK(written == bytes_of(tensor));
    file.write(std::string(gguf_align(written, kGgufAlignment) - written, '\0'));
  }
  file.commit();
}

}  // namespace refrain::io

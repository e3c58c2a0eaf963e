// The bytes of GGUF files, right or wrong.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace refrain {

class GgufBytes {
 public:
  explicit GgufBytes(uint64_t tensors = 0, uint64_t keys = 0, uint32_t version = 3) {
    bytes_ = "GGUF";
    number(version).number(tensors).number(keys);
  }
  template <class T>
  GgufBytes& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufBytes& text(std::string_view text) {
    number(uint64_t{text.size()});
    bytes_ += text;
    return *this;
  }
  // A key and the type of its value, which follows.
  GgufBytes& key(std::string_view name, uint32_t type) { return text(name).number(type); }
  GgufBytes& tensor(std::string_view name, const std::vector<uint64_t>& sizes, uint32_t type,
                    uint64_t offset) {
    text(name).number(static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) number(size);
    return number(type).number(offset);
  }
  // Up to the data, and so many bytes of it.
  GgufBytes& data(size_t count, size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    bytes_.append(count, '\1');
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace refrain

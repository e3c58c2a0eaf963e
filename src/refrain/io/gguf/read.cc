#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <type_traits>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/io/gguf/gguf.h"
#include "refrain/io/gguf/layout.h"
#include "refrain/io/json.h"

namespace refrain::io {
namespace {

static_assert(std::endian::native == std::endian::little);  // bytes are used as they are

using namespace gguf_value;

// Many times what the largest vocabularies take: a limit on the memory that a file can ask for.
constexpr size_t kMaxHeader = size_t{1} << 28;
constexpr size_t kMaxName = 256;
constexpr int64_t kMaxAlignment = int64_t{1} << 16;
constexpr const char* kAlignmentKey = "general.alignment";

constexpr std::array<size_t, 13> kValueBytes = {1, 1, 2,  2, 4, 4, 4,
                                                1, 8, 12, 8, 8, 8};  // at least

// 1e-05, where the float32 nearest to it widens to 9.999999747378752e-06.
double shortest(float x) {
  if (!std::isfinite(x)) return x;
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), x).ptr;
  double wide = 0;
  std::from_chars(text.data(), end, wide);
  return wide;
}

// What a value is, in errors.
std::string describe(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>)
          return quote(v);
        else if constexpr (std::is_arithmetic_v<T>)
          return fmt::format("{}", v);
        else
          return "a list";
      },
      value);
}

}  // namespace

bool is_gguf(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  if (path.ends_with(".gguf")) return true;
  std::array<char, 4> magic{};
  try {
    const InputFile file(path);
    if (file.size() < magic.size()) return false;
    file.read(0, std::as_writable_bytes(std::span(magic)));
  } catch (const Error&) {
    return false;
  }
  return std::string_view(magic.data(), magic.size()) == kGgufMagic;
}

// Reads the file from its start, a part of it in memory at a time.
class Gguf::Header {
 public:
  explicit Header(const InputFile& file) : file_(file) {}

  size_t at() const { return at_; }
  size_t left() const { return std::min(file_.size(), kMaxHeader) - at_; }

  template <class T>
  T number(std::string_view what) {
    need(sizeof(T), what);
    T value;
    take(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  std::string string(std::string_view what) {
    const auto length = number<uint64_t>(what);
    need(length, what);
    std::string text(length, '\0');
    take(std::as_writable_bytes(std::span(text)));
    return text;
  }
  // How many things of `each` bytes or more follow.
  uint64_t count(size_t each, std::string_view what) {
    const auto n = number<uint64_t>(what);
    check_count(n, each, what);
    return n;
  }
  void check_count(uint64_t n, size_t each, std::string_view what) const {
    if (n > left() / each)
      throw_error("{}: {}: {} of them, but only {} bytes follow", file_.name(), what, n, left());
  }

  GgufValue value(const std::string& key) {
    const auto type = number<uint32_t>(key);
    if (type == kArray) return array(key);
    return scalar(type, key);
  }

 private:
  void need(uint64_t bytes, std::string_view what) const {
    if (bytes <= left()) return;
    if (file_.size() > kMaxHeader && bytes <= file_.size() - at_)
      throw_error("{}: {}: keys and names of more than {} bytes together", file_.name(), what,
                  kMaxHeader);
    throw_error("{}: {}: {} bytes, but only {} follow", file_.name(), what, bytes, left());
  }
  void take(std::span<std::byte> to) {
    while (!to.empty()) {
      if (at_ - buffer_at_ == buffer_.size()) {
        constexpr size_t kPart = size_t{1} << 16;
        buffer_.resize(std::min(kPart, file_.size() - at_));
        file_.read(at_, buffer_);
        buffer_at_ = at_;
      }
      const size_t n = std::min(to.size(), buffer_.size() - (at_ - buffer_at_));
      std::memcpy(to.data(), buffer_.data() + (at_ - buffer_at_), n);
      to = to.subspan(n);
      at_ += n;
    }
  }

  int64_t integer(uint32_t type, const std::string& key) {
    switch (type) {
      case kU8:
        return number<uint8_t>(key);
      case kI8:
        return number<int8_t>(key);
      case kU16:
        return number<uint16_t>(key);
      case kI16:
        return number<int16_t>(key);
      case kU32:
        return number<uint32_t>(key);
      case kI32:
        return number<int32_t>(key);
      default:
        return number<int64_t>(key);
    }
  }
  bool truth(const std::string& key) {
    const auto byte = number<uint8_t>(key);
    if (byte > 1) throw_error("{}: {}: expected 0 or 1, found {}", file_.name(), quote(key), byte);
    return byte == 1;
  }
  double real(uint32_t type, const std::string& key) {
    return type == kF32 ? shortest(number<float>(key)) : number<double>(key);
  }

  GgufValue scalar(uint32_t type, const std::string& key) {
    if (type == kString) return string(key);
    if (type == kBool) return truth(key);
    if (type == kF32 || type == kF64) return real(type, key);
    if (type >= kValueBytes.size()) refuse_type(type, key);
    const int64_t n = integer(type, key);
    if (type == kU64 && n < 0) return static_cast<double>(static_cast<uint64_t>(n));
    return n;
  }
  GgufValue array(const std::string& key) {
    const auto type = number<uint32_t>(key);
    if (type >= kValueBytes.size() || type == kArray) refuse_type(type, key);
    const uint64_t n = count(kValueBytes[type], key);
    const auto list = [&](auto next) {
      std::vector<decltype(next())> values;
      values.reserve(n);
      for (uint64_t i = 0; i < n; ++i) values.push_back(next());
      return values;
    };
    if (type == kString) return list([&] { return string(key); });
    if (type == kF32 || type == kF64) return list([&] { return real(type, key); });
    if (type == kBool) return list([&]() -> int64_t { return truth(key); });
    return list([&] { return integer(type, key); });
  }
  [[noreturn]] void refuse_type(uint32_t type, const std::string& key) const {
    throw_error(
        "{}: {}: expected a value of type 0 to 12, and in a list none that is a list, found "
        "type {}",
        file_.name(), quote(key), type);
  }

  const InputFile& file_;
  size_t at_ = 0, buffer_at_ = 0;
  std::vector<std::byte> buffer_;
};

Gguf::Gguf(const std::string& path) : file_(path) {
  Header header(file_);
  constexpr size_t kFixed = 24;
  std::array<char, 4> magic{};
  if (file_.size() >= kFixed)
    for (char& c : magic) c = header.number<char>("magic");
  if (std::string_view(magic.data(), magic.size()) != kGgufMagic)
    throw_error("{}: not a GGUF file: it does not begin with \"GGUF\" and a header", path);
  const auto version = header.number<uint32_t>("version");
  if (version != kGgufVersion && version != 2)
    throw_error("{}: expected GGUF of version 2 or 3, found {}", path,
                version == 0x03000000 ? "one whose bytes stand in the other order"
                                      : fmt::format("version {}", version));
  const auto tensors = header.number<uint64_t>("number of tensors");
  // A name, a dimension, its size, type and offset; a name, a type and a byte.
  header.check_count(tensors, 8 + 4 + 8 + 4 + 8, "number of tensors");
  const uint64_t keys = header.count(8 + 4 + 1, "number of keys");
  for (uint64_t i = 0; i < keys; ++i) {
    const std::string key = header.string("name of a key");
    if (key.empty() || key.size() > kMaxName)
      throw_error("{}: key {}: expected a name of 1 to {} bytes, found {}", path, i, kMaxName,
                  key.size());
    if (!keys_.emplace(key, header.value(key)).second)
      throw_error("{}: key {} twice", path, quote(key));
  }
  read_tensors(header, tensors);
}

void Gguf::read_tensors(Header& header, uint64_t count) {
  const auto alignment =
      static_cast<size_t>(get_int(kAlignmentKey, 1, kMaxAlignment, kGgufAlignment));
  if (!std::has_single_bit(alignment))
    throw_error("{}: {}: expected a power of two, found {}", path(), kAlignmentKey, alignment);
  for (uint64_t i = 0; i < count; ++i) {
    GgufTensor tensor{.name = header.string("name of a tensor"), .type = {}, .shape = {}};
    const std::string where = fmt::format("{}: {}", path(), quote(tensor.name));
    if (tensor.name.empty() || tensor.name.size() > kMaxName)
      throw_error("{}: expected a name of 1 to {} bytes, found {}", where, kMaxName,
                  tensor.name.size());
    const auto rank = header.number<uint32_t>(tensor.name);
    if (rank < 1 || rank > 4) throw_error("{}: expected 1 to 4 dimensions, found {}", where, rank);
    int64_t numbers = 1;
    for (uint32_t d = 0; d < rank; ++d) {
      const auto size = header.number<uint64_t>(tensor.name);
      if (size < 1 || size > uint64_t{INT64_MAX} ||
          __builtin_mul_overflow(numbers, static_cast<int64_t>(size), &numbers))
        throw_error("{}: expected sizes of 1 or more, whose product 63 bits hold, found {}", where,
                    size);
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    }
    const auto id = header.number<uint32_t>(tensor.name);
    const GgufTypeInfo* info = find_gguf_type(id);
    if (!info) throw_error("{}: expected a known type, found type {}", where, id);
    tensor.type = info->type;
    if (tensor.row_size() % info->numbers != 0)
      throw_error("{}: expected rows of a multiple of {} numbers, as {} has them, found {}", where,
                  info->numbers, info->name, tensor.row_size());
    if (__builtin_mul_overflow(static_cast<size_t>(numbers / info->numbers), info->bytes,
                               &tensor.bytes))
      throw_error("{}: more bytes than 64 bits count", where);
    tensor.offset = header.number<uint64_t>(tensor.name);
    tensors_.push_back(std::move(tensor));
  }
  std::ranges::sort(tensors_, [](const GgufTensor& a, const GgufTensor& b) {
    return std::tie(a.offset, a.name) < std::tie(b.offset, b.name);
  });
  data_ = gguf_align(header.at(), alignment);
  const size_t room = file_.size() - std::min(file_.size(), data_);
  const GgufTensor* before = nullptr;
  for (const GgufTensor& tensor : tensors_) {
    const std::string where = fmt::format("{}: {}", path(), quote(tensor.name));
    if (!by_name_.emplace(tensor.name, &tensor).second) throw_error("{} twice", where);
    if (tensor.offset % alignment != 0)
      throw_error("{}: expected an offset that is a multiple of {}, found {}", where, alignment,
                  tensor.offset);
    if (tensor.offset > room || tensor.bytes > room - tensor.offset)
      throw_error("{}: {} bytes at {}, but the file has {} bytes of data", where, tensor.bytes,
                  tensor.offset, room);
    if (before && tensor.offset < before->offset + before->bytes)
      throw_error("{}: overlaps {}", where, quote(before->name));
    before = &tensor;
  }
}

const GgufValue* Gguf::find(const std::string& key) const {
  const auto found = keys_.find(key);
  return found == keys_.end() ? nullptr : &found->second;
}

namespace {

template <class T>
const T& typed(const Gguf& file, const std::string& key, const GgufValue& value,
               std::string_view expected) {
  if (const T* found = std::get_if<T>(&value)) return *found;
  throw_error("{}: {}: expected {}, found {}", file.path(), key, expected, describe(value));
}

template <class T>
T get(const Gguf& file, const std::string& key, std::string_view expected,
      const std::optional<T>& absent) {
  const GgufValue* value = file.find(key);
  if (value) return typed<T>(file, key, *value, expected);
  if (!absent) throw_error("{}: {}: missing, expected {}", file.path(), key, expected);
  return *absent;
}

}  // namespace

int64_t Gguf::get_int(const std::string& key, int64_t low, int64_t high,
                      std::optional<int64_t> absent) const {
  const auto expected = fmt::format("an integer from {} to {}", low, high);
  const auto found = get<int64_t>(*this, key, expected, absent);
  if (found < low || found > high)
    throw_error("{}: {}: expected {}, found {}", path(), key, expected, found);
  return found;
}
double Gguf::get_number(const std::string& key, std::optional<double> absent) const {
  const auto found = get<double>(*this, key, "a number of floating point", absent);
  if (!std::isfinite(found))
    throw_error("{}: {}: expected a finite number, found {}", path(), key, found);
  return found;
}
bool Gguf::get_bool(const std::string& key, std::optional<bool> absent) const {
  return get<bool>(*this, key, "true or false", absent);
}
std::string Gguf::get_string(const std::string& key, std::optional<std::string> absent) const {
  return get<std::string>(*this, key, "a text", absent);
}
const std::vector<std::string>* Gguf::find_strings(const std::string& key) const {
  const GgufValue* value = find(key);
  return value ? &typed<std::vector<std::string>>(*this, key, *value, "a list of texts") : nullptr;
}
const std::vector<int64_t>* Gguf::find_ints(const std::string& key) const {
  const GgufValue* value = find(key);
  return value ? &typed<std::vector<int64_t>>(*this, key, *value, "a list of integers") : nullptr;
}
const std::vector<double>* Gguf::find_numbers(const std::string& key) const {
  const GgufValue* value = find(key);
  return value ? &typed<std::vector<double>>(*this, key, *value, "a list of numbers") : nullptr;
}

const GgufTensor* Gguf::find_tensor(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

void Gguf::read(const GgufTensor& tensor, size_t first, std::span<std::byte> to) const {
  REFRAIN_CHECK(first <= tensor.bytes && to.size() <= tensor.bytes - first);
  file_.read(data_ + tensor.offset + first, to);
}

}  // namespace refrain::io

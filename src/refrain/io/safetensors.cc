#include "refrain/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <string_view>
#include <tuple>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/float16.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::io {
namespace {

static_assert(std::endian::native == std::endian::little);  // tensor bytes are used as they are

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kAlign = 64;
constexpr std::string_view kMetadata = "__metadata__";
constexpr size_t kMaxEntryValues = 1 << 16;  // of a tensor's entry, and of the metadata

constexpr std::pair<std::string_view, int64_t> kTypeBytes[] = {
    {"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
    {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
    {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1},
};

float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

float from_f16(uint16_t bits) { return static_cast<float>(Float16{bits}); }

template <class T, class F>
void convert(std::span<const std::byte> from, std::span<float> to, F f) {
  for (size_t i = 0; i < to.size(); ++i) {
    T element;
    std::memcpy(&element, from.data() + i * sizeof(T), sizeof(T));
    to[i] = f(element);
  }
}

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// The non-negative integers of the list `key`.
std::vector<int64_t> get_sizes(const Json& entry, std::string_view key, const std::string& where) {
  const Json& list = member(entry, key, where);
  if (!list.is_array())
    throw_error("{}: {}: expected a list of integers, found {}", where, key, describe(list));
  std::vector<int64_t> sizes;
  sizes.reserve(list.size());
  for (const Json& size : list) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > uint64_t{INT64_MAX})
      throw_error("{}: {}: expected integers from 0 to {}, found {}", where, key, INT64_MAX,
                  describe(size));
    sizes.push_back(size.get<int64_t>());
  }
  return sizes;
}

TensorInfo read_entry(const std::string& name, const Json& entry, const std::string& where) {
  TensorInfo info;
  info.name = name;
  const std::string dtype = get_string(entry, "dtype", where);
  const auto type = std::find_if(std::begin(kTypeBytes), std::end(kTypeBytes),
                                 [&](const auto& known) { return known.first == dtype; });
  if (type == std::end(kTypeBytes))
    throw_error("{}: dtype: expected F32, BF16 or another known type, found {}", where,
                quote(dtype));
  info.dtype = type->first;
  info.shape = get_sizes(entry, "shape", where);
  int64_t bytes = type->second;
  for (int64_t dim : info.shape)
    if (__builtin_mul_overflow(bytes, dim, &bytes))
      throw_error("{}: shape: more bytes than 64 bits count", where);
  const std::vector<int64_t> offsets = get_sizes(entry, "data_offsets", where);
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    throw_error("{}: data_offsets: expected the begin and the end of the data", where);
  if (offsets[1] - offsets[0] != bytes)
    throw_error("{}: data_offsets: {} bytes, but type and shape need {}", where,
                offsets[1] - offsets[0], bytes);
  info.begin = static_cast<size_t>(offsets[0]);
  info.end = static_cast<size_t>(offsets[1]);
  return info;
}

uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void write_rounded(const std::string& path, AtomicFile& file, const TensorToWrite& tensor,
                   std::span<const float> from) {
  constexpr size_t kPart = size_t{1} << 18;
  std::vector<uint16_t> part(std::min(kPart, from.size()));
  const bool half = tensor.dtype == "F16";
  for (size_t at = 0; at < from.size(); at += kPart) {
    const size_t count = std::min(kPart, from.size() - at);
    for (size_t i = 0; i < count; ++i) {
      const float x = from[at + i];
      part[i] = half ? Float16::of(x).bits : to_bf16(x);
      if (half && std::isfinite(x) && !std::isfinite(from_f16(part[i])))
        throw_error("{}: {}: expected numbers up to 65504 for F16, found {}", path,
                    quote(tensor.name), x);
    }
    file.write(std::as_bytes(std::span(part).first(count)));
  }
}

void write_tensor(const std::string& path, AtomicFile& file, const TensorToWrite& tensor) {
  if (tensor.bytes) {
    file.write(std::span(tensor.bytes, static_cast<size_t>(tensor_bytes(tensor))));
    return;
  }
  const auto count = static_cast<size_t>(product(tensor.shape));
  std::vector<float> made;
  if (tensor.make) made = tensor.make();
  const std::span<const float> numbers = tensor.make ? made : std::span(tensor.data, count);
  REFRAIN_CHECK(numbers.size() == count);
  if (tensor.dtype == "F32")
    file.write(std::as_bytes(numbers));
  else
    write_rounded(path, file, tensor, numbers);
}

[[noreturn]] void throw_twice(const std::string& path, const std::string& key) {
  throw_error("{}: key {} twice in one object", path, quote(key));
}

}  // namespace

int64_t TensorInfo::size() const { return product(shape); }

int64_t tensor_bytes(const TensorToWrite& tensor) {
  const auto type =
      std::ranges::find(kTypeBytes, tensor.dtype, &std::pair<std::string_view, int64_t>::first);
  REFRAIN_CHECK(type != std::end(kTypeBytes));
  return product(tensor.shape) * type->second;
}

Safetensors::Safetensors(const std::string& path) : file_(path) {
  uint64_t length = 0;
  if (file_.size() < sizeof(length))
    throw_error("{}: not a safetensors file: {} bytes long", path, file_.size());
  file_.read(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kMaxHeader)
    throw_error("{}: not a safetensors file: a header of {} bytes, at most {} are read", path,
                length, kMaxHeader);
  if (length > file_.size() - sizeof(length))
    throw_error("{}: truncated: a header of {} bytes in a file of {}", path, length, file_.size());
  data_ = sizeof(length) + length;
  const size_t data_bytes = file_.size() - data_;

  std::string text(length, '\0');
  file_.read(sizeof(length), std::as_writable_bytes(std::span(text)));
  if (!text.starts_with('{')) throw_error("{}: not a safetensors file: no JSON object", path);
  bool has_metadata = false;
  each_member(text, path, kMaxEntryValues, [&](const std::string& name, Json&& entry) {
    const std::string where = fmt::format("{}: {}", path, quote(name));
    if (name != kMetadata) {
      tensors_.push_back(read_entry(name, entry, where));
      return;
    }
    if (std::exchange(has_metadata, true)) throw_twice(path, name);
    if (!entry.is_object()) throw_error("{}: expected an object of strings", where);
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) throw_error("{}: {}: expected a string", where, quote(key));
      metadata_[key] = value.get<std::string>();
    }
  });
  text = {};

  // In place: a stable sort would take as much memory again.
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return tensors_[a].name < tensors_[b].name; });
  const auto twice = std::adjacent_find(
      by_name_.begin(), by_name_.end(),
      [&](uint32_t a, uint32_t b) { return tensors_[a].name == tensors_[b].name; });
  if (twice != by_name_.end()) throw_twice(path, tensors_[*twice].name);
  size_t end = 0;
  for (const TensorInfo& info : tensors_) {
    if (info.begin != end)
      throw_error("{}: {}: data_offsets: {}: begins at {}, expected {}", path, quote(info.name),
                  info.begin < end ? "overlaps another tensor" : "leaves a hole", info.begin, end);
    end = info.end;
  }
  if (end != data_bytes)
    throw_error("{}: {}: the tensors need {} bytes of data, the file has {}", path,
                end > data_bytes ? "truncated" : "bytes that belong to no tensor", end, data_bytes);
}

const TensorInfo* Safetensors::find(const std::string& name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](uint32_t place, const std::string& wanted) { return tensors_[place].name < wanted; });
  if (found == by_name_.end() || tensors_[*found].name != name) return nullptr;
  return &tensors_[*found];
}

std::vector<std::byte> Safetensors::bytes(const TensorInfo& info) const {
  std::vector<std::byte> bytes(info.end - info.begin);
  read_bytes(info, bytes);
  return bytes;
}

void Safetensors::read_bytes(const TensorInfo& info, std::span<std::byte> to) const {
  REFRAIN_CHECK(to.size() == info.end - info.begin);
  file_.read(data_ + info.begin, to);
}

void Safetensors::read(const TensorInfo& info, std::span<float> to) const {
  REFRAIN_CHECK(static_cast<int64_t>(to.size()) == info.size());
  read(info, 0, to);
}

void Safetensors::read(const TensorInfo& info, int64_t first, std::span<float> to) const {
  REFRAIN_CHECK(first >= 0 && first + static_cast<int64_t>(to.size()) <= info.size());
  if (to.empty()) return;
  const size_t each = (info.end - info.begin) / static_cast<size_t>(info.size());
  const size_t begin = data_ + info.begin + static_cast<size_t>(first) * each;
  if (info.dtype == "F32") return file_.read(begin, std::as_writable_bytes(to));
  // In parts, so that the file does not come to stand in memory beside its copy.
  constexpr size_t kPart = size_t{1} << 18;
  std::vector<std::byte> from(each * std::min(kPart, to.size()));
  for (size_t at = 0; at < to.size(); at += kPart) {
    const size_t count = std::min(kPart, to.size() - at);
    const std::span<std::byte> part = std::span(from).first(count * each);
    file_.read(begin + at * each, part);
    read_part(info, part, to.subspan(at, count));
  }
}

void Safetensors::read_part(const TensorInfo& info, std::span<const std::byte> from,
                            std::span<float> to) const {
  if (info.dtype == "BF16")
    convert<uint16_t>(from, to, from_bf16);
  else if (info.dtype == "F16")
    convert<uint16_t>(from, to, from_f16);
  else if (info.dtype == "F64")
    convert<double>(from, to, [](double x) { return static_cast<float>(x); });
  else
    throw_error("{}: {}: expected a tensor of F32, BF16, F16 or F64, found {}", path(),
                quote(info.name), info.dtype);
}

void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  size_t end = 0;
  for (const TensorToWrite& tensor : tensors) {
    REFRAIN_CHECK(tensor.name != kMetadata && !header.contains(tensor.name));
    const auto bytes = static_cast<size_t>(tensor_bytes(tensor));
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  std::string text = to_line(header);
  text.append(kAlign - 1 - (sizeof(uint64_t) + text.size() - 1) % kAlign, ' ');
  if (text.size() > kMaxHeader)
    throw_error("{}: a header of {} bytes, at most {} can be read", path, text.size(), kMaxHeader);

  AtomicFile file(path);
  const uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (const TensorToWrite& tensor : tensors) write_tensor(path, file, tensor);
  file.commit();
}

}  // namespace refrain::io

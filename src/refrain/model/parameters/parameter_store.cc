#include "refrain/model/parameters/parameter_store.h"

#include <algorithm>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/io/json.h"
#include "refrain/io/safetensors.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain {
namespace {

constexpr size_t kAlign = Buffer<float>::kAlign;

// Metadata of files of packed weights. A layout that changes takes another number.
constexpr const char *kFormatKey = "format", *kPackedFormat = "refrain-panels-1";
constexpr const char* kStorageKey = "storage";

// Floats up to the next tensor.
size_t room_of(const ParamSpec& spec) {
  const size_t bytes = static_cast<size_t>(spec.size()) * sizeof(float);
  return (bytes + kAlign - 1) / kAlign * kAlign / sizeof(float);
}

std::string to_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}
// In the metadata: the shape of a matrix of which a file has the panels.
std::string shape_key(const ParamSpec& spec) { return "shape " + spec.name; }

// How a tensor is stored in a model for inference; nothing: as rows of float32.
std::optional<Storage> stored_as(const ParamSpec& spec, Storage type) {
  // Smaller ones save nothing that could be noticed, and are often the most sensitive.
  constexpr int64_t kSmallest = 4096;
  if (spec.read_by == ReadBy::kRows || spec.shape.size() != 2) return std::nullopt;
  const bool is_small = spec.size() < kSmallest || spec.shape[1] < kernels::kWeightGroup;
  if (type != Storage::kFloat32 && !is_small) return type;
  if (spec.read_by == ReadBy::kProducts) return Storage::kFloat32;
  return std::nullopt;
}

}  // namespace

void ParameterStore::declare(const std::function<void(const ParamVisitor&)>& visit) {
  REFRAIN_CHECK(entries_.empty());
  visit([&](const ParamSpec& spec, Param& param) {
    REFRAIN_CHECK(!spec.shape.empty() && spec.shape.size() <= 4);
    param.index = static_cast<int32_t>(entries_.size());
    entries_.push_back({spec, &param, size_});
    count_ += spec.size();
    size_ += room_of(spec);
  });
  lay_out_gradients();
}

void ParameterStore::lay_out_gradients() {
  gradient_size_ = 0;
  for (Entry& entry : entries_) {
    float* const w = entry.param->w.data;
    shape_param(entry.spec, *entry.param);
    if (weights_.size() > 0) entry.param->w.data = w;
    if (!entry.param->trainable) continue;
    entry.gradient_offset = gradient_size_;
    gradient_size_ += room_of(entry.spec);
  }
}

size_t ParameterStore::Entry::bytes() const {
  if (!is_packed()) return static_cast<size_t>(spec.size()) * sizeof(float);
  return kernels::packed_bytes(param->packed.type, spec.shape[0], spec.shape[1]);
}

size_t ParameterStore::bytes() const {
  size_t sum = 0;
  for (const Entry& entry : entries_) sum += entry.bytes();
  return sum;
}

void ParameterStore::declare_packed(Storage type, Use use, const TypeOf& type_of) {
  REFRAIN_CHECK(gradients_.size() == 0);
  const auto stored_in = [&](const ParamSpec& spec) {
    const auto stored = stored_as(spec, type_of ? type_of(spec) : type);
    return use == Use::kTraining && stored == Storage::kFloat32 ? std::nullopt : stored;
  };
  size_t floats = 0, bytes = 0;
  for (Entry& entry : entries_) {
    const auto stored = stored_in(entry.spec);
    entry.offset = stored ? bytes : floats;
    if (stored)
      bytes += kernels::packed_bytes(*stored, entry.spec.shape[0], entry.spec.shape[1]);
    else
      floats += room_of(entry.spec);
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  }
  storage_ = type;
  size_ = floats;
  packed_bytes_ = bytes;
  gradient_size_ = 0;
  for (const Entry& entry : entries_) {
    entry.param->trainable = false;
    shape_param(entry.spec, *entry.param);
    entry.param->packed = {};
    if (const auto stored = stored_in(entry.spec))
      entry.param->packed = {*stored, nowhere<std::byte>()};
  }
}

void ParameterStore::allocate() {
  weights_ = Buffer<float>(size_);
  packed_ = Buffer<std::byte>(packed_bytes_);
  for (const Entry& entry : entries_) {
    if (entry.is_packed())
      entry.param->packed.data = packed_.data() + entry.offset;
    else
      entry.param->w.data = weights_.data() + entry.offset;
  }
}

void ParameterStore::allocate_packed(Storage type, const TypeOf& type_of) {
  declare_packed(type, Use::kInference, type_of);
  allocate();
}

void ParameterStore::pack(Storage type) {
  REFRAIN_CHECK(!is_packed() && weights_.size() > 0);
  Buffer<float> rows = std::move(weights_);
  std::vector<size_t> offsets;
  for (const Entry& entry : entries_) offsets.push_back(entry.offset);
  allocate_packed(type);
  for (size_t i = 0; i < entries_.size(); ++i) {
    Tensor whole = entries_[i].param->w;
    whole.data = rows.data() + offsets[i];
    set_rows(entries_[i], 0, whole);
  }
}

void ParameterStore::set_rows(const Entry& entry, int64_t first, ConstTensor rows) {
  const Param& param = *entry.param;
  if (!entry.is_packed()) {
    std::copy(rows.begin(), rows.end(), param.w.data + first * rows.cols());
    return;
  }
  kernels::pack(param.packed.type, rows, panels_from(entry, first));
}

std::byte* ParameterStore::panels_from(const Entry& entry, int64_t row) {
  REFRAIN_CHECK(entry.is_packed() && row % kernels::kWeightPanel == 0);
  const size_t at = static_cast<size_t>(row / kernels::kWeightPanel) *
                    kernels::panel_bytes(entry.param->packed.type, entry.spec.shape[1]);
  return packed_.data() + entry.offset + at;
}

void ParameterStore::read_rows(const Entry& entry, Tensor to) const {
  if (entry.is_packed())
    kernels::unpack(entry.param->packed, to);
  else
    std::copy(entry.param->w.begin(), entry.param->w.end(), to.data);
}

void ParameterStore::set_trainable(const std::function<bool(const ParamSpec&)>& trainable) {
  REFRAIN_CHECK(gradients_.size() == 0);
  for (const Entry& entry : entries_) entry.param->trainable = trainable(entry.spec);
  lay_out_gradients();
}

void ParameterStore::initialize(uint64_t seed, const InitScheme& scheme) {
  for (const Entry& entry : entries_) refrain::initialize(entry.spec, *entry.param, scheme, seed);
}

void ParameterStore::allocate_gradients() {
  REFRAIN_CHECK(!is_packed());
  gradients_ = Buffer<float>(gradient_size_);
  for (const Entry& entry : entries_)
    if (entry.param->trainable) entry.param->g.data = gradients_.data() + entry.gradient_offset;
}

void ParameterStore::clear_gradients() {
  parallel_ranges(static_cast<int64_t>(gradients_.size()), 1 << 18,
                  [&](int64_t begin, int64_t end) {
                    std::fill(gradients_.data() + begin, gradients_.data() + end, 0.0f);
                  });
}

size_t ParameterStore::training_bytes(int moments) const {
  return packed_bytes_ +
         (size_ + static_cast<size_t>(1 + moments) * gradient_size_) * sizeof(float);
}

std::vector<ParameterStore::FileTensor> ParameterStore::file_tensors() const {
  std::vector<FileTensor> tensors;
  for (const Entry& entry : entries_) {
    const ParamSpec& spec = entry.spec;
    const Param* param = entry.param;
    if (spec.parts.empty()) tensors.push_back({spec.name, spec.shape, param->w, param->g});
    int64_t row = 0;
    std::vector<int64_t> shape = spec.shape;
    for (const ParamPart& part : spec.parts) {
      shape[0] = part.rows;
      const Tensor g = param->trainable ? param->g.slice(row, part.rows) : Tensor();
      tensors.push_back({part.name, shape, param->w.slice(row, part.rows), g});
      row += part.rows;
    }
    REFRAIN_CHECK(spec.parts.empty() || row == spec.shape[0]);
  }
  return tensors;
}

void ParameterStore::save(const std::string& path,
                          const std::map<std::string, std::string>& metadata) const {
  std::vector<io::TensorToWrite> tensors;
  for (const FileTensor& t : file_tensors())
    tensors.push_back({t.name, t.shape, t.w.data});
  io::write_safetensors(path, tensors, metadata);
}

void ParameterStore::save_packed(const std::string& path) const {
  REFRAIN_CHECK(is_packed());
  std::vector<io::TensorToWrite> tensors;
  std::map<std::string, std::string> metadata = {
      {kFormatKey, kPackedFormat}, {kStorageKey, std::string(kernels::name_of(storage_))}};
  for (const Entry& entry : entries_) {
    if (entry.is_packed()) {
      REFRAIN_CHECK(entry.param->packed.type == stored_as(entry.spec, storage_));
      metadata[shape_key(entry.spec)] = to_text(entry.spec.shape);
    }
    if (!entry.is_packed()) {
      tensors.push_back({entry.spec.name, entry.spec.shape, entry.param->w.data});
      continue;
    }
    const auto n = static_cast<int64_t>(entry.bytes());
    tensors.push_back({.name = entry.spec.name,
                       .shape = {n},
                       .data = nullptr,
                       .dtype = "U8",
                       .bytes = entry.param->packed.data});
  }
  io::write_safetensors(path, tensors, metadata);
}

std::optional<Storage> packed_storage_of(const io::Safetensors& file) {
  const auto& metadata = file.metadata();
  const auto format = metadata.find(kFormatKey), storage = metadata.find(kStorageKey);
  if (format == metadata.end() || storage == metadata.end()) return std::nullopt;
  if (format->second != kPackedFormat)
    throw_error("{}: format: expected {}, found {}", file.path(), kPackedFormat,
                io::quote(format->second));
  const auto type = kernels::storage_named(storage->second);
  if (!type || *type == Storage::kFloat32)
    throw_error("{}: storage: expected bf16, f16, q8_0 or q4, found {}", file.path(),
                io::quote(storage->second));
  return type;
}

void ParameterStore::load_packed(const io::Safetensors& file) {
  const Storage type = packed_storage_of(file).value();
  for (const Entry& entry : entries_) {
    const std::string where = fmt::format("{}: {}", file.path(), io::quote(entry.spec.name));
    const io::TensorInfo* info = file.find(entry.spec.name);
    if (!info) throw_error("{}: missing", where);
    const auto stored = stored_as(entry.spec, type);
    std::vector<int64_t> shape = entry.spec.shape;
    if (stored) shape = {static_cast<int64_t>(kernels::packed_bytes(*stored, shape[0], shape[1]))};
    if (stored) {  // panels of other shapes may have as many bytes
      const auto found = file.metadata().find(shape_key(entry.spec));
      const std::string of_file = found == file.metadata().end() ? "none" : found->second;
      if (of_file != to_text(entry.spec.shape))
        throw_error("{}: expected shape {}, found {}", where, to_text(entry.spec.shape),
                    io::quote(of_file));
    }
    const std::string_view dtype = stored ? "U8" : "F32";
    if (info->shape != shape || info->dtype != dtype)
      throw_error("{}: expected {} [{}], found {} [{}]", where, dtype, fmt::join(shape, ", "),
                  info->dtype, fmt::join(info->shape, ", "));
  }
  if (file.tensors().size() != entries_.size())
    throw_error("{}: expected {} tensors, found {}", file.path(), entries_.size(),
                file.tensors().size());
  allocate_packed(type);
  for (const Entry& entry : entries_) {
    const io::TensorInfo& info = *file.find(entry.spec.name);
    if (entry.is_packed())
      file.read_bytes(info, packed().subspan(entry.offset, entry.bytes()));
    else
      file.read(info, {entry.param->w.data, static_cast<size_t>(entry.param->w.size())});
  }
}

void ParameterStore::load(const std::string& path) {
  const io::Safetensors file(path);
  std::vector<const io::TensorInfo*> found;
  for (const FileTensor& t : file_tensors()) {
    const io::TensorInfo* info = file.find(t.name);
    const std::string where = fmt::format("{}: {}", path, io::quote(t.name));
    const std::string expected = fmt::format("[{}]", fmt::join(t.shape, ", "));
    if (!info) throw_error("{}: missing, expected a tensor of shape {}", where, expected);
    if (info->shape != t.shape)
      throw_error("{}: expected shape {}, found [{}]", where, expected,
                  fmt::join(info->shape, ", "));
    if (info->dtype != "F32") throw_error("{}: expected F32, found {}", where, info->dtype);
    found.push_back(info);
  }
  if (file.tensors().size() != found.size())
    throw_error("{}: expected {} tensors, found {}", path, found.size(), file.tensors().size());

  if (weights_.size() == 0) allocate();
  size_t next = 0;
  for (const FileTensor& to : file_tensors())
    file.read(*found[next++], {to.w.data, static_cast<size_t>(to.w.size())});
}

}  // namespace refrain

#include "refrain/model/parameters/parameter_store.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/io/json.h"
#include "refrain/io/safetensors.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain {
namespace {

// Floats up to the next tensor.
size_t room_of(const ParameterStore::Entry& entry) {
  constexpr size_t kAlign = Buffer<float>::kAlign;
  const size_t bytes = static_cast<size_t>(entry.spec.size()) * bytes_of(entry.param->storage);
  return (bytes + kAlign - 1) / kAlign * kAlign / sizeof(float);
}

}  // namespace

void ParameterStore::declare(const std::function<void(const ParamVisitor&)>& visit) {
  REFRAIN_CHECK(entries_.empty());
  visit([&](const ParamSpec& spec, Param& param) {
    REFRAIN_CHECK(!spec.shape.empty() && spec.shape.size() <= 4);
    entries_.push_back({spec, &param, size_});
    count_ += spec.size();
    size_ += room_of(entries_.back());
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
    gradient_size_ += room_of(entry);
  }
}

void ParameterStore::allocate() {
  weights_ = Buffer<float>(size_);
  for (const Entry& entry : entries_) entry.param->w.data = weights_.data() + entry.offset;
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
  for (const Entry& entry : entries_) entry.param->packed = nullptr;
  packed_ = Buffer<float>();
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

void ParameterStore::pack(const std::function<bool(const Param&)>& is_factor) {
  const auto each_factor = [&](auto&& f) {
    for (const Entry& entry : entries_) {
      Param& param = *entry.param;
      if (param.w.rank == 2 && is_factor(param))
        f(param, static_cast<size_t>(kernels::packed_size(param.w.rows(), param.w.cols())));
    }
  };
  size_t total = 0;
  each_factor([&](const Param&, size_t size) { total += size; });
  packed_ = Buffer<float>(total);
  float* at = packed_.data();
  each_factor([&](Param& param, size_t size) {
    kernels::pack_weight(param.w, at);
    param.packed = at;
    at += size;
  });
}

size_t ParameterStore::training_bytes(int moments) const {
  return (size_ + static_cast<size_t>(1 + moments) * gradient_size_) * sizeof(float);
}

std::vector<ParameterStore::FileTensor> ParameterStore::file_tensors() const {
  std::vector<FileTensor> tensors;
  for (const auto& [spec, param, offset, gradient_offset] : entries_) {
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
                          const std::map<std::string, std::string>& metadata,
                          std::string (*name_of)(std::string_view)) const {
  std::vector<io::TensorToWrite> tensors;
  for (const FileTensor& t : file_tensors())
    tensors.push_back({name_of ? name_of(t.name) : t.name, t.shape, t.w.data});
  io::write_safetensors(path, tensors, metadata);
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

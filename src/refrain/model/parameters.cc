#include "refrain/model/parameters.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "refrain/io/json.h"
#include "refrain/io/safetensors.h"
#include "refrain/model/file_tensors.h"
#include "refrain/model/initialisation.h"

namespace refrain {
namespace {

int64_t padded(int64_t n) {
  constexpr int64_t kFloatsPerLine = 16;
  return (n + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine;
}

}  // namespace

void Parameters::declare(Visit visit) {
  visit_ = std::move(visit);
  visit_([&](const ParamSpec& spec, Param&) { count_ += spec.size(); });
}

void Parameters::take_memory() {
  int64_t total = 0;
  visit_([&](const ParamSpec& spec, Param&) { total += padded(spec.size()); });
  weights_ = Buffer<float>(static_cast<size_t>(total));
  float* at = weights_.data();
  visit_([&](const ParamSpec& spec, Param& param) {
    shape_param(spec, param);
    param.w.data = at;
    at += padded(spec.size());
  });
}

void Parameters::initialise(uint64_t seed) {
  visit_([&](const ParamSpec& spec, Param& param) { draw_initial(spec, param, {}, seed); });
}

void Parameters::allocate_gradients() {
  gradients_ = Buffer<float>(weights_.size());
  visit_([&](const ParamSpec&, Param& param) {
    param.g = param.w;
    param.g.data = gradients_.data() + (param.w.data - weights_.data());
  });
}

void Parameters::clear_gradients() {
  std::fill(gradients_.span().begin(), gradients_.span().end(), 0.0f);
}

void Parameters::save(const std::string& path,
                      const std::map<std::string, std::string>& metadata) const {
  std::vector<io::TensorToWrite> tensors;
  visit_([&](const ParamSpec& spec, Param& param) {
    each_file_tensor(
        spec, [&](const std::string& name, const std::vector<int64_t>& shape, int64_t first) {
          tensors.push_back({name, shape, part_of(param.w, shape, first).data});
        });
  });
  io::write_safetensors(path, tensors, metadata);
}

void Parameters::load(const std::string& path) {
  const io::Safetensors file(path);
  std::vector<const io::TensorInfo*> found;
  const auto find = [&](const std::string& name, const std::vector<int64_t>& shape, int64_t) {
    const io::TensorInfo* info = file.find(name);
    const std::string expected = fmt::format("[{}]", fmt::join(shape, ", "));
    if (!info)
      throw_error("{}: {}: missing, expected a tensor of shape {}", path, io::quote(name),
                  expected);
    if (info->shape != shape)
      throw_error("{}: {}: expected shape {}, found [{}]", path, io::quote(name), expected,
                  fmt::join(info->shape, ", "));
    if (info->dtype != "F32")
      throw_error("{}: {}: expected F32, found {}", path, io::quote(name), info->dtype);
    found.push_back(info);
  };
  visit_([&](const ParamSpec& spec, Param&) { each_file_tensor(spec, find); });
  if (file.tensors().size() != found.size())
    throw_error("{}: expected {} tensors, found {}", path, found.size(), file.tensors().size());

  if (weights_.size() == 0) take_memory();
  size_t next = 0;
  visit_([&](const ParamSpec& spec, Param& param) {
    each_file_tensor(spec,
                     [&](const std::string&, const std::vector<int64_t>& shape, int64_t first) {
                       const Tensor to = part_of(param.w, shape, first);
                       file.read(*found[next++], {to.data, static_cast<size_t>(to.size())});
                     });
  });
}

}  // namespace refrain

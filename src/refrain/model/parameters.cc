#include "refrain/model/parameters.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/io/json.h"
#include "refrain/io/safetensors.h"

namespace refrain {
namespace {

int64_t padded(int64_t n) {
  constexpr int64_t kFloatsPerLine = 16;
  return (n + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine;
}

std::vector<int64_t> shape_of(const Tensor& t) { return {t.dim.begin(), t.dim.begin() + t.rank}; }

// As files name them.
void each_file_tensor(const Parameters& of,
                      const std::function<void(const std::string&, Tensor)>& f) {
  of.visit([&](const ParamSpec& spec, Param& param) {
    if (spec.parts.empty()) return f(spec.name, param.w);
    int64_t row = 0;
    for (const ParamPart& part : spec.parts) {
      f(part.name, param.w.slice(row, part.rows));
      row += part.rows;
    }
  });
}

}  // namespace

void Parameters::allocate(Visit visit) {
  visit_ = std::move(visit);
  int64_t total = 0;
  visit_([&](const ParamSpec& spec, Param&) {
    count_ += spec.size();
    total += padded(spec.size());
  });
  weights_ = Buffer<float>(static_cast<size_t>(total));
  float* at = weights_.data();
  visit_([&](const ParamSpec& spec, Param& param) {
    param.w.rank = static_cast<int>(spec.shape.size());
    std::copy(spec.shape.begin(), spec.shape.end(), param.w.dim.begin());
    param.w.data = at;
    at += padded(spec.size());
  });
}

void draw_initial(const ParamSpec& spec, Param& param, uint64_t seed) {
  if (spec.init.kind == Init::kConstant) {
    for (int64_t i = 0; i < param.w.size(); ++i)
      param.w.data[i] = i >= spec.init.first && i < spec.init.end ? spec.init.value : 0;
    return;
  }
  Random random(mix_key(seed, spec.name));
  for (float& w : param.w)
    w = spec.init.mean + static_cast<float>(random.normal()) * spec.init.value;
}

void Parameters::initialise(uint64_t seed) {
  visit_([&](const ParamSpec& spec, Param& param) { draw_initial(spec, param, seed); });
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
  each_file_tensor(*this, [&](const std::string& name, Tensor t) {
    tensors.push_back({name, shape_of(t), t.data});
  });
  io::write_safetensors(path, tensors, metadata);
}

void Parameters::load(const std::string& path) {
  const io::Safetensors file(path);
  std::vector<std::pair<const io::TensorInfo*, Tensor>> found;
  each_file_tensor(*this, [&](const std::string& name, Tensor t) {
    const io::TensorInfo* info = file.find(name);
    const std::string shape = fmt::format("[{}]", fmt::join(shape_of(t), ", "));
    if (!info)
      throw_error("{}: {}: missing, expected a tensor of shape {}", path, io::quote(name), shape);
    if (info->shape != shape_of(t))
      throw_error("{}: {}: expected shape {}, found [{}]", path, io::quote(name), shape,
                  fmt::join(info->shape, ", "));
    if (info->dtype != "F32")
      throw_error("{}: {}: expected F32, found {}", path, io::quote(name), info->dtype);
    found.emplace_back(info, t);
  });
  if (file.tensors().size() != found.size())
    throw_error("{}: expected {} tensors, found {}", path, found.size(), file.tensors().size());
  for (const auto& [info, t] : found) file.read(*info, {t.data, static_cast<size_t>(t.size())});
}

}  // namespace refrain

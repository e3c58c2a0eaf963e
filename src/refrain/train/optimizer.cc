#include "refrain/train/optimizer.h"

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "refrain/io/safetensors.h"
#include "refrain/kernels/elementwise/adamw.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

constexpr const char* kPrefixes[] = {"m.", "v."};  // of the moments' names

}  // namespace

Optimizer::Optimizer(ParameterStore& parameters, const TrainConfig& config)
    : parameters_(parameters), config_(config) {
  for (int k = 0; k < config.moments(); ++k) moments_.emplace_back(parameters.gradient_floats());
}

double Optimizer::step(double learning_rate) {
  const double norm = std::sqrt(kernels::sum_of_squares(parameters_.gradients()));
  if (!std::isfinite(norm)) return norm;
  ++steps_;
  double scale = 1, most = std::numeric_limits<double>::infinity();
  if (config_.clip_mode == "norm" && norm > config_.max_grad_norm)
    scale = config_.max_grad_norm / norm;
  if (config_.clip_mode == "value") most = config_.max_grad_norm;
  for (const auto& [spec, param, offset, at] : parameters_.entries()) {
    if (!param->trainable) continue;
    const double decay = spec.decay || config_.decay_all ? config_.decay() : 0;
    const auto n = static_cast<size_t>(param->w.size());
    const std::span<float> w(param->w.data, n), g(param->g.data, n);
    const auto moments = [&](size_t k) {
      return k < moments_.size() ? moments_[k].span().subspan(at, n) : std::span<float>();
    };
    if (config_.sgd())
      kernels::sgd_step(w, g, moments(0), {learning_rate, config_.momentum, decay, scale, most});
    else
      kernels::adamw_step(w, g, moments(0), moments(1),
                          {.step = steps_,
                           .learning_rate = learning_rate,
                           .beta1 = config_.adam_beta1,
                           .beta2 = config_.adam_beta2,
                           .eps = config_.adam_epsilon,
                           .weight_decay = decay,
                           .grad_scale = scale,
                           .clip_value = most});
  }
  return norm;
}

bool Optimizer::weights_are_finite() const {
  return std::isfinite(
      kernels::sum_of_squares(parameters_.weights()));  // in double: it has the room
}

void Optimizer::save(const std::string& path) const {
  std::vector<io::TensorToWrite> tensors;
  for (size_t k = 0; k < moments_.size(); ++k)
    for (const auto& [spec, param, offset, at] : parameters_.entries())
      if (param->trainable)
        tensors.push_back({kPrefixes[k] + spec.name, spec.shape, &moments_[k][at]});
  io::write_safetensors(path, tensors, {});
}

void Optimizer::load(const std::string& path, int64_t steps) {
  const io::Safetensors file(path);
  for (size_t k = 0; k < moments_.size(); ++k)
    for (const auto& [spec, param, offset, at] : parameters_.entries()) {
      if (!param->trainable) continue;
      const std::string prefix = kPrefixes[k];
      const io::TensorInfo* info = file.find(prefix + spec.name);
      if (!info) info = file.find(prefix + llama_name(spec.name));  // of a former version
      if (!info || info->shape != spec.shape)
        throw_error("{}: expected a tensor '{}{}' of {} numbers; the file is of another model",
                    path, prefix, spec.name, spec.size());
      file.read(*info, {&moments_[k][at], static_cast<size_t>(spec.size())});
    }
  steps_ = steps;
}

}  // namespace refrain

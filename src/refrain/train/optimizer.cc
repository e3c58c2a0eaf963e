#include "refrain/train/optimizer.h"

#include <cmath>
#include <vector>

#include "refrain/io/safetensors.h"
#include "refrain/kernels/elementwise/adamw.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {

Optimizer::Optimizer(ParameterStore& parameters, const TrainConfig& config)
    : parameters_(parameters),
      config_(config),
      m_(parameters.gradient_floats()),
      v_(parameters.gradient_floats()) {}

double Optimizer::step(double learning_rate) {
  const double norm = std::sqrt(kernels::sum_of_squares(parameters_.gradients()));
  if (!std::isfinite(norm)) return norm;
  ++steps_;
  kernels::AdamwStep step{steps_,
                          learning_rate,
                          config_.adam_beta1,
                          config_.adam_beta2,
                          config_.adam_epsilon,
                          config_.weight_decay};
  if (config_.clip_mode == "norm" && norm > config_.max_grad_norm)
    step.grad_scale = config_.max_grad_norm / norm;
  if (config_.clip_mode == "value") step.clip_value = config_.max_grad_norm;
  for (const auto& [spec, param, offset, at] : parameters_.entries()) {
    if (!param->trainable) continue;
    step.weight_decay = spec.decay || config_.decay_all ? config_.weight_decay : 0;
    const auto n = static_cast<size_t>(param->w.size());
    kernels::adamw_step({param->w.data, n}, {param->g.data, n}, m_.span().subspan(at, n),
                        v_.span().subspan(at, n), step);
  }
  return norm;
}

bool Optimizer::weights_are_finite() const {
  return std::isfinite(
      kernels::sum_of_squares(parameters_.weights()));  // in double: it has the room
}

void Optimizer::save(const std::string& path) const {
  std::vector<io::TensorToWrite> tensors;
  for (const auto& [prefix, moments] : {std::pair{"m.", &m_}, {"v.", &v_}})
    for (const auto& [spec, param, offset, at] : parameters_.entries())
      if (param->trainable) tensors.push_back({prefix + spec.name, spec.shape, &(*moments)[at]});
  io::write_safetensors(path, tensors, {});
}

void Optimizer::load(const std::string& path, int64_t steps) {
  const io::Safetensors file(path);
  for (const auto& [prefix, moments] : {std::pair{"m.", &m_}, {"v.", &v_}})
    for (const auto& [spec, param, offset, at] : parameters_.entries()) {
      if (!param->trainable) continue;
      const io::TensorInfo* info = file.find(prefix + spec.name);
      if (!info) info = file.find(prefix + llama_name(spec.name));  // of a former version
      if (!info || info->shape != spec.shape)
        throw_error("{}: expected a tensor '{}{}' of {} numbers; the file is of another model",
                    path, prefix, spec.name, spec.size());
      file.read(*info, {&(*moments)[at], static_cast<size_t>(spec.size())});
    }
  steps_ = steps;
}

}  // namespace refrain

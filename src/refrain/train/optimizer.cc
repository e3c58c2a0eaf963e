#include "refrain/train/optimizer.h"

#include <cmath>

#include "refrain/io/safetensors.h"
#include "refrain/kernels/adamw.h"

namespace refrain {

Optimizer::Optimizer(LearnedWeights model, const TrainConfig& config)
    : model_(std::move(model)),
      config_(config),
      m_(model_.weights().size()),
      v_(model_.weights().size()) {}

Optimizer::Optimizer(LanguageModel& model, const TrainConfig& config)
    : Optimizer({[&model](const ParamVisitor& v) { model.visit(v); },
                 [&model] { return model.weights(); }, [&model] { return model.gradients(); }},
                config) {}

double Optimizer::step(double learning_rate) {
  const double norm = std::sqrt(kernels::sum_of_squares(model_.gradients()));
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
  model_.visit([&](const ParamSpec& spec, Param& p) {
    step.weight_decay = spec.decay || config_.decay_all ? config_.weight_decay : 0;
    const auto at = static_cast<size_t>(p.w.data - model_.weights().data());
    const auto n = static_cast<size_t>(p.w.size());
    kernels::adamw_step({p.w.data, n}, {p.g.data, n}, m_.span().subspan(at, n),
                        v_.span().subspan(at, n), step);
  });
  return norm;
}

bool Optimizer::weights_are_finite() const {
  return std::isfinite(kernels::sum_of_squares(model_.weights()));  // in double: it has the room
}

void Optimizer::save(const std::string& path) const {
  std::vector<io::TensorToWrite> tensors;
  for (const auto& [prefix, moments] : {std::pair{"m.", &m_}, {"v.", &v_}})
    model_.visit([&, prefix = prefix, moments = moments](const ParamSpec& spec, Param& p) {
      tensors.push_back(
          {prefix + spec.name, spec.shape, moments->data() + (p.w.data - model_.weights().data())});
    });
  io::write_safetensors(path, tensors, {});
}

void Optimizer::load(const std::string& path, int64_t steps) {
  const io::Safetensors file(path);
  for (const auto& [prefix, moments] : {std::pair{"m.", &m_}, {"v.", &v_}})
    model_.visit([&, prefix = prefix, moments = moments](const ParamSpec& spec, Param& p) {
      const io::TensorInfo* info = file.find(prefix + spec.name);
      if (!info || info->shape != spec.shape)
        throw_error("{}: expected a tensor '{}{}' of {} numbers; the file is of another model",
                    path, prefix, spec.name, spec.size());
      file.read(*info, {moments->data() + (p.w.data - model_.weights().data()),
                        static_cast<size_t>(p.w.size())});
    });
  steps_ = steps;
}

}  // namespace refrain

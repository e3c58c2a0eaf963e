// The reference implementation of a whole model: one sequence, plain loops over weights that are
// known by their names in files, for any number type. In float64 it is what the fast forms are
// measured against; in std::complex<double> a step along the imaginary axis gives exact gradients.
// It stands on the references of the kernels and shares no code with the forms it judges.
#pragma once
#include <complex>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "refrain/model/language_model.h"

namespace refrain {

template <class T>  // double or std::complex<double>
class ReferenceModel {
 public:
  // Copies the weights.
  explicit ReferenceModel(LanguageModel& model);

  // By the names of ParameterStore::file_tensors().
  std::map<std::string, std::vector<T>>& weights() { return weights_; }

  // Logits [tokens, V]. `states`, if given, becomes what each block carries at the end, number by
  // number as the mixer's state holds it.
  std::vector<T> logits(std::span<const int32_t> tokens,
                        std::vector<std::vector<T>>* states = nullptr) const;

  // The sum of the cross entropies in nats; rows whose target is negative do not count.
  T loss(std::span<const int32_t> tokens, std::span<const int32_t> targets) const;

 private:
  using Vector = std::vector<T>;

  const Vector& weight(const std::string& name) const { return weights_.at(name); }
  Vector linear(const Vector& x, const std::string& name, int64_t in) const;
  Vector rms_norm(Vector x, const std::string& name) const;
  Vector mixer(const Vector& x, size_t block, Vector* state) const;
  Vector feed_forward(const Vector& x, const std::string& prefix) const;

  ModelConfig config_;
  std::map<std::string, Vector> weights_;
  // Names of each block's mixer: tensor by tensor in visiting order, of the parts files hold.
  std::vector<std::vector<std::vector<std::string>>> mixer_weights_;
  std::function<size_t(size_t block, size_t tokens)> state_size_;
};

extern template class ReferenceModel<double>;
extern template class ReferenceModel<std::complex<double>>;

}  // namespace refrain

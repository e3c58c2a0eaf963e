// The reference implementation of a whole model: one sequence, plain loops, for any number type.
// Weights have their names in files. In float64 it is what the fast forms are compared with. In
// std::complex<double> a step along the imaginary axis gives exact gradients. It uses the
// references of the kernels and shares no code with the forms that it checks.
#pragma once
#include <complex>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "refrain/model/language_model.h"

namespace refrain {

template <class T>  // double or std::complex<double>
class ReferenceModel {
 public:
  // Copies the weights, and keeps nothing else of the model.
  explicit ReferenceModel(LanguageModel& model);

  // By the names of ParameterStore::file_tensors().
  std::map<std::string, std::vector<T>>& weights() { return weights_; }

  // Logits [tokens, V]. `states`, if given, gets the final state of each block, in the order of
  // numbers in the mixer's state.
  std::vector<T> logits(std::span<const int32_t> tokens,
                        std::vector<std::vector<T>>* states = nullptr) const;

  // The sum of the cross entropies in nats; rows whose target is negative do not count.
  T loss(std::span<const int32_t> tokens, std::span<const int32_t> targets) const;

 private:
  using Vector = std::vector<T>;

  const Vector& weight(const std::string& name) const { return weights_.at(name); }
  Vector linear(const Vector& x, const std::string& name, int64_t in) const;
  Vector norm(Vector x, const std::string& name) const;
  Vector plus(Vector rows, const std::string& bias) const;  // in every row
  Vector mixer(const Vector& x, size_t block, Vector* state) const;
  Vector feed_forward(const Vector& x, const std::string& prefix) const;

  ModelConfig config_;
  kernels::CacheType cache_type_;  // keys and values are rounded to it, if T is double
  std::map<std::string, Vector> weights_;
  // For each block, the names of the mixer's tensors in visiting order, and of their parts in
  // files.
  std::vector<std::vector<std::vector<std::string>>> mixer_weights_;
};

extern template class ReferenceModel<double>;
extern template class ReferenceModel<std::complex<double>>;

}  // namespace refrain

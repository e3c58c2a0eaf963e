// What a model's steps are held to before they are timed: the losses of single rows and the whole
// gradient, against plain loops in float64. A mean over a batch proves nothing where a fresh model
// gives every token the same probability, so weights are of a size at which each part shows.
#pragma once
#include <complex>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/checks/check.h"
#include "bench/checks/planted.h"
#include "refrain/model/reference.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {

// Adds a normal number to every weight: of deviation 1 / sqrt(columns) in matrices, where it
// keeps what flows through them at its size, and 0.1 in vectors.
void spread_weights(const std::function<void(const ParamVisitor&)>& visit);
inline void spread_weights(LanguageModel& model) {
  spread_weights([&](const ParamVisitor& v) { model.parameters().visit(v); });
}

// The first rows of `tokens`, as two sequences, trained as the options say (but for their scale),
// against the complex step, which is exact: each row's loss, and all gradients together along two
// directions. Along random signs an error in few of them is seen, along the gradients themselves
// one of their size, which random signs may be at a right angle to. The first gradients that pass
// stand for the exact ones: those of later checks, of models of the same weights, are held to them,
// each of them, and to the complex step along the same directions, which is taken once. The
// gradients are left in the model.
class StepCheck {
 public:
  // Copies the weights: what is planted in them afterwards is found.
  StepCheck(LanguageModel& model, std::span<const int32_t> tokens,
            std::span<const int32_t> targets);

  Check check(LanguageModel& model, TrainingOptions options, const Planted& planted);

 private:
  using Gradients = std::map<std::string, std::vector<float>>;  // by the names of a file
  struct Derivative {
    double of_sum = 0;  // of the losses
    std::vector<double> losses;
    double largest_logit = 0;  // less its row's mean
  };
  // What the complex step says along random signs and along `gradients`, whose norm is `norm`.
  struct Exact {
    Derivative along_signs, along_gradients;
    Gradients gradients;
    double norm = 0;
  };
  template <class F>
  Derivative derivative(F&& direction, const Gradients& gradients);
  Exact measure(Gradients gradients);

  std::vector<int32_t> tokens_, targets_;
  size_t first_ = 0;  // tokens of the first sequence
  int64_t vocabulary_ = 0;
  ReferenceModel<std::complex<double>> reference_;
  std::optional<Exact> exact_;  // of the first check that passed
};

// With the weights that every benchmark gives it.
std::unique_ptr<LanguageModel> spread_model(const ModelConfig& config);

// What rows of one shape must have alike: the first leaves its numbers, the others are held to
// them, within `allowed` of the largest.
class Agreement {
 public:
  explicit Agreement(double allowed) : allowed_(allowed) {}
  void check(Check&, const std::string& what, std::span<const float> numbers);

 private:
  double allowed_;
  std::vector<float> want_;
};

}  // namespace refrain::bench

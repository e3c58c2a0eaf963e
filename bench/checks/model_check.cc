#include "bench/checks/model_check.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/parallel.h"
#include "refrain/base/random.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/kernels/loss/cross_entropy_ref.h"
#include "refrain/kernels/matmul/bf16.h"

namespace refrain::bench {
namespace {

using Complex = std::complex<double>;
constexpr double kStep = 1e-30;
constexpr size_t kRows = 16;
constexpr int64_t kGrain = 1 << 14;  // weights of a task
// Smaller logits are alike whatever the weights are.
constexpr double kSmallestLogit = 0.1;

// What a float32 step may err by, and one with rounded operands: 2^-9 each, through the products of
// a stack.
struct Allowed {
  double loss;              // of the larger of 1 and the loss
  double gradient, itself;  // of the gradient's norm, along any direction and along its own
};
Allowed allowed(kernels::ComputeType compute_type) {
  if (compute_type == kernels::ComputeType::kFloat32) return {1e-4, 1e-3, 1e-3};
  return {5e-2, 1e-1, 8e-3};
}

}  // namespace

void spread_weights(const std::function<void(const ParamVisitor&)>& visit) {
  uint64_t key = 1000;
  visit([&](const ParamSpec&, Param& p) {
    ++key;
    const double deviation =
        p.w.rank < 2
            ? 0.1
            : 1 / std::sqrt(static_cast<double>(p.w.dim[static_cast<size_t>(p.w.rank) - 1]));
    parallel_ranges(p.w.size(), kGrain, [&](int64_t begin, int64_t end) {
      Random random(key, static_cast<uint64_t>(begin) * Random::kDrawsOfNormal);
      for (int64_t i = begin; i < end; ++i)
        p.w.data[i] += static_cast<float>(deviation * random.normal());
    });
  });
}

StepCheck::StepCheck(LanguageModel& model, std::span<const int32_t> tokens,
                     std::span<const int32_t> targets)
    : vocabulary_(model.config().vocab_size), reference_(model) {
  const size_t rows = std::min({kRows, tokens.size(), targets.size()});
  tokens_.assign(tokens.begin(), tokens.begin() + static_cast<long>(rows));
  targets_.assign(targets.begin(), targets.begin() + static_cast<long>(rows));
  first_ = rows - rows / 3;
}

std::unique_ptr<LanguageModel> spread_model(const ModelConfig& config) {
  auto model = std::make_unique<LanguageModel>(config);
  model->initialise(1);
  spread_weights(*model);
  return model;
}

void Agreement::check(Check& check, const std::string& what, std::span<const float> numbers) {
  if (want_.empty()) {
    for (const float v : numbers) check.that(what + " are not finite", std::isfinite(v));
    if (check.passed()) want_.assign(numbers.begin(), numbers.end());
    return;
  }
  double largest = 0;
  for (const float v : want_) largest = std::max(largest, std::abs(static_cast<double>(v)));
  check.that(what + " are fewer or more", numbers.size() == want_.size());
  for (size_t i = 0; i < want_.size() && check.passed(); ++i)
    if (!(std::abs(numbers[i] - want_[i]) <= allowed_ * largest))
      check.near(fmt::format("{} {}", what, i), static_cast<double>(numbers[i]),
                 static_cast<double>(want_[i]), allowed_ * largest);
}

// direction(g) of each weight, whose gradient is g, in the order of names.
template <class F>
StepCheck::Derivative StepCheck::derivative(F&& direction, const Gradients& gradients) {
  Derivative d;
  for (const auto& [name, all] : gradients) {
    std::vector<Complex>& weights = reference_.weights().at(name);
    for (size_t i = 0; i < all.size(); ++i) weights[i].imag(kStep * direction(all[i]));
  }
  const auto rows = static_cast<int64_t>(tokens_.size());
  std::vector<Complex> logits = reference_.logits(std::span(tokens_).first(first_)),
                       losses(tokens_.size());
  if (first_ < tokens_.size()) {
    const std::vector<Complex> second = reference_.logits(std::span(tokens_).subspan(first_));
    logits.insert(logits.end(), second.begin(), second.end());
  }
  const int64_t V = vocabulary_;
  const TensorOf<Complex> table(logits.data(), {rows, V});
  for (int64_t i = 0; i < rows; ++i) {
    double mean = 0;
    for (int64_t v = 0; v < V; ++v) mean += table.row(i)[v].real() / static_cast<double>(V);
    for (int64_t v = 0; v < V; ++v)
      d.largest_logit = std::max(d.largest_logit, std::abs(table.row(i)[v].real() - mean));
  }
  kernels::log_softmax_ref(table, table);
  kernels::cross_entropy_ref(table, targets_, 0.0, TensorOf<Complex>(losses.data(), {rows, 1}));
  for (const Complex& loss : losses) {
    d.losses.push_back(loss.real());
    d.of_sum += loss.imag() / kStep;
  }
  return d;
}

namespace {

// A random sign for each weight, the same every time.
class Signs {
 public:
  double next() { return random_.bits() & 1 ? 1 : -1; }

 private:
  Random random_{3};
};

// Sums of f(a, b) over all gradients of two models alike, in the order of names.
template <class Gradients, class F>
double sum_over(const Gradients& one, const Gradients& other, F&& f) {
  double sum = 0;
  for (const auto& [name, a] : one) {
    const std::vector<float>& b = other.at(name);
    for (size_t i = 0; i < a.size(); ++i)
      sum += f(static_cast<double>(a[i]), static_cast<double>(b[i]));
  }
  return sum;
}

// The roundings that a product's result passes through beside its weight's: its other operand's, in
// forward and backward, and those of the products before it.
constexpr double kRoundings = 3;

// How far the gradients move when each weight is rounded to bfloat16, with products in float32; 0
// for steps that round nothing. Where a norm of few, opposed terms magnifies that (gla at the start
// of a sequence), a step with rounded operands cannot be nearer, however right it is.
template <class F>
double sensitivity_to_rounding(LanguageModel& model, TrainingOptions options, F&& train) {
  if (options.compute_type == kernels::ComputeType::kFloat32) return 0;
  options.compute_type = kernels::ComputeType::kFloat32;
  const std::span<float> weights = model.parameters().weights();
  const std::span<const float> gradients = model.parameters().gradients();
  const std::vector<float> exact_weights(weights.begin(), weights.end());
  train(options);
  const std::vector<float> exact(gradients.begin(), gradients.end());
  kernels::round_to_bf16({weights.data(), {std::ssize(weights)}});
  train(options);
  std::ranges::copy(exact_weights, weights.begin());
  double squares = 0;
  for (size_t i = 0; i < exact.size(); ++i)
    squares += std::pow(static_cast<double>(gradients[i]) - exact[i], 2);
  return std::sqrt(squares);
}

}  // namespace

Check StepCheck::check(LanguageModel& model, TrainingOptions options, const Planted& planted) {
  const auto rows = static_cast<int64_t>(tokens_.size());
  std::vector<float> losses(tokens_.size());
  RaggedBatchBuilder data;
  std::vector<int32_t> cu_seqlens{0, static_cast<int32_t>(first_)};
  if (first_ < tokens_.size()) cu_seqlens.push_back(static_cast<int32_t>(rows));
  if (cu_seqlens.size() > 2) planted.in_boundaries(cu_seqlens);
  const std::vector<int32_t> past(cu_seqlens.size() - 1);
  const RaggedBatch batch = data.set(cu_seqlens, past);
  options.scale = 1;
  const auto train = [&](const TrainingOptions& how) {
    model.clear_gradients();
    Workspace().run({}, [&](ExecutionContext& ctx, Arena& saved) {
      model.train(ctx, batch, {tokens_, targets_}, how, {losses.data(), {rows}}, saved);
    });
    model.finish_gradients();
  };
  const double sensitivity = sensitivity_to_rounding(model, options, train);
  train(options);
  planted.in_output(model.parameters().gradients());

  Gradients gradients;
  for (const auto& tensor : model.parameters().file_tensors())
    gradients[tensor.name].assign(tensor.g.data, tensor.g.data + tensor.g.size());
  std::optional<Exact> measured;
  if (!exact_) measured = measure(gradients);
  const Exact& exact = exact_ ? *exact_ : *measured;
  Check check;
  check.that("the logits are all alike: they tell nothing of the weights",
             vocabulary_ == 1 || exact.along_signs.largest_logit >= kSmallestLogit);
  const Allowed error = allowed(options.compute_type);
  for (size_t i = 0; i < losses.size(); ++i) {
    const double loss = exact.along_signs.losses[i];
    check.near(fmt::format("loss of row {}", i), static_cast<double>(losses[i]), loss,
               error.loss * std::max(1.0, loss));
  }
  // Rounding errors of the gradients g are at right angles to them, or nearly: along g they add
  // their own square, over |g|.
  const double rounding = kRoundings * sensitivity;
  const double off = std::max(error.gradient * exact.norm, rounding);
  const double off_itself = std::max(error.itself * exact.norm, rounding * rounding / exact.norm);
  Signs signs;
  const auto sum = [&](auto&& f) { return sum_over(gradients, exact.gradients, f); };
  check.near("gradients along a direction", sum([&](double g, double) { return g * signs.next(); }),
             exact.along_signs.of_sum, off);
  check.near("gradients along themselves",
             sum([](double g, double first) { return g * first; }) / exact.norm,
             exact.along_gradients.of_sum, off_itself);
  check.near("gradients beside those of the first step",
             sum([](double g, double first) { return (g - first) * (g - first); }) / exact.norm, 0,
             off_itself);
  if (measured && check.passed() && options.compute_type == kernels::ComputeType::kFloat32)
    exact_ = std::move(measured);
  return check;
}

StepCheck::Exact StepCheck::measure(Gradients gradients) {
  Exact exact;
  exact.norm = std::sqrt(sum_over(gradients, gradients, [](double g, double) { return g * g; }));
  Signs signs;
  exact.along_signs = derivative([&](float) { return signs.next(); }, gradients);
  exact.along_gradients = derivative([&](float g) { return g / exact.norm; }, gradients);
  exact.gradients = std::move(gradients);
  return exact;
}

}  // namespace refrain::bench

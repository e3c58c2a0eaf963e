#include "refrain/model/form_check.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <map>
#include <numeric>

#include "refrain/base/error.h"
#include "refrain/base/random.h"
#include "refrain/model/parameters/parameter_groups.h"
#include "refrain/model/reference.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"

namespace refrain {
namespace {

using Complex = std::complex<double>;

// What a form gives: logits [T, V], and each block's state.
struct Outcome {
  std::vector<double> logits, states;
};

double largest_of(const std::vector<double>& values) {
  double most = 0;
  for (const double v : values) most = std::max(most, std::abs(v));
  return most;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REFRAIN_CHECK(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]);
    if (!(d <= most)) most = std::isnan(d) ? INFINITY : d;  // NaN is not agreement
  }
  return most;
}

// The sequence in windows of the given lengths, with a state; or whole, without one.
Outcome run_form(const LanguageModel& model, std::span<const int32_t> tokens,
                 const std::vector<int32_t>& lengths, bool with_state) {
  const int64_t T = static_cast<int64_t>(tokens.size()), V = model.config().vocab_size;
  const int64_t L = model.config().layers;
  SequenceState state(model, with_state ? T : 0);
  Workspace workspace;
  RaggedBatchBuilder data;
  std::vector<float> logits(static_cast<size_t>(T * V));
  int32_t at = 0;
  for (const int32_t n : lengths) {
    const RaggedBatch batch = data.set(std::vector<int32_t>{0, n}, std::vector<int32_t>{at});
    SequenceState* const rows[] = {&state};
    const StateView view(rows, L);
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    const auto piece = tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(n));
    workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
      model.logits(ctx, batch, piece, with_state ? view.states() : std::span<const State>(), all,
                   {logits.data() + at * V, {n, V}});
    });
    state.advance(n);
    at += n;
  }
  Outcome outcome{{logits.begin(), logits.end()}, {}};
  for (int64_t l = 0; with_state && l < L; ++l) {
    const auto block = static_cast<size_t>(l);
    const std::vector<float> numbers =
        model.mixer(block).state_numbers({state.row(block), model.state_bytes(l, T)});
    outcome.states.insert(outcome.states.end(), numbers.begin(), numbers.end());
  }
  return outcome;
}

std::vector<FormDifference> compare_forms(LanguageModel& m, std::span<const int32_t> ids,
                                          const FormCheck& check) {
  const auto T = static_cast<int32_t>(ids.size());
  Random random(mix_key(check.seed, "cuts"));
  std::vector<int32_t> cuts;
  for (int32_t left = T; left > 0; left -= cuts.back())
    cuts.push_back(static_cast<int32_t>(
        std::min<uint64_t>(1 + random.below(64), static_cast<uint64_t>(left))));
  const Outcome whole = run_form(m, ids, {T}, false), chunked = run_form(m, ids, cuts, true),
                stepped = run_form(m, ids, std::vector<int32_t>(ids.size(), 1), true);
  Outcome exact;
  std::vector<std::vector<double>> states;
  exact.logits = ReferenceModel<double>(m).logits(ids, &states);
  for (const double value : exact.logits)
    if (!std::isfinite(value))
      throw_error("logits in float64: expected finite numbers, found {}", value);
  for (const auto& state : states)
    exact.states.insert(exact.states.end(), state.begin(), state.end());

  const Storage storage = m.parameters().storage();
  const bool rounds = storage != Storage::kFloat32 && storage != Storage::kFloat16;
  const double between_forms = rounds ? check.rounded_tolerance : check.tolerance;
  // A number near the middle between two values of the cache's type may be rounded to one of them
  // in float32, to the other in float64.
  const double to_exact = std::max(between_forms, kernels::cache_step(m.cache_type()));
  std::vector<FormDifference> all;
  const auto compare = [&](const char* what, const char* between, auto part, const Outcome& a,
                           const Outcome& b) {
    all.push_back({what, between, largest_difference(a.*part, b.*part), largest_of(exact.*part),
                   &b == &exact ? to_exact : between_forms});
  };
  compare("logits", "whole, float64", &Outcome::logits, whole, exact);
  compare("logits", "chunked, float64", &Outcome::logits, chunked, exact);
  compare("logits", "stepped, float64", &Outcome::logits, stepped, exact);
  compare("logits", "whole, chunked", &Outcome::logits, whole, chunked);
  compare("logits", "whole, stepped", &Outcome::logits, whole, stepped);
  compare("states", "chunked, float64", &Outcome::states, chunked, exact);
  compare("states", "stepped, float64", &Outcome::states, stepped, exact);
  compare("states", "chunked, stepped", &Outcome::states, chunked, stepped);
  return all;
}

// Gradients are those of training, which keeps no cache in another type.
class InFloat32 {
 public:
  explicit InFloat32(LanguageModel& model) : model_(model), type_(model.cache_type()) {
    model_.set_cache_type(kernels::CacheType::kFloat32);
  }
  InFloat32(const InFloat32&) = delete;
  InFloat32& operator=(const InFloat32&) = delete;
  ~InFloat32() { model_.set_cache_type(type_); }

 private:
  LanguageModel& model_;
  kernels::CacheType type_;
};

// A gradient's error e is estimated by its products with random directions r of +-1, whose mean
// square is |e|^2; the complex step gives the exact gradient's product with r in one pass.
void compare_gradients(LanguageModel& m, std::span<const int32_t> ids, const FormCheck& check,
                       std::vector<FormDifference>& differences) {
  const auto rows = std::min(ids.size() - 1, static_cast<size_t>(check.gradient_tokens));
  if (rows == 0) return;
  constexpr int kDirections = 2;
  constexpr double kStep = 1e-30;
  const auto inputs = ids.first(rows), targets = ids.subspan(1, rows);
  m.allocate_gradients();
  m.clear_gradients();
  RaggedBatchBuilder builder;
  const RaggedBatch w = builder.whole(1, static_cast<int64_t>(rows));
  std::vector<float> losses(rows);
  Workspace().run({}, [&](ExecutionContext& ctx, Arena& saved) {
    m.train(ctx, w, {.tokens = inputs, .targets = targets},
            {.scale = 1.0f / static_cast<float>(rows)}, {losses.data(), {w.rows()}}, saved);
  });
  m.finish_gradients();

  ReferenceModel<Complex> exact(m);
  std::map<std::string, double> norm_squared, error_squared;  // by group
  const auto for_group = [&](const std::string& group, auto&& f) {
    for (const auto& [name, shape, weights, g] : m.parameters().file_tensors())
      if (group_of(name) == group)
        f(name, std::span<const float>(g.data, static_cast<size_t>(g.size())));
  };
  for (const auto& tensor : m.parameters().file_tensors()) norm_squared[group_of(tensor.name)] = 0;
  for (auto& [group, norm] : norm_squared) {
    for_group(group, [&norm = norm](const std::string&, std::span<const float> g) {
      for (const float x : g) norm += static_cast<double>(x) * x;
    });
    for (uint64_t i = 0; i < kDirections; ++i) {
      Random random(mix_key(check.seed, "direction", i));
      double along = 0;
      for_group(group, [&](const std::string& name, std::span<const float> g) {
        std::vector<Complex>& weights = exact.weights().at(name);
        for (size_t k = 0; k < g.size(); ++k) {
          const double sign = random.bits() & 1 ? 1 : -1;
          along += sign * g[k];
          weights[k] = Complex(weights[k].real(), sign * kStep);
        }
      });
      const double want = exact.loss(inputs, targets).imag() / kStep / static_cast<double>(rows);
      error_squared[group] += (along - want) * (along - want) / kDirections;
      for_group(group, [&](const std::string& name, std::span<const float>) {
        for (Complex& weight : exact.weights().at(name)) weight = weight.real();
      });
    }
    differences.push_back({"gradient", group + ", float64", std::sqrt(error_squared[group]),
                           std::sqrt(norm), check.tolerance});
  }
}

}  // namespace

bool FormDifference::passed() const { return std::isfinite(scale) && largest <= tolerance * scale; }

std::vector<FormDifference> check_forms(LanguageModel& model, std::span<const int32_t> tokens,
                                        const FormCheck& check) {
  if (tokens.size() < 2) throw_error("expected two tokens or more, found {}", tokens.size());
  std::vector<FormDifference> all = compare_forms(model, tokens, check);
  if (model.parameters().is_packed()) return all;
  const InFloat32 training(model);
  compare_gradients(model, tokens, check, all);
  return all;
}

std::vector<FormDifference> check_gradients(LanguageModel& model, std::span<const int32_t> tokens,
                                            const FormCheck& check) {
  if (tokens.size() < 2) throw_error("expected two tokens or more, found {}", tokens.size());
  std::vector<FormDifference> all;
  const InFloat32 training(model);
  compare_gradients(model, tokens, check, all);
  return all;
}

}  // namespace refrain

// Runs the forms of a model that must agree, on real text, and compares what they give: logits, the
// states they leave and gradients, against one another and against plain loops in float64.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <map>
#include <numeric>

#include "cli/finite.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/parameter_groups.h"
#include "cli/verbs.h"
#include "refrain/base/random.h"
#include "refrain/io/json.h"
#include "refrain/model/reference.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"

namespace refrain::cli {
namespace {

constexpr const char* kText =
    "Rain had fallen all night on the 14 roofs of the harbour, and by morning the gutters were "
    "singing. \"Listen,\" said the old pilot to his grandson, \"every street has a tune of its "
    "own; "
    "if you lose your way, follow the one that brought you here.\" The boy listened. He heard the "
    "water run down the steps, pause at the fountain, and begin again, a little slower each time, "
    "until it was so quiet that he could count the drops: one, two, three.\n";

using Complex = std::complex<double>;

struct Difference {
  std::string what, between;
  double largest, scale, tolerance;  // largest difference; largest value it is measured by

  // What is infinite agrees with nothing.
  bool passed() const { return std::isfinite(scale) && largest <= tolerance * scale; }
};

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
    const auto* row = reinterpret_cast<const float*>(state.row(static_cast<size_t>(l)));
    outcome.states.insert(outcome.states.end(), row, row + model.state_bytes(l, T) / sizeof(float));
  }
  return outcome;
}

struct Verify {
  std::string model;
  std::vector<std::string> data;
  int64_t tokens = 256, gradient_tokens = 32, seed = 1;
  double tolerance = 1e-4;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "model directory");
    v("data", data, "files of text; none = a paragraph of English");
    v("tokens", tokens, "tokens of the text to run");
    v("gradient_tokens", gradient_tokens, "how many of them gradients are taken over; 0 = none");
    v("tolerance", tolerance, "largest difference allowed, as a share of the largest value");
    v("seed", seed, "of the cuts and of the directions gradients are compared along");
    v("json", json, "print JSON");
  }

  void check(const CommandLine&) const {
    if (tokens < 2 || tokens > 65536)
      throw_error("--tokens: expected 2 to 65536, found {}", tokens);
    if (gradient_tokens < 0)
      throw_error("--gradient-tokens: expected 0 or more, found {}", gradient_tokens);
    if (!(tolerance > 0)) throw_error("--tolerance: expected more than 0, found {}", tolerance);
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    check(line);
    const LoadedModel loaded = load_with_tokenizer(model);
    const std::vector<int32_t> ids = first_ids(loaded.tokenizer);
    std::vector<Difference> differences = compare_forms(*loaded.model, ids);
    const auto rows = std::min<size_t>(ids.size() - 1, static_cast<size_t>(gradient_tokens));
    if (rows > 0) compare_gradients(*loaded.model, ids, rows, differences);

    const bool passed = std::all_of(differences.begin(), differences.end(),
                                    [](const Difference& d) { return d.passed(); });
    print(json ? as_json(differences, ids.size(), passed)
               : as_text(differences, ids.size(), rows, passed));
    return passed ? 0 : 1;
  }

 private:
  std::vector<int32_t> first_ids(const text::Tokenizer& tokenizer) const {
    std::vector<int32_t> ids;
    if (data.empty()) {
      ids = tokenizer.encode(kText);
    } else {
      const data::DataSet set = open_data({.task = "lm", .inputs = data}, tokenizer);
      ids.resize(static_cast<size_t>(std::min(tokens, set.tokens())));
      set.read(0, ids);
    }
    if (ids.size() > static_cast<size_t>(tokens)) ids.resize(static_cast<size_t>(tokens));
    if (ids.size() < 2)
      throw_error("{}: expected at least 2 tokens, found {}",
                  data.empty() ? "the built-in text" : fmt::format("{}", fmt::join(data, ", ")),
                  ids.size());
    return ids;
  }

  std::vector<Difference> compare_forms(LanguageModel& m, const std::vector<int32_t>& ids) const {
    const auto T = static_cast<int32_t>(ids.size());
    Random random(mix_key(static_cast<uint64_t>(seed), "cuts"));
    std::vector<int32_t> cuts;
    for (int32_t left = T; left > 0; left -= cuts.back())
      cuts.push_back(static_cast<int32_t>(
          std::min<uint64_t>(1 + random.below(64), static_cast<uint64_t>(left))));
    const Outcome whole = run_form(m, ids, {T}, false), chunked = run_form(m, ids, cuts, true),
                  stepped = run_form(m, ids, std::vector<int32_t>(ids.size(), 1), true);
    Outcome exact;
    std::vector<std::vector<double>> states;
    exact.logits = ReferenceModel<double>(m).logits(ids, &states);
    expect_finite(model, "logits in float64", std::span<const double>(exact.logits));
    for (const auto& state : states)
      exact.states.insert(exact.states.end(), state.begin(), state.end());

    std::vector<Difference> all;
    const auto compare = [&](const char* what, const char* between, auto part, const Outcome& a,
                             const Outcome& b) {
      all.push_back({what, between, largest_difference(a.*part, b.*part), largest_of(exact.*part),
                     tolerance});
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

  // A gradient's error e is estimated by its products with random directions r of +-1, whose mean
  // square is |e|^2; the complex step gives the exact gradient's product with r in one pass.
  void compare_gradients(LanguageModel& m, const std::vector<int32_t>& ids, size_t rows,
                         std::vector<Difference>& differences) const {
    constexpr int kDirections = 2;
    constexpr double kStep = 1e-30;
    const auto inputs = std::span(ids).first(rows), targets = std::span(ids).subspan(1, rows);
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
    for (const auto& tensor : m.parameters().file_tensors())
      norm_squared[group_of(tensor.name)] = 0;
    for (auto& [group, norm] : norm_squared) {
      for_group(group, [&norm = norm](const std::string&, std::span<const float> g) {
        for (const float x : g) norm += static_cast<double>(x) * x;
      });
      for (uint64_t i = 0; i < kDirections; ++i) {
        Random random(mix_key(static_cast<uint64_t>(seed), "direction", i));
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
                             std::sqrt(norm), tolerance});
    }
  }

  std::string as_text(const std::vector<Difference>& differences, size_t T, size_t rows,
                      bool passed) const {
    std::string text = fmt::format(
        "{} tokens, gradients over {}; allowed: {:g} of the largest\n\n"
        "{:<10}{:<26}{:>12}{:>12}{:>12}\n",
        T, rows, tolerance, "", "between", "difference", "largest", "share");
    for (const Difference& d : differences)
      text += fmt::format("{:<10}{:<26}{:>12.2e}{:>12.2e}{:>12.2e}{}\n", d.what, d.between,
                          d.largest, d.scale, d.largest / d.scale, d.passed() ? "" : "  too large");
    return text + (passed ? "\nall agree\n" : "\nthey do not agree\n");
  }

  std::string as_json(const std::vector<Difference>& differences, size_t T, bool passed) const {
    io::Json list = io::Json::array();
    for (const Difference& d : differences)
      list.push_back({{"what", d.what},
                      {"between", d.between},
                      {"difference", d.largest},
                      {"largest", d.scale},
                      {"passed", d.passed()}});
    return io::to_text({{"tokens", T},
                        {"tolerance", tolerance},
                        {"passed", passed},
                        {"comparisons", std::move(list)}});
  }
};

}  // namespace

Verb verify_verb() {
  return make_verb<Verify>(
      "verify", "check that all forms of a model agree, and with float64",
      "-m DIR [--data FILE...]",
      "whole     all tokens at once, as in training\n"
      "chunked   cut at random places, the state carried between\n"
      "stepped   token by token, as in generation\n"
      "float64   plain loops, which share no code with the others\n"
      "A gradient's difference and size are norms, the difference as estimated along random\n"
      "directions. The exit status is 1 when something does not agree.");
}

}  // namespace refrain::cli

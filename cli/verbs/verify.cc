// Runs the forms of a model that must agree, on real text, and compares what they give: logits, the
// states they leave and gradients, against one another and against plain loops in float64.
#include <fmt/ranges.h>

#include <algorithm>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "refrain/io/json.h"
#include "refrain/model/form_check.h"

namespace refrain::cli {
namespace {

constexpr const char* kText =
    "Rain had fallen all night on the 14 roofs of the harbour, and by morning the gutters were "
    "singing. \"Listen,\" said the old pilot to his grandson, \"every street has a tune of its "
    "own; if you lose your way, follow the one that brought you here.\" The boy listened. He "
    "heard the water run down the steps, pause at the fountain, and begin again, a little slower "
    "each time, until it was so quiet that he could count the drops: one, two, three.\n";

struct Verify {
  std::string model, cache_type = "f32";
  std::vector<std::string> data;
  int64_t tokens = 256, gradient_tokens = 32, seed = 1;
  double tolerance = 1e-4;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, kModelHelp);
    v("data", data, "files of text; none = a paragraph of English");
    v("tokens", tokens,
      "tokens of the text to run, at most as many as a model has learned positions");
    v("gradient_tokens", gradient_tokens, "how many of them gradients are taken over; 0 = none");
    v("tolerance", tolerance, "largest difference allowed, as a share of the largest value");
    v("cache_type", cache_type, kCacheTypeHelp);
    v("seed", seed, "of the cuts and of the directions gradients are compared along");
    v("json", json, "print JSON");
  }

  void check(const CommandLine&) const {
    parse_cache_type(cache_type);
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
    set_cache_type(loaded, cache_type);
    const std::vector<int32_t> ids = first_ids(loaded);
    const Storage storage = loaded.model->parameters().storage();
    const std::vector<FormDifference> differences = compared(*loaded.model, ids);
    // A quantised model has no gradients.
    const auto rows = storage == Storage::kFloat32
                          ? std::min<size_t>(ids.size() - 1, static_cast<size_t>(gradient_tokens))
                          : 0;

    const bool passed = std::all_of(differences.begin(), differences.end(),
                                    [](const FormDifference& d) { return d.passed(); });
    print(json ? as_json(differences, ids.size(), passed)
               : as_text(differences, ids.size(), rows, passed));
    if (storage != Storage::kFloat32 && gradient_tokens > 0)
      note(fmt::format("{}: weights in {} are not trained: gradients are not compared", model,
                       kernels::name_of(storage)));
    return passed ? 0 : 1;
  }

 private:
  std::vector<int32_t> first_ids(const LoadedModel& loaded) const {
    const text::Tokenizer& tokenizer = loaded.tokenizer;
    const ModelConfig& config = loaded.model->config();
    const int64_t most = config.learned_positions ? std::min(tokens, config.context) : tokens;
    std::vector<int32_t> ids;
    if (data.empty()) {
      ids = tokenizer.encode(kText);
    } else {
      const data::DataSet set = open_data({.task = "lm", .inputs = data}, tokenizer);
      ids.resize(static_cast<size_t>(std::min(most, set.tokens())));
      set.read(0, ids);
    }
    if (ids.size() > static_cast<size_t>(most)) ids.resize(static_cast<size_t>(most));
    if (ids.size() < 2)
      throw_error("{}: expected at least 2 tokens, found {}{}",
                  data.empty() ? "the built-in text" : fmt::format("{}", fmt::join(data, ", ")),
                  ids.size(),
                  data.empty() ? " by this tokenizer; --data names a text that it has" : "");
    return ids;
  }

  std::vector<FormDifference> compared(LanguageModel& m, const std::vector<int32_t>& ids) const {
    try {
      const FormCheck check{.gradient_tokens = gradient_tokens,
                            .tolerance = tolerance,
                            .seed = static_cast<uint64_t>(seed)};
      std::vector<FormDifference> all = check_forms(m, ids, check);
      if (m.parameters().storage() == Storage::kFloat32 && gradient_tokens > 0) {
        const auto trained = load_model(model);
        const auto gradients = check_gradients(*trained, ids, check);
        all.insert(all.end(), gradients.begin(), gradients.end());
      }
      return all;
    } catch (const Error& error) {
      throw_error("{}: {}", model, error.what());
    }
  }

  std::string as_text(const std::vector<FormDifference>& differences, size_t T, size_t rows,
                      bool passed) const {
    std::string text =
        fmt::format("{} tokens, gradients over {}\n\n{:<10}{:<26}{:>12}{:>12}{:>12}{:>12}\n", T,
                    rows, "", "between", "difference", "largest", "share", "allowed");
    for (const FormDifference& d : differences)
      text += fmt::format("{:<10}{:<26}{:>12.2e}{:>12.2e}{:>12.2e}{:>12.2g}{}\n", d.what, d.between,
                          d.largest, d.scale, d.largest / d.scale, d.tolerance,
                          d.passed() ? "" : "  too large");
    return text + (passed ? "\nall agree\n" : "\nthey do not agree\n");
  }

  std::string as_json(const std::vector<FormDifference>& differences, size_t T, bool passed) const {
    io::Json list = io::Json::array();
    for (const FormDifference& d : differences)
      list.push_back({{"what", d.what},
                      {"between", d.between},
                      {"difference", d.largest},
                      {"largest", d.scale},
                      {"tolerance", d.tolerance},
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
      "whole     all tokens at once, as in training (the parallel form)\n"
      "chunked   cut at random places, the state carried between (chunkwise)\n"
      "stepped   token by token, as in generation (recurrent)\n"
      "float64   plain loops, which share no code with the others\n"
      "A gradient's difference and size are norms, the difference as estimated along random\n"
      "directions. With a --cache-type that rounds, float64 rounds keys and values, too: a step "
      "of\n"
      "the type is allowed beside it. The exit status is 1 when something does not agree.");
}

}  // namespace refrain::cli

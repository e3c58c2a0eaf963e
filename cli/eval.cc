// Scores a model on text: loss, and exact match of translations.
#include <chrono>
#include <cmath>
#include <numbers>
#include <sstream>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/translator.h"
#include "cli/verbs.h"
#include "refrain/data/batches.h"
#include "refrain/io/json.h"
#include "refrain/model/workspace.h"
#include "refrain/train/trainer.h"

namespace refrain::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The words of a line with one space between them.
std::string words_of(const std::string& text) {
  std::istringstream words(text);
  std::string line;
  for (std::string word; words >> word;) line += (line.empty() ? "" : " ") + word;
  return line;
}

struct Eval {
  std::string model, task;
  std::vector<std::string> data;
  int64_t context = 0;
  TranslationSettings translation;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "model directory");
    v("data", data,
      "lm: files of text or a token file; translate: source lines and target lines, or one .tsv or "
      ".jsonl");
    v("task", task, "lm or translate; empty = what the model was trained for");
    v("context", context, "lm: tokens of a window; 0 = the model's context");
    translation.visit(v);
    v("json", json, "print JSON");
  }

  int run(const CommandLine& line) {
    line.require({"model", "data"});
    const LoadedModel loaded = load_with_tokenizer(model);
    if (task.empty()) task = loaded.task.task;
    if (task != "lm" && task != "translate")
      throw_error("--task: expected lm or translate, found {}", io::quote(task));
    const io::Json scores = task == "lm" ? score_text(loaded) : score_translations(loaded);
    print(json ? io::to_text(scores) : as_text(scores));
    return 0;
  }

  static Evaluation put_loss(const LanguageModel& model, const data::DataSet& set,
                             const data::BatchConfig& config, io::Json& scores) {
    Workspace workspace;
    const Evaluation result = evaluate(model, set, config, workspace);
    scores["loss"] = result.loss;
    scores["perplexity"] = std::exp(result.loss);
    scores["tokens"] = result.tokens;
    scores["tokens_per_second"] = static_cast<double>(result.tokens) / result.seconds;
    return result;
  }

  io::Json score_text(const LoadedModel& loaded) const {
    constexpr int64_t kRows = 8192, kMaxContext = int64_t{1} << 24;
    if (context < 0 || context > kMaxContext)
      throw_error("--context: expected 0 to {}, found {}", kMaxContext, context);
    data::BatchConfig config;
    config.context = context > 0 ? context : loaded.model->config().context;
    config.batch_size = std::max<int64_t>(1, kRows / config.context);
    const data::DataSet set = open_data({.task = "lm", .inputs = data}, loaded.tokenizer);
    io::Json scores = {{"task", "lm"}};
    const Evaluation result = put_loss(*loaded.model, set, config, scores);
    if (const auto bytes = set.text_bytes(); bytes && *bytes > 0)
      scores["bits_per_byte"] = result.loss * static_cast<double>(result.tokens) /
                                std::numbers::ln2 / static_cast<double>(*bytes);
    return scores;
  }

  io::Json score_translations(const LoadedModel& loaded) const {
    Translator translator(loaded, translation);
    const data::SourceFiles source{.task = "translate",
                                   .inputs = data,
                                   .source_tag = translator.task().source_tag,
                                   .target_tag = translator.task().target_tag};
    for (const std::string& input : data)
      if (input == "-" || data::DataSet::is_token_file(input))
        throw_error("{}: translations are scored on files of text", input);

    std::vector<std::string> sources, references;
    data::PairReader reader(source, data::rules_of(loaded.tokenizer).utf8);
    for (std::string from, to; reader.next(from, to);) {
      sources.push_back(from);
      references.push_back(words_of(to));
    }
    io::Json scores = {{"task", "translate"}};
    data::BatchConfig config;
    config.context = config.max_tokens = translation.max_tokens;
    config.skip_long = false;
    put_loss(*loaded.model, open_data(source, loaded.tokenizer), config, scores);

    const auto start = Clock::now();
    const std::vector<Translation> translations = translator.translate(sources, 1);
    int64_t matches = 0;
    for (size_t i = 0; i < sources.size(); ++i)
      matches += words_of(translations[i].text) == references[i];
    scores["pairs"] = sources.size();
    scores["matches"] = matches;
    scores["exact_match"] = static_cast<double>(matches) / static_cast<double>(sources.size());
    scores["pairs_per_second"] = static_cast<double>(sources.size()) / seconds_since(start);
    return scores;
  }

  static std::string as_text(const io::Json& scores) {
    const auto number = [&](const char* key) { return scores.at(key).get<double>(); };
    std::string text = fmt::format("loss            {:.4f} nats/token\nperplexity      {:.4f}\n",
                                   number("loss"), number("perplexity"));
    if (scores.contains("bits_per_byte"))
      text += fmt::format("bits per byte   {:.4f}\n", number("bits_per_byte"));
    text += fmt::format("tokens          {} ({:.0f} a second)\n",
                        scores.at("tokens").get<int64_t>(), number("tokens_per_second"));
    if (scores.contains("exact_match"))
      text += fmt::format("exact match     {:.2f} % ({} of {} pairs, {:.0f} a second)\n",
                          100 * number("exact_match"), scores.at("matches").get<int64_t>(),
                          scores.at("pairs").get<int64_t>(), number("pairs_per_second"));
    return text;
  }
};

}  // namespace

Verb eval_verb() {
  return make_verb<Eval>(
      "eval", "score a model on text", "-m DIR --data FILE...",
      "lm         loss, perplexity and bits per byte over the whole text, in windows of --context\n"
      "           tokens that each start from nothing\n"
      "translate  loss of the target's tokens, and how many greedy translations equal the "
      "reference\n"
      "           (white space aside)");
}

}  // namespace refrain::cli

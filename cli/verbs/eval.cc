// Scores a model on text: loss, and how close its translations are to the references.
#include "cli/verbs/eval.h"

#include <cmath>
#include <numbers>
#include <sstream>

#include "cli/effect.h"
#include "cli/finite.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "cli/verbs/reconstruct.h"
#include "cli/verbs/similarity.h"
#include "cli/verbs/translator.h"
#include "refrain/base/clock.h"
#include "refrain/data/batches.h"
#include "refrain/io/json.h"
#include "refrain/model/workspace.h"
#include "refrain/text/chat/conversation.h"
#include "refrain/train/accuracy.h"
#include "refrain/train/language_model_task.h"

namespace refrain::cli {
namespace {

// The words of a line with one space between them.
std::string words_of(const std::string& text) {
  std::istringstream words(text);
  std::string line;
  for (std::string word; words >> word;) line += (line.empty() ? "" : " ") + word;
  return line;
}

struct Eval {
  std::string model, task, cache_type = "f32";
  std::string adapter;
  std::vector<std::string> data;
  int64_t context = 0, streams = 1;
  TranslationSettings translation;
  SimilaritySettings similarity;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, kModelHelp);
    v("adapter", adapter, kAdapterHelp);
    v("data", data,
      "lm: files of text or a token file; translate: source lines and target lines, or one .tsv, "
      ".jsonl or .json; probe: one .jsonl or a token file");
    v("task", task, "lm, translate or probe; empty = what the model was trained for");
    v("context", context,
      "lm: tokens of a window, each of which starts from nothing; 0 = the state is carried through "
      "the whole text where the model's does not grow, else the model's context");
    v("streams", streams,
      "lm, with the state carried: cut the text into so many parts that are read side by side, "
      "which is faster");
    v("cache_type", cache_type, kCacheTypeHelp);
    translation.visit(v);
    similarity.visit(v);
    v("json", json, "print JSON");
  }

  void check(const CommandLine& line) const {
    parse_cache_type(cache_type);
    if (task.empty()) return;  // the model says
    check_task(task);
    check_effect(line, task);
  }

  // Settings of other tasks than what is scored.
  void check_effect(const CommandLine& line, const std::string& of) const {
    const std::string why = fmt::format("has no meaning with the task {}", of);
    const auto refuse = [&](const char* name, auto&, const char*) {
      refuse_given(line, name, why);
    };
    if (of != "lm")
      for (const char* name : {"context", "streams"}) refuse_given(line, name, why);
    if (of == "translate") return;
    TranslationSettings(translation).visit(refuse);
    SimilaritySettings(similarity).visit(refuse);
  }

  int run(const CommandLine& line) {
    line.require({"model", "data"});
    check(line);
    require_model_directory(model);
    if (Autoencoder::is_model(model)) {
      for (const char* name : {"task", "cache_type", "adapter"})
        refuse_given(line, name, "has no meaning with a sequence autoencoder");
      check_effect(line, "reconstruct");
      const io::Json scores = reconstruction_scores(model, data);
      print(json ? io::to_text(scores) : reconstruction_text(scores));
      return 0;
    }
    LoadedModel loaded = load_with_tokenizer(model);
    loaded.lora = adapt(*loaded.model, adapter);
    set_cache_type(loaded, cache_type);
    if (task.empty()) task = loaded.task.task;
    check_effect(line, task);
    const io::Json scores = score(loaded);
    print(json ? io::to_text(scores) : as_text(scores));
    return 0;
  }

  io::Json score(const LoadedModel& loaded) const {
    return task == "lm"          ? score_text(loaded)
           : task == "translate" ? score_translations(loaded)
           : task == "chat"      ? score_chat(loaded)
                                 : score_probes(loaded);
  }

  void put_loss(const LanguageModel& network, const data::DataSet& set,
                const data::BatchConfig& config, io::Json& scores) const {
    Workspace workspace;
    put_loss(evaluate(network, set, config, workspace), scores);
  }
  void put_loss(const EvaluationResult& result, io::Json& scores) const {
    expect_finite(model, "loss", result.loss);
    scores["loss"] = result.loss;
    scores["perplexity"] = std::exp(result.loss);
    scores["tokens"] = result.tokens;
    scores["tokens_per_second"] = static_cast<double>(result.tokens) / result.seconds;
  }

  io::Json score_text(const LoadedModel& loaded) const {
    constexpr int64_t kRows = 8192, kMaxContext = int64_t{1} << 24;
    if (context < 0 || context > kMaxContext)
      throw_error("--context: expected 0 to {}, found {}", kMaxContext, context);
    const bool carries = context == 0 && loaded.model->bounded_state();
    constexpr int64_t kMostStreams = 4096, kShortest = 32;
    if (streams < 1 || streams > kMostStreams)
      throw_error("--streams: expected 1 to {}, found {}", kMostStreams, streams);
    if (!carries && streams > 1)
      throw_error("--streams: expected a model whose state does not grow, and no --context");
    data::BatchConfig config;
    config.context = context > 0 ? context : loaded.model->config().context;
    config.batch_size = std::max<int64_t>(1, kRows / config.context);
    const data::DataSet set = open_data({.task = "lm", .inputs = data}, loaded.tokenizer);
    io::Json scores = {{"task", "lm"}};
    Workspace workspace;
    const EvaluationResult result =
        carries ? evaluate_streams(*loaded.model, set,
                                   {.streams = streams,
                                    .chunk_length = std::max(kShortest, kRows / 2 / streams),
                                    .together = streams},
                                   workspace)
                : evaluate(*loaded.model, set, config, workspace);
    put_loss(result, scores);
    if (const auto bytes = set.text_bytes(); bytes && *bytes > 0)
      scores["bits_per_byte"] = result.loss * static_cast<double>(result.tokens) /
                                std::numbers::ln2 / static_cast<double>(*bytes);
    return scores;
  }

  // The loss of what is supervised, each conversation for itself.
  io::Json score_chat(const LoadedModel& loaded) const {
    const text::ChatFormat format = text::ChatFormat::read(model);
    text::SourceFiles source{.task = "chat", .inputs = data};
    source.chat = &format;
    const data::DataSet set = open_data(source, loaded.tokenizer);
    constexpr int64_t kMaxRows = 8192;
    data::BatchConfig config{.context = 1};
    for (int64_t i = 0; i < set.sequences(); ++i)
      config.context = std::max(config.context, set.rows(i));
    config.max_tokens = std::max(config.context, kMaxRows);
    io::Json scores = {{"task", "chat"}, {"conversations", set.sequences()}};
    put_loss(*loaded.model, set, config, scores);
    return scores;
  }

  io::Json score_probes(const LoadedModel& loaded) const {
    constexpr int64_t kLogits = int64_t{1} << 25, kMaxRows = 8192;  // of a batch
    const text::SourceFiles source{.task = "probe", .inputs = data};
    const data::DataSet set = open_data(source, loaded.tokenizer);
    int64_t longest = 0;
    for (int64_t i = 0; i < set.sequences(); ++i) longest = std::max(longest, set.rows(i));
    data::BatchConfig config;
    config.context = longest;
    config.max_tokens =
        std::max(longest, std::min(kMaxRows, kLogits / loaded.model->config().vocab_size));
    io::Json scores = {{"task", "probe"}};
    put_loss(*loaded.model, set, config, scores);
    Workspace workspace;
    const Accuracy result = measure_accuracy(*loaded.model, set, config, workspace);
    scores["right"] = result.correct;
    scores["accuracy"] = static_cast<double>(result.correct) / static_cast<double>(result.total);
    scores["sequences"] = result.sequences;
    scores["perfect_sequences"] = result.exact_match;
    return scores;
  }

  // Pairs of another direction are left out, so that a file of several can be scored one by one.
  io::Json score_translations(const LoadedModel& loaded) const {
    Translator translator(loaded, translation);
    const data::Direction& direction = translator.direction();
    text::SourceFiles source{.task = "translate",
                             .inputs = data,
                             .source_tag = direction.source_tag,
                             .target_tag = direction.target_tag,
                             .one_direction = true};
    for (const std::string& input : data)
      if (data::DataSet::is_token_file(input))
        throw_error("{}: expected a file of text, by which translations are scored", input);
    copy_streams(source);

    std::vector<SourceLine> sources;
    std::vector<std::string> references;
    text::PairReader reader(source, text::rules_of(loaded.tokenizer).utf8);
    for (text::TextPair pair; reader.next(pair);) {
      sources.push_back({pair.source, pair.line});
      references.push_back(pair.target);
    }
    if (sources.empty())
      throw_error("{}: expected pairs from {} to {}, found none", reader.name(),
                  direction.source_tag, direction.target_tag);
    if (reader.blank() > 0)
      note(fmt::format("{}: {} left out for having no text", reader.name(), reader.blank()));

    io::Json scores = {{"task", "translate"},
                       {"source_tag", direction.source_tag},
                       {"target_tag", direction.target_tag}};
    data::BatchConfig config;
    config.context = config.max_tokens = translation.max_tokens;
    const data::DataSet set = open_data(source, loaded.tokenizer);
    check_lengths(set, source, config, translation.skip_long);
    put_loss(*loaded.model, set, config, scores);

    const auto start = Clock::now();
    const auto translations = translator.translate(sources, reader.name());
    const double seconds = seconds_since(start);
    int64_t matches = 0;
    Similarity scored(similarity, direction.target_tag);
    for (size_t i = 0; i < sources.size(); ++i) {
      const std::string& text = translations[i][0].text;
      matches += words_of(text) == words_of(references[i]);
      scored.add(text, references[i]);
    }
    scores["pairs"] = sources.size();
    scores["matches"] = matches;
    scores["exact_match"] = static_cast<double>(matches) / static_cast<double>(sources.size());
    scored.put(scores);
    scores["pairs_per_second"] = static_cast<double>(sources.size()) / seconds;
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
    if (scores.contains("accuracy"))
      text += fmt::format("accuracy        {:.2f} % ({} of {} asked; {} of {} sequences whole)\n",
                          100 * number("accuracy"), scores.at("right").get<int64_t>(),
                          scores.at("tokens").get<int64_t>(),
                          scores.at("perfect_sequences").get<int64_t>(),
                          scores.at("sequences").get<int64_t>());
    if (scores.contains("exact_match"))
      text += fmt::format("exact match     {:.2f} % ({} of {} pairs, {:.0f} a second)\n",
                          100 * number("exact_match"), scores.at("matches").get<int64_t>(),
                          scores.at("pairs").get<int64_t>(), number("pairs_per_second"));
    if (scores.contains("bleu")) text += Similarity::as_text(scores);
    return text;
  }
};

}  // namespace

io::Json scores_of(const std::string& name, const LoadedModel& model,
                   const std::vector<std::string>& data) {
  Eval eval;
  eval.model = name;
  eval.task = model.task.task;
  eval.data = data;
  return eval.score(model);
}

Verb eval_verb() {
  return make_verb<Eval>(
      "eval", "score a model on text", "-m DIR --data FILE...",
      "lm         loss, perplexity and bits per byte over the whole text. A recurrent stack reads "
      "it\n"
      "           from end to end in constant memory; other models, and with --context, read\n"
      "           windows that each start from nothing\n"
      "translate  loss of the target's tokens; how many translations equal the reference (white\n"
      "           space aside); BLEU and chrF, as sacreBLEU computes them\n"
      "probe      loss and exact accuracy where something is asked\n"
      "a sequence autoencoder: mean loss and cosine, and how many words are recovered");
}

}  // namespace refrain::cli

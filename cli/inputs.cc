#include "cli/inputs.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "cli/effect.h"
#include "cli/output.h"
#include "cli/unknown_characters.h"
#include "refrain/autoencoder/autoencoder.h"
#include "refrain/base/error.h"
#include "refrain/formats/chat_template.h"
#include "refrain/formats/peft.h"
#include "refrain/io/file.h"
#include "refrain/io/gguf/gguf.h"
#include "refrain/io/json.h"
#include "refrain/io/temporary_directory.h"
#include "refrain/io/text.h"
#include "refrain/mixers/registry.h"

namespace refrain::cli {
namespace {

// Where temporary files go.
std::string temporary_parent() {
  for (const char* name : {"TMPDIR", "TMP", "TEMP", "TEMPDIR"})
    if (const char* found = std::getenv(name); found && *found) return found;
  return "/tmp";
}

std::vector<std::string> without_repetitions(const std::vector<std::string>& all) {
  std::vector<std::string> once;
  for (const std::string& one : all)
    if (std::find(once.begin(), once.end(), one) == once.end()) once.push_back(one);
  return once;
}

}  // namespace

void require_model_directory(const std::string& path) {
  std::error_code ignored;
  if (io::exists(path) && !std::filesystem::is_directory(path, ignored) && !io::is_gguf(path))
    throw_error("{}: expected a model directory or a GGUF file, found another file", path);
}

void require_language_model(const std::string& directory) {
  require_model_directory(directory);
  if (Autoencoder::is_model(directory))
    throw_error(
        "{}: expected a language model, found a sequence autoencoder (refrain reconstruct shows "
        "what it makes of text, refrain eval scores it)",
        directory);
}

text::Tokenizer load_tokenizer(const std::string& path) {
  if (Autoencoder::is_model(path))
    throw_error("{}: expected a tokenizer, found a sequence autoencoder, which has words", path);
  return text::Tokenizer::load(path, [](const std::string& line) { note(line); });
}

bool has_tokenizer(const std::string& model) {
  if (!io::is_gguf(model)) return io::exists(model + "/tokenizer.json");
  return io::Gguf(model).find("tokenizer.ggml.tokens") != nullptr;
}

std::unique_ptr<LanguageModel> load_as_stored(const std::string& model) {
  require_language_model(model);
  return io::is_gguf(model) ? load_packed_model(model, nullptr, note)
                            : load_model(model, nullptr, note);
}

LoadedModel load_with_tokenizer(const std::string& directory, Storage type) {
  require_language_model(directory);
  SpecialTokens special;
  // The tokenizer first: it is the smaller file.
  text::Tokenizer tokenizer = load_tokenizer(directory);
  auto model = load_packed_model(directory, &special, note, type);
  if (tokenizer.vocab_size() > model->config().vocab_size)
    throw_error("{}: the tokenizer has {} tokens, expected at most the model's {}", directory,
                tokenizer.vocab_size(), model->config().vocab_size);
  if (special.bos < 0) special.bos = tokenizer.bos();
  if (special.eos < 0) special.eos = tokenizer.eos();
  if (special.pad < 0) special.pad = tokenizer.pad();
  return {nullptr, std::move(model), std::move(tokenizer),
          data::read_task(directory).value_or(data::TaskDescription()), special};
}

std::unique_ptr<Lora> adapt(LanguageModel& model, const std::string& adapter) {
  if (adapter.empty()) return nullptr;
  std::unique_ptr<Lora> lora = load_adapter(adapter, model, note).lora;
  model.adapt(lora.get());
  return lora;
}

LoadedModel load_generator(const std::string& directory) {
  LoadedModel loaded = load_with_tokenizer(directory);
  const ModelConfig& config = loaded.model->config();
  for (const MixerConfig& mixer : config.mixers)
    if (!make_mixer(mixer, config.mixer_dims())->causal())
      throw_error(
          "{}: expected a model that reads from left to right, found one whose {} reads later "
          "tokens, so it cannot write a text: refrain eval measures it",
          directory, mixer.kind());
  return loaded;
}

kernels::CacheType parse_cache_type(const std::string& cache_type) {
  const auto type = kernels::cache_type_named(cache_type);
  if (!type)
    throw_error("--cache-type: expected f32, bf16 or q8_0, found {}", io::quote(cache_type));
  return *type;
}

void set_cache_type(const LoadedModel& loaded, const std::string& cache_type) {
  loaded.model->set_cache_type(parse_cache_type(cache_type));
}

void check_task(const std::string& task) {
  if (task != "lm" && task != "translate" && task != "probe" && task != "chat")
    throw_error("--task: expected lm, translate, probe or chat, found {}", io::quote(task));
}
void check_task_without_model(const std::string& task) {
  check_task(task);
  if (task == "chat")
    throw_error("--task: expected lm, translate or probe, found chat: train --init reads it");
}

TextFiles TextFiles::read(const std::string& directory) {
  constexpr size_t kMost = size_t{16} << 20;
  TextFiles all;
  if (io::is_gguf(directory)) {
    if (const auto chat = read_chat_template(directory))
      all.files_.emplace_back("chat_template.jinja", *chat);
    return all;
  }
  for (const char* name :
       {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"})
    if (const std::string path = directory + "/" + name; io::exists(path))
      all.files_.emplace_back(name, io::read_file(path, kMost));
  return all;
}
void TextFiles::write(const std::string& directory) const {
  for (const auto& [name, content] : files_) io::write_file(directory + "/" + name, content);
}

const char* sequences_of(const std::string& task) {
  return task == "lm"          ? "documents"
         : task == "translate" ? "pairs"
         : task == "chat"      ? "conversations"
                               : "probes";
}

std::string count_of(int64_t n, std::string_view things) {
  if (n == 1) things.remove_suffix(1);
  return fmt::format("{} {}", n, things);
}

std::vector<std::string> special_tokens_for(const text::SourceFiles& source,
                                            std::string_view tokenizer_kind) {
  if (source.task == "translate") {
    std::vector<std::string> tokens = {source.source_tag, source.target_tag, "</s>"};
    for (const std::string& tag : source.tags) tokens.push_back(tag);
    return without_repetitions(tokens);
  }
  const bool one_document = source.inputs.size() == 1 && !text::holds_objects(source.inputs[0]);
  if (one_document) return {};
  return {tokenizer_kind == "byte-bpe" ? "<|endoftext|>" : "</s>"};
}

bool is_tokenizer_spec(std::string_view what) {
  return what == "char" || what.starts_with("bpe:") || what.starts_with("byte-bpe:") ||
         what.starts_with("word:");
}

void check_tokenizer_spec(const std::string& what) {
  if (is_tokenizer_spec(what)) text::Tokenizer::parse_spec(what);
}

void check_coverage(const CommandLine& line, const std::string& what, double coverage) {
  if (!(coverage >= 0 && coverage <= 1))
    throw_error("--character-coverage: expected 0 to 1, found {}", coverage);
  if (!what.starts_with("bpe:"))
    refuse_given(line, "character_coverage",
                 fmt::format("expected a tokenizer bpe:N to train, found {}", what));
}

text::Tokenizer make_tokenizer(const std::string& what, text::SourceFiles& source,
                               double coverage) {
  if (!is_tokenizer_spec(what)) return load_tokenizer(what);
  if (source.task == "probe")
    throw_error(
        "--tokenizer {}: probes have no text to train one on; expected the directory that "
        "sample made",
        what);
  text::TokenizerTraining training = text::Tokenizer::parse_spec(what);
  training.special_tokens = special_tokens_for(source, training.kind);
  training.character_coverage = coverage;
  training.notes = note;
  for (const std::string& input : source.inputs)
    if (data::DataSet::is_token_file(input))
      throw_error(
          "--tokenizer {}: expected text to train on, found the token file {}; name the tokenizer "
          "that it was made with (--tokenizer NAME.tokenizer, where prepare trained it)",
          what, input);
  copy_streams(source);
  return text::Tokenizer::train(training, text::text_of(source, training.kind));
}

namespace {

// "<en>" of "train.en" or "train.en.gz"; "" of a name that has no such end.
std::string tag_of_name(const std::string& input) {
  std::filesystem::path name = std::filesystem::path(input).filename();
  if (name.extension() == ".gz") name = name.stem();
  const std::string end = name.extension().string();
  constexpr size_t kLongest = 16;
  const bool is_code =
      end.size() > 1 && end.size() <= kLongest &&
      std::all_of(end.begin() + 1, end.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_';
      });
  return is_code ? "<" + end.substr(1) + ">" : "";
}

// Of source and target, or two empty ones.
std::pair<std::string, std::string> tags_of_files(text::SourceFiles& source) {
  const std::vector<std::string>& inputs = source.inputs;
  if (inputs.size() == 2) {
    const std::string from = tag_of_name(inputs[0]), to = tag_of_name(inputs[1]);
    if (!from.empty() && !to.empty() && from != to) return {from, to};
  }
  if (inputs.size() == 1 && text::holds_objects(inputs[0])) {
    copy_streams(source);
    text::SourceFiles first = source;
    first.source_tag = first.target_tag = "";
    text::PairReader reader(first, false);
    text::TextPair pair;
    if (reader.next(pair) && !pair.source_tag.empty() && !pair.target_tag.empty())
      return {pair.source_tag, pair.target_tag};
  }
  return {};
}

}  // namespace

std::optional<std::string> settle_tags(text::SourceFiles& source) {
  const bool all_given = !source.source_tag.empty() && !source.target_tag.empty();
  if (source.task != "translate" || all_given || source.inputs.empty()) return {};
  if (source.inputs.size() == 1 && source.inputs[0] != "-" &&
      data::DataSet::is_token_file(source.inputs[0]))
    return {};  // it has its own
  auto [from, to] = tags_of_files(source);
  const bool told = !from.empty();
  if (source.source_tag.empty()) source.source_tag = told ? from : "<source>";
  if (source.target_tag.empty()) source.target_tag = told ? to : "<target>";
  if (told) return {};
  return fmt::format(
      "{}: does not say its languages (train.en train.ja would): the tags are {} and {} "
      "(--source-tag, --target-tag)",
      text::name_of(source.inputs), source.source_tag, source.target_tag);
}

void copy_streams(text::SourceFiles& source) {
  if (!source.copies && std::any_of(source.inputs.begin(), source.inputs.end(), io::is_stream))
    source.copies = std::make_shared<io::StreamCopies>(source.inputs, temporary_parent());
}

void note_run_together(const data::Prepared& prepared) {
  if (prepared.run_together)
    note(
        "the tokenizer has no token that ends a text: documents follow one another with nothing "
        "between them");
}

data::DataSet open_data(const text::SourceFiles& source, const text::Tokenizer& tokenizer) {
  const bool one_file = source.inputs.size() == 1 && source.inputs[0] != "-";
  if (one_file && data::DataSet::is_token_file(source.inputs[0])) {
    data::DataSet data = data::DataSet::open(source.inputs[0]);
    data.check_tokenizer(tokenizer);
    if (data.task() != source.task)
      throw_error("{}: expected a token file for {}, found one for {}", source.inputs[0],
                  source.task, data.task());
    return data;
  }
  const io::TemporaryDirectory temporary(temporary_parent());
  const std::string path = temporary.path() + "/ids.tokens";
  UnknownCharacters unknown(tokenizer);
  data::WriteEvents events;
  events.on_text = [&](auto text, auto ids) { unknown.look(text, ids); };
  note_run_together(data::write_token_file(source, tokenizer, path, events));
  unknown.tell(text::name_of(source.inputs));
  return data::DataSet::open(path, text::name_of(source.inputs));  // open, it outlives its path
}

void check_lengths(const data::DataSet& set, const text::SourceFiles& source,
                   const data::BatchConfig& config, bool skip) {
  constexpr size_t kNamed = 10;
  const std::vector<int64_t> pairs = data::too_long(set, config);
  if (pairs.empty()) return;
  const std::span<const int64_t> named(pairs.data(), std::min(pairs.size(), kNamed));
  std::vector<std::string> places;
  if (data::DataSet::is_token_file(source.inputs[0]))
    for (const int64_t i : named) places.push_back(fmt::format("{}: pair {}", set.name(), i + 1));
  else
    places = text::places_of(source, named);
  for (size_t i = 0; i < places.size(); ++i) {
    const std::string what = fmt::format("{}: a pair of {} tokens, expected at most {}", places[i],
                                         set.rows(pairs[i]), data::longest(config));
    if (!skip) throw_error("{} (--skip-long leaves such pairs out)", what);
    note(what + ": left out");
  }
  if (pairs.size() > kNamed) note(fmt::format("and {} more", pairs.size() - kNamed));
}

std::vector<int32_t> ids_without_token(const LoadedModel& model, std::span<const int32_t> ends) {
  std::vector<int32_t> ids;
  for (int64_t i = model.tokenizer.vocab_size(); i < model.model->config().vocab_size; ++i) {
    const auto id = static_cast<int32_t>(i);
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ids.push_back(id);
  }
  return ids;
}

std::vector<int32_t> encode_prompt(const LoadedModel& model, std::string_view prompt) {
  std::string text(prompt);
  for (const auto& [source_tag, target_tag] : model.task.directions)
    for (const std::string& tag : {source_tag, target_tag})
      for (size_t at = 0; (at = text.find(tag, at)) != text.npos; ++at) {
        size_t end = at + tag.size();
        while (end < text.size() && text[end] == ' ') text.erase(end, 1);
        while (at > 0 && text[at - 1] == ' ') text.erase(--at, 1);
      }
  return model.tokenizer.encode(text, true);
}

std::vector<int32_t> parse_ids(std::string_view text, const std::string& where) {
  std::vector<int32_t> ids;
  constexpr std::string_view kBetween = " \t\r\n,";
  for (size_t at = 0; (at = text.find_first_not_of(kBetween, at)) != text.npos;) {
    const std::string_view word = text.substr(at, text.find_first_of(kBetween, at) - at);
    int32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size() || id < 0)
      throw_error("{}: expected a token id, found {}", where, io::quote(word));
    ids.push_back(id);
    at += word.size();
  }
  return ids;
}

std::string read_text(const std::string& path) {
  io::TextReader reader(path);
  std::string text, piece;
  while (reader.read(piece)) {
    text += piece;
    if (text.size() > kLongestText)
      throw_error("{}: longer than {} bytes", reader.name(), kLongestText);
  }
  return text;
}

void require_new_directory(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return;
  const auto refuse = [&] {
    throw_error("{}: expected a new or an empty directory, found one that is not", path);
  };
  if (!std::filesystem::is_directory(status)) refuse();
  for (const auto& entry : std::filesystem::directory_iterator(path, error))
    if (entry.path().filename() != "lost+found") refuse();  // an empty ext4 has that in its root
  if (error) refuse();
}

void make_parent(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).lexically_normal().parent_path();
  if (!parent.empty()) io::make_directories(parent.string());
}

}  // namespace refrain::cli

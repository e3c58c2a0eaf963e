// What verbs are given: models, tokenizers, texts, ids.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "refrain/data/batches.h"
#include "refrain/data/dataset.h"
#include "refrain/data/task.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/text/source.h"
#include "refrain/text/tokenizer.h"

namespace refrain::cli {

// Of flags that take a model.
inline constexpr const char* kModelHelp = "model directory, or GGUF file";

// A model directory, or a GGUF file, opened for use.
struct LoadedModel {
  std::unique_ptr<Lora> lora;  // that the model computes with, if any
  std::unique_ptr<LanguageModel> model;
  text::Tokenizer tokenizer;
  data::TaskDescription task;
  SpecialTokens special;  // the tokenizer's where the model's files name none
};
// Packed, in the type of its file or, if that has rows of float32, in `type`.
LoadedModel load_with_tokenizer(const std::string& directory, Storage type = Storage::kFloat32);
// The model alone: as its files have it, of a GGUF file packed in its types.
std::unique_ptr<LanguageModel> load_as_stored(const std::string& model);
// One that writes a text token by token; an Error of one that reads sequences whole.
LoadedModel load_generator(const std::string& directory);
// The adapter in this directory, of which the model is the base, from here on part of what it
// computes; none if it is empty.
[[nodiscard]] std::unique_ptr<Lora> adapt(LanguageModel&, const std::string& adapter);
inline constexpr const char* kAdapterHelp = "directory with an adapter (LoRA, as PEFT writes it)";

// An Error for what is no type of the cache of keys and values.
kernels::CacheType parse_cache_type(const std::string& cache_type);
inline constexpr const char* kCacheTypeHelp =
    "keep keys and values of attention in f32, bf16 or q8_0: all, half or about a quarter of the "
    "memory of a text; the last two round them";
// Before states are made; an Error if the model has no such cache.
void set_cache_type(const LoadedModel& loaded, const std::string& cache_type);

// An Error when a file that is no GGUF file is named where a verb takes a model.
void require_model_directory(const std::string& path);

// An Error for another model, which says what it is and which verbs read it.
void require_language_model(const std::string& directory);

// A tokenizer.json, a directory with one, or a GGUF file; what is left aside of it is told on
// standard error.
text::Tokenizer load_tokenizer(const std::string& path);
bool has_tokenizer(const std::string& model);

// An Error for what is no task of a language model.
void check_task(const std::string& task);
// For what reads conversations as the model in a directory has them; chat alone needs it.
void check_task_without_model(const std::string& task);
// What a data set of the task is counted in: documents, pairs, probes.
const char* sequences_of(const std::string& task);
std::string count_of(int64_t n, std::string_view things);  // "1 pair", of "pairs"

// What a task's tokenizer must have: tags and an end token to translate, an end token where
// documents follow one another.
std::vector<std::string> special_tokens_for(const text::SourceFiles& source,
                                            std::string_view tokenizer_kind);

// `what` is a directory, a tokenizer.json, or what to train on the source: char, bpe:N, byte-bpe:N,
// word:N.
// An Error for what cannot be trained; a directory is not looked at.
void check_tokenizer_spec(const std::string& what);
// An Error for a --character-coverage that is out of range, or has no effect.
void check_coverage(const CommandLine& line, const std::string& what, double coverage);
inline constexpr const char* kCoverageHelp =
    "bpe:N: the share of the text whose characters, the most frequent ones, become tokens; the "
    "others are <unk>; 0 = all if N has room for them, or else 0.9995";
bool is_tokenizer_spec(std::string_view what);
// What of the source can be read only once is copied before it is trained on.
text::Tokenizer make_tokenizer(const std::string& what, text::SourceFiles& source,
                               double character_coverage);
// Tags of a translation that were not given: of files train.en and train.ja <en> and <ja>, of
// objects those of the first pair, else <source> and <target>. Then it gives a line that says so,
// for when the texts have proved to be pairs.
[[nodiscard]] std::optional<std::string> settle_tags(text::SourceFiles& source);
void copy_streams(text::SourceFiles& source);  // so that all of it can be read again
// Says so if documents follow one another with nothing between them.
void note_run_together(const data::Prepared& prepared);

// The ids of a source: those of a prepared token file, or made now, in a temporary file that is
// gone when the DataSet is.
data::DataSet open_data(const text::SourceFiles& source, const text::Tokenizer& tokenizer);

// An Error that names the first pair too long for the config and where it comes from; with `skip`
// such pairs are told on standard error instead.
void check_lengths(const data::DataSet& set, const text::SourceFiles& source,
                   const data::BatchConfig& config, bool skip);

// Ids that the model has beyond its tokenizer's vocabulary (a vocabulary that was padded): there is
// nothing to show for them, so that they are never drawn. Those of `ends`, which end a text, may
// be.
std::vector<int32_t> ids_without_token(const LoadedModel& model, std::span<const int32_t> ends);

// The ids of a prompt; tags and other special tokens in it are tokens. What a model that translates
// was trained on has no white space beside tags: here it may stand there.
std::vector<int32_t> encode_prompt(const LoadedModel& model, std::string_view prompt);

// Ids with white space or commas between them.
std::vector<int32_t> parse_ids(std::string_view text, const std::string& where);

// All of a text that is held in memory, an Error if it is longer; "-" is standard input.
inline constexpr size_t kLongestText = size_t{1} << 26;
std::string read_text(const std::string& path);

// Small files of a model directory that its tokenizer does not write again as they were: what other
// programs read of special tokens, and the chat template.
class TextFiles {
 public:
  static TextFiles read(const std::string& directory);
  void write(const std::string& directory) const;

 private:
  std::vector<std::pair<std::string, std::string>> files_;  // name, content
};

// An Error when something is there that writing a directory of that name would replace.
void require_new_directory(const std::string& path);
// Makes the directory that one of that name goes into.
void make_parent(const std::string& path);

}  // namespace refrain::cli

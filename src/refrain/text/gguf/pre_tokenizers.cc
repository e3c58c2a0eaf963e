#include "refrain/text/gguf/pre_tokenizers.h"

#include <algorithm>
#include <span>
#include <vector>

#include "refrain/text/tokenizer/pretokenize.h"

namespace refrain::text {
namespace {

using io::Json;
using Steps = std::vector<std::string>;  // regular expressions whose matches are words of their own

struct Known {
  std::vector<std::string_view> names;  // the first is written
  Steps steps;
  bool ignore_merges = false, adds_bos = false;
};

// Single numbers, as Digits with individual_digits cuts them out as well.
constexpr const char* kOneNumber = "\\p{N}";

std::span<const Known> known() {
  static const std::vector<Known> all = [] {
    const std::string gpt2 = WordPattern::kGpt2;
    const std::string llama3 = WordPattern{.marks = false, .digits = 3}.regex();
    return std::vector<Known>{
        {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
          "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "modern-bert"},
         {gpt2}},
        {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
         {kOneNumber, gpt2}},
        {{"qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "kormo"},
         {WordPattern{.marks = false, .digits = 1}.regex()}},
        {{"qwen35"}, {WordPattern{.marks = true, .digits = 1}.regex()}},
        {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"},
         {llama3},
         true,
         true},
        {{"dbrx", "smaug-bpe"}, {llama3}},
        {{"default"}, {"[\\p{P}\\$\\+<=>\\^~\\|]+", gpt2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    };
  }();
  return all;
}

Json split_step(const std::string& regex) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", regex}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

// As the family's own files have it: one number is Digits, GPT-2's pattern at the end ByteLevel's.
Json to_json(const Steps& steps) {
  Json members = Json::array();
  const bool ends_in_gpt2 = steps.back() == WordPattern::kGpt2;
  for (const std::string& step : std::span(steps).first(steps.size() - (ends_in_gpt2 ? 1 : 0))) {
    if (step == kOneNumber)
      members.push_back({{"type", "Digits"}, {"individual_digits", true}});
    else
      members.push_back(split_step(step));
  }
  members.push_back(byte_level(ends_in_gpt2));
  if (members.size() == 1) return members[0];
  return {{"type", "Sequence"}, {"pretokenizers", std::move(members)}};
}

// The matches of these are all of any text, so that to isolate them and to remove all else are one.
bool matches_all(const std::string& regex) {
  return std::ranges::any_of(known(), [&](const Known& one) { return one.steps == Steps{regex}; });
}

// Nothing if a step is none of those above. The JSON was read before, and is right.
std::optional<Steps> steps_of(const Json& part) {
  const auto type = part.at("type").get<std::string>();
  if (type == "Sequence") {
    Steps all;
    for (const Json& member : part.at("pretokenizers")) {
      const auto inner = steps_of(member);
      if (!inner) return {};
      all.insert(all.end(), inner->begin(), inner->end());
    }
    return all;
  }
  if (type == "Digits" && part.value("individual_digits", false)) return Steps{kOneNumber};
  if (type == "ByteLevel") {
    if (part.value("add_prefix_space", true)) return {};
    return part.value("use_regex", true) ? Steps{WordPattern::kGpt2} : Steps{};
  }
  if (type != "Split" || !part.at("pattern").contains("Regex")) return {};
  const auto regex = part.at("pattern").at("Regex").get<std::string>();
  const auto behavior = part.at("behavior").get<std::string>();
  const bool invert = part.value("invert", false);
  if ((behavior == "Isolated" && !invert) ||
      (behavior == "Removed" && invert && matches_all(regex)))
    return Steps{regex};
  return {};
}

}  // namespace

std::optional<NamedPreTokenizer> pre_tokenizer_named(std::string_view name) {
  for (const Known& one : known())
    if (std::ranges::count(one.names, name) > 0)
      return NamedPreTokenizer{to_json(one.steps), one.ignore_merges, one.adds_bos};
  return {};
}

std::string known_pre_names() {
  std::string names;
  for (const Known& one : known()) names += (names.empty() ? "" : ", ") + std::string(one.names[0]);
  return names;
}

std::optional<std::string> name_of_pre_tokenizer(const Json& pre_tokenizer, bool ignore_merges) {
  const auto steps = steps_of(pre_tokenizer);
  for (const Known& one : known())
    if (steps == one.steps && one.ignore_merges == ignore_merges) return std::string(one.names[0]);
  return {};
}

}  // namespace refrain::text

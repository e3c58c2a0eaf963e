#include "cli/verbs/translator.h"

#include <algorithm>
#include <cmath>

#include "cli/output.h"
#include "refrain/base/error.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {

constexpr int64_t kMoreTokens = 16;  // short sources may have longer translations

data::Direction direction_of(const LoadedModel& loaded, const TranslationSettings& settings) {
  const data::Direction& given = settings.direction;
  if (loaded.task.directions.empty() && given.source_tag.empty() && given.target_tag.empty())
    throw_error(
        "expected a model that was trained on pairs (train --task translate), found one of the "
        "task {}: refrain generate continues text with it (to translate all the same: "
        "--source-tag and --target-tag)",
        loaded.task.task);
  return data::choose_direction(loaded.task, given);
}

int32_t id_of(const LoadedModel& loaded, const std::string& tag, const char* flag) {
  const int32_t id = loaded.tokenizer.id_of(tag);
  if (id == text::kNoToken)
    throw_error("{}: the tokenizer has no token {}; the model's directions are {}", flag,
                io::quote(tag), data::names_of(loaded.task.directions));
  return id;
}

std::vector<int32_t> end_tokens(const SpecialTokens& special) {
  std::vector<int32_t> all = special.more_eos;
  if (special.eos >= 0) all.push_back(special.eos);
  if (all.empty())
    throw_error("translation: expected a tokenizer with an end token, found one without");
  return all;
}

// Tokens that are no text: tags, padding, and ids that have no token. An unknown character is text.
std::vector<int32_t> control_tokens(const LoadedModel& loaded) {
  const std::vector<int32_t> ends = end_tokens(loaded.special);
  std::vector<int32_t> all = ids_without_token(loaded, ends);
  for (int32_t id = 0; id < loaded.tokenizer.vocab_size(); ++id) {
    const bool text = !loaded.tokenizer.is_special(id) || id == loaded.tokenizer.unk();
    const bool is_end = std::find(ends.begin(), ends.end(), id) != ends.end();
    if (!text && !is_end) all.push_back(id);
  }
  return all;
}

}  // namespace

void TranslationSettings::check() const {
  beam.check();
  if (!(max_length_factor >= 0 && max_length_factor <= 1000))
    throw_error("--max-length-factor: expected 0 to 1000, found {}", max_length_factor);
  if (max_tokens < 1) throw_error("--max-tokens: expected at least 1, found {}", max_tokens);
}

Translator::Translator(const LoadedModel& loaded, const TranslationSettings& settings)
    : loaded_(loaded),
      settings_(settings),
      direction_(direction_of(loaded, settings)),
      source_tag_(id_of(loaded, direction_.source_tag, "--source-tag")),
      target_tag_(id_of(loaded, direction_.target_tag, "--target-tag")),
      search_(*loaded.model, settings.beam, end_tokens(loaded.special), control_tokens(loaded)) {
  settings.check();
}

std::vector<std::vector<Translation>> Translator::translate(const std::vector<SourceLine>& sources,
                                                            const std::string& file) {
  std::vector<std::vector<Translation>> translations(sources.size(), {Translation{}});
  std::vector<BeamRequest> requests;
  std::vector<size_t> of;  // each request's source
  for (size_t i = 0; i < sources.size(); ++i) {
    const auto& [text, line] = sources[i];
    const std::vector<int32_t> ids = loaded_.tokenizer.encode(text);
    if (text::is_blank(text) || ids.empty()) continue;
    BeamRequest request;
    request.prompt = {source_tag_};
    request.prompt.insert(request.prompt.end(), ids.begin(), ids.end());
    request.prompt.push_back(target_tag_);
    if (std::cmp_greater(request.prompt.size(), settings_.max_tokens)) {
      const std::string what = fmt::format("{}: line {}: {} tokens, expected at most {}", file,
                                           line, request.prompt.size(), settings_.max_tokens);
      if (!settings_.skip_long) throw_error("{} (--max-tokens; or --skip-long)", what);
      note(what + ": left out");
      continue;
    }
    request.max_new_tokens =
        kMoreTokens + static_cast<int64_t>(
                          std::ceil(settings_.max_length_factor * static_cast<double>(ids.size())));
    requests.push_back(std::move(request));
    of.push_back(i);
  }
  const auto results = search_.search(requests, settings_.max_tokens);
  for (size_t r = 0; r < results.size(); ++r) {
    translations[of[r]].clear();
    for (const Hypothesis& h : results[r]) {
      std::string text = loaded_.tokenizer.decode(h.tokens);
      std::replace(text.begin(), text.end(), '\n', ' ');
      translations[of[r]].push_back(
          {std::move(text), std::ssize(h.tokens), h.logprob, h.score, h.reason});
    }
  }
  return translations;
}

}  // namespace refrain::cli

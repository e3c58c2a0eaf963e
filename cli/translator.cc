#include "cli/translator.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/error.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {

constexpr int64_t kMoreTokens = 16;  // short sources may have longer translations

int32_t tag(const data::Tokenizer& tokenizer, const std::string& name, const char* flag) {
  if (name.empty()) throw_error("the model does not say its {}; give it with --{}", flag, flag);
  const int32_t id = tokenizer.id_of(name);
  if (id == data::kNoToken)
    throw_error("--{}: the tokenizer has no token {}", flag, io::quote(name));
  return id;
}

}  // namespace

Translator::Translator(const LoadedModel& loaded, const TranslationSettings& settings)
    : loaded_(loaded), settings_(settings), task_(loaded.task), generator_(*loaded.model) {
  task_.task = "translate";
  if (!settings.source_tag.empty()) task_.source_tag = settings.source_tag;
  if (!settings.target_tag.empty()) task_.target_tag = settings.target_tag;
  source_tag_ = tag(loaded.tokenizer, task_.source_tag, "source-tag");
  target_tag_ = tag(loaded.tokenizer, task_.target_tag, "target-tag");
  if (loaded.special.eos < 0)
    throw_error("the model has no end token, so that it cannot translate");
  if (!(settings.max_length_factor >= 0 && settings.max_length_factor <= 1000))
    throw_error("--max-length-factor: expected 0 to 1000, found {}", settings.max_length_factor);
  if (settings.max_tokens < 1)
    throw_error("--max-tokens: expected at least 1, found {}", settings.max_tokens);
}

std::vector<Translation> Translator::translate(const std::vector<std::string>& sources,
                                               int64_t first_line) {
  std::vector<Translation> translations(sources.size());
  std::vector<GenerationRequest> requests;
  std::vector<size_t> of;  // each request's source
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::vector<int32_t> ids = loaded_.tokenizer.encode(sources[i]);
    if (sources[i].find_first_not_of(" \t\r") == std::string::npos || ids.empty()) {
      translations[i].reason = StopReason::kEndToken;
      continue;
    }
    GenerationRequest request;
    request.prompt = {source_tag_};
    request.prompt.insert(request.prompt.end(), ids.begin(), ids.end());
    request.prompt.push_back(target_tag_);
    const auto tokens = static_cast<int64_t>(request.prompt.size());
    if (tokens > settings_.max_tokens)
      throw_error("line {}: {} tokens, expected at most --max-tokens {}",
                  first_line + static_cast<int64_t>(i), tokens, settings_.max_tokens);
    request.max_new_tokens =
        kMoreTokens + static_cast<int64_t>(
                          std::ceil(settings_.max_length_factor * static_cast<double>(ids.size())));
    request.context = tokens + request.max_new_tokens;
    request.sampling.temp = 0;
    request.eos = loaded_.special.eos;
    request.pad = loaded_.special.pad;
    request.more_eos = loaded_.special.more_eos;
    requests.push_back(std::move(request));
    of.push_back(i);
  }
  const auto results = generator_.generate_batch(requests, settings_.max_tokens);
  for (size_t r = 0; r < results.size(); ++r) {
    std::vector<int32_t> ids;
    for (const Choice& choice : results[r].choices) ids.push_back(choice.token);
    Translation& translation = translations[of[r]];
    translation.text = loaded_.tokenizer.decode(ids);
    std::replace(translation.text.begin(), translation.text.end(), '\n', ' ');
    translation.tokens = static_cast<int64_t>(ids.size());
    translation.reason = results[r].reason;
  }
  return translations;
}

}  // namespace refrain::cli

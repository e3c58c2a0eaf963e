// What is asked of an engine (generate/engine.h), and what it gives.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "refrain/generate/sampler.h"

namespace refrain {

enum class StopReason { kLength, kEndToken, kPadToken, kStopText, kUnsure, kCancelled };
std::string_view to_text(StopReason);  // "length", "eos", "pad", "stop", "unsure", "cancelled"

struct GenerationRequest {
  std::vector<int32_t> prompt;   // at least one token, unless a sequence goes on
  int64_t max_new_tokens = 200;  // 0 only reads the prompt
  SamplingConfig sampling;
  // Tokens that the state may hold; 0 = prompt + new tokens, at most the trained context. When it
  // is full, the later half is read again into a new state, and generation continues.
  int64_t context = 0;
  int32_t eos = -1, pad = -1;     // -1 = none
  std::vector<int32_t> more_eos;  // other tokens that end a text as well
  bool ignore_eos = false;        // none of them ends it
  std::vector<int32_t> never;     // tokens that are not drawn, nor reported as likely
  int64_t logprobs = 0;           // how many of the most likely tokens to report for each choice
  bool keep_choices = true;       // false: they go to `on_token` one by one only
  // Tokens that the engine's draft, if it has one, guesses ahead at most; 0 = none. The tokens are
  // the same for any number.
  int64_t draft_tokens = kDraftTokens;

  static constexpr int64_t kDraftTokens = 8, kMostDraftTokens = 32;

  // An Error names what is out of range.
  void check(int64_t vocab_size) const;
  // Why this token ends the text, if it does.
  std::optional<StopReason> ended_by(int32_t token) const;
  // How many of the last tokens the sampler looks at.
  int64_t looks_back() const;
};

struct GenerationResult {
  std::vector<SampledToken>
      choices;         // without the eos or pad that ended it, if they were to be kept
  int64_t tokens = 0;  // how many there were
  StopReason reason = StopReason::kLength;
  int64_t prompt_tokens = 0;
  // Seconds until the first token was chosen, and after that for all steps, including that of an
  // end token. Time of the caller in between is not counted.
  double prompt_seconds = 0, generation_seconds = 0;
  int64_t steps = 0;  // choices after the first
  // Tokens that a draft guessed and the model looked at, and those it would have chosen itself.
  int64_t draft_proposed = 0, draft_accepted = 0;

  double prompt_tokens_per_second() const;
  double tokens_per_second() const;  // of the steps; 0 when there was none
};

// Called with every new token that does not end the text. To stop after it, return the reason:
// kStopText, kCancelled.
using OnToken = std::function<std::optional<StopReason>(const SampledToken&)>;

}  // namespace refrain

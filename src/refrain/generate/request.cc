#include "refrain/generate/request.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/generate/sequence.h"

namespace refrain {
namespace {

double rate(int64_t n, double seconds) {
  return n == 0 ? 0 : static_cast<double>(n) / std::max(seconds, 1e-9);
}

}  // namespace

std::string_view to_text(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kEndToken:
      return "eos";
    case StopReason::kPadToken:
      return "pad";
    case StopReason::kStopText:
      return "stop";
    case StopReason::kUnsure:
      return "unsure";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "";
}

void GenerationRequest::check(int64_t vocab_size) const {
  const auto expect = [](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
      throw_error("{}: expected {} to {}, found {}", name, low, high, value);
  };
  for (const int32_t token : prompt) expect("prompt token", token, 0, vocab_size - 1);
  for (const int32_t token : never) expect("token not to draw", token, 0, vocab_size - 1);
  expect("max_new_tokens", max_new_tokens, 0, kMaxTokens);
  expect("context", context, 0, kMaxTokens);
  expect("logprobs", logprobs, 0, kMaxTokens);
  expect("draft_tokens", draft_tokens, 0, kMostDraftTokens);
}

std::optional<StopReason> GenerationRequest::ended_by(int32_t token) const {
  if (ignore_eos) return {};
  if (token == eos || std::find(more_eos.begin(), more_eos.end(), token) != more_eos.end())
    return StopReason::kEndToken;
  if (token == pad) return StopReason::kPadToken;
  return {};
}

int64_t GenerationRequest::looks_back() const {
  if (sampling.repeat_penalty == 1) return 0;
  return sampling.repeat_last_n < 0 ? kMaxTokens : sampling.repeat_last_n;
}

double GenerationResult::prompt_tokens_per_second() const {
  return rate(prompt_tokens, prompt_seconds);
}

double GenerationResult::tokens_per_second() const { return rate(steps, generation_seconds); }

}  // namespace refrain

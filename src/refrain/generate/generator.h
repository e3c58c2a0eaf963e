// Text after text: prompts in, tokens out, one at a time, the state carried from step to step.
//
// Whether a prompt is read whole, in pieces or token by token, alone or beside others, and with how
// many threads, it gives the same tokens. Memory for activations is bounded, however long a prompt.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "refrain/generate/sampler.h"
#include "refrain/generate/sequence.h"
#include "refrain/layers/context.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"

namespace refrain {

enum class StopReason { kLength, kEndToken, kPadToken, kStopText, kUnsure, kCancelled };
std::string_view to_text(StopReason);  // "length", "eos", "pad", "stop", "unsure", "cancelled"

struct GenerationRequest {
  std::vector<int32_t> prompt;   // at least one token, unless a sequence goes on
  int64_t max_new_tokens = 200;  // 0 only reads the prompt
  SamplingConfig sampling;
  // Tokens the state may hold; 0 = prompt + new tokens, at most the trained context. When it is
  // full, the later half is read anew and generation goes on.
  int64_t context = 0;
  int32_t eos = -1, pad = -1;     // -1 = none
  std::vector<int32_t> more_eos;  // other tokens that end a text as well
  bool ignore_eos = false;        // none of them ends it
  std::vector<int32_t> never;     // tokens that are not drawn, nor reported as likely
  int64_t logprobs = 0;           // how many of the most likely tokens to report for each choice
  bool keep_choices = true;       // false: they go to the caller of `generate` one by one only
};

struct GenerationResult {
  std::vector<Choice> choices;  // without the eos or pad that ended it, if they were to be kept
  int64_t tokens = 0;           // how many there were
  StopReason reason = StopReason::kLength;
  int64_t prompt_tokens = 0;
  // Time until the first token was chosen, and from then on for all steps, that of an end token
  // included; without what the caller did in between.
  double prompt_seconds = 0, generation_seconds = 0;
  int64_t steps = 0;

  double prompt_tokens_per_second() const;
  double tokens_per_second() const;  // of the steps; 0 when there was none
};

// Called with every new token that does not end the text. To stop behind it, give the reason:
// kStopText, kCancelled.
using OnToken = std::function<std::optional<StopReason>(const Choice&)>;

// For one thread at a time.
class Generator {
 public:
  explicit Generator(const LanguageModel& model);  // which must outlive this

  GenerationResult generate(const GenerationRequest& request, const OnToken& on_token = {});

  // Goes on with a sequence of this model: the prompt, which may be empty if the sequence is not,
  // is appended to it, then every new token, an end token too. The tokens are those of an
  // uninterrupted run under the same settings.
  GenerationResult generate(const GenerationRequest& request, Sequence& sequence,
                            const OnToken& on_token = {});

  // Continues several prompts at once; each gives what it gives alone. They enter in their order
  // and leave as they end. As many are under way as have states of `max_tokens` tokens together
  // (prompt and new ones), but always one.
  std::vector<GenerationResult> generate_batch(std::span<const GenerationRequest> requests,
                                               int64_t max_tokens);

 private:
  struct Job;

  Job begin(const GenerationRequest& request, Sequence& sequence) const;
  void step(std::span<Job* const> jobs, const OnToken& on_token);

  const LanguageModel& model_;
  Workspace workspace_;
  WindowData window_;
  std::vector<float> logits_;
};

}  // namespace refrain

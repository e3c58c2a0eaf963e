// Text after text: prompts in, tokens out, one at a time, the state carried from step to step.
//
// Whether a prompt is read whole, in pieces or token by token, alone or beside others, and with how
// many threads, it gives the same tokens. Memory for activations is bounded, however long a prompt.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "refrain/generate/engine.h"

namespace refrain {

// An Engine whose requests are all there from the start. For one thread at a time.
class Generator {
 public:
  explicit Generator(const LanguageModel& model);  // which must outlive this

  GenerationResult generate(const GenerationRequest& request, const OnToken& on_token = {});

  // Goes on with a sequence of this model, as Engine::submit does.
  GenerationResult generate(const GenerationRequest& request, Sequence& sequence,
                            const OnToken& on_token = {});

  // Continues several prompts at once; each gives what it gives alone. They enter in their order
  // and leave as they end. As many are under way as have states of `max_tokens` tokens together
  // (prompt and new ones), but always one.
  std::vector<GenerationResult> generate_batch(std::span<const GenerationRequest> requests,
                                               int64_t max_tokens);

 private:
  const LanguageModel& model_;
  Engine engine_;
};

}  // namespace refrain

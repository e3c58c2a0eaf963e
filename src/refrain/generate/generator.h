// Generates the continuation of prompts.
//
// A prompt gives the same tokens whether it is read whole, in chunks or token by token, alone or
// beside others, and with any number of threads. Memory for activations is bounded for prompts of
// any length.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "refrain/generate/engine.h"

namespace refrain {

// An Engine whose requests are all known at the start. For one thread at a time.
class Generator {
 public:
  // They must outlive this. `draft` as in Engine.
  explicit Generator(const LanguageModel& model, const LanguageModel* draft = nullptr);

  GenerationResult generate(const GenerationRequest& request, const OnToken& on_token = {});

  // Continues a sequence of this model, as Engine::submit does.
  GenerationResult generate(const GenerationRequest& request, Sequence& sequence,
                            const OnToken& on_token = {});

  // Continues several prompts at once. Each gives the result that it gives alone. They enter in
  // order and leave when they end. As many run together as have states of `max_tokens` tokens
  // (prompts and new ones), but always one.
  std::vector<GenerationResult> generate_batch(std::span<const GenerationRequest> requests,
                                               int64_t max_tokens);

 private:
  const LanguageModel& model_;
  const LanguageModel* draft_;
  Engine engine_;
};

}  // namespace refrain

#include "refrain/generate/generator.h"

namespace refrain {
namespace {

// A request that does not outlive its call, whatever happens in it.
struct Call {
  Engine& engine;
  RequestId id;
  ~Call() { engine.drop(id); }
};

void run(Engine& engine) {
  while (engine.step()) {
  }
}

}  // namespace

Generator::Generator(const LanguageModel& model, const LanguageModel* draft)
    : model_(model), draft_(draft), engine_(model, kMaxTokens, draft) {}

GenerationResult Generator::generate(const GenerationRequest& request, const OnToken& on_token) {
  Sequence sequence(model_);
  return generate(request, sequence, on_token);
}

GenerationResult Generator::generate(const GenerationRequest& request, Sequence& sequence,
                                     const OnToken& on_token) {
  const Call call{engine_, engine_.submit(request, sequence, on_token)};
  run(engine_);
  return engine_.take(call.id);
}

std::vector<GenerationResult> Generator::generate_batch(std::span<const GenerationRequest> requests,
                                                        int64_t max_tokens) {
  Engine engine(model_, max_tokens, draft_);
  std::vector<RequestId> ids;
  for (const GenerationRequest& request : requests) ids.push_back(engine.submit(request));
  run(engine);
  std::vector<GenerationResult> results;
  for (const RequestId id : ids) results.push_back(engine.take(id));
  return results;
}

}  // namespace refrain

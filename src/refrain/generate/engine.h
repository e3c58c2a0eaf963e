// Many texts in the making at once: requests come and go while others run.
//
// Each step is one pass of the model over what the requests under way have not read: the new token
// of each that generates, and beside them chunks of prompts. So a long prompt delays nobody's next
// token by more than one chunk. What a request gets does not depend on who else is there, nor on
// where its prompt is cut.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "refrain/generate/sampler.h"
#include "refrain/generate/sequence.h"
#include "refrain/layers/execution_context.h"
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
  bool keep_choices = true;       // false: they go to `on_token` one by one only
};

struct GenerationResult {
  std::vector<SampledToken>
      choices;         // without the eos or pad that ended it, if they were to be kept
  int64_t tokens = 0;  // how many there were
  StopReason reason = StopReason::kLength;
  int64_t prompt_tokens = 0;
  // Time until the first token was chosen, and from then on for all steps, that of an end token
  // included; without what callers did in between.
  double prompt_seconds = 0, generation_seconds = 0;
  int64_t steps = 0;

  double prompt_tokens_per_second() const;
  double tokens_per_second() const;  // of the steps; 0 when there was none
};

// Called with every new token that does not end the text. To stop behind it, give the reason:
// kStopText, kCancelled.
using OnToken = std::function<std::optional<StopReason>(const SampledToken&)>;

using RequestId = uint64_t;  // an engine gives none twice

// For one thread at a time.
class Engine {
 public:
  // The model must outlive this. Requests are under way together as far as their states have room
  // for `max_tokens` tokens (prompt and new ones), but always one; others wait in their order.
  Engine(const LanguageModel& model, int64_t max_tokens);
  ~Engine();
  Engine(Engine&&) noexcept;

  // An Error when the request makes no sense; the engine is as it was then. `on_token` must not
  // call the engine, except for cancel().
  RequestId submit(GenerationRequest request, OnToken on_token = {});
  // Goes on with a sequence of this model, which must outlive the request: the prompt, which may be
  // empty if the sequence is not, is appended to it, then every new token, an end token too. The
  // tokens are those of an uninterrupted run under the same settings.
  RequestId submit(GenerationRequest request, Sequence& sequence, OnToken on_token = {});

  // One pass of the model; false when nothing is left to do after it. An Error of a request (of its
  // on_token, of logits that are not numbers) ends that request alone, and comes out of take().
  bool step();

  // Ends a request, waiting or under way, with kCancelled; what it has so far can be taken. Does
  // nothing to one that has ended.
  void cancel(RequestId id);

  // Ends a request if need be, and forgets it and its result. Not to be called by an on_token.
  void drop(RequestId id);

  bool ended(RequestId id) const { return ended_.contains(id); }
  // Of a request that has ended, once: its result, or the Error that ended it.
  GenerationResult take(RequestId id);

  size_t waiting() const { return waiting_.size(); }
  size_t under_way() const { return active_.size(); }

 private:
  struct ActiveRequest;
  struct Ended {
    GenerationResult result;
    std::exception_ptr error;
  };

  RequestId add(GenerationRequest request, Sequence* sequence, OnToken on_token);
  size_t most_choices() const;  // of a step
  void admit();
  std::vector<ActiveRequest*> in_turn();
  void read(const std::vector<ActiveRequest*>& requests);
  void retire();

  const LanguageModel& model_;
  int64_t max_tokens_, tokens_ = 0;  // tokens_: that the states under way have room for
  RequestId next_id_ = 1;
  size_t turn_ = 0;  // of those that generate, where a window begins that cannot hold them all
  std::deque<std::unique_ptr<ActiveRequest>> waiting_;
  std::vector<std::unique_ptr<ActiveRequest>> active_;  // as they came
  std::map<RequestId, Ended> ended_;
  Workspace workspace_;
  RaggedBatchBuilder builder_;
  std::vector<float> logits_;
};

}  // namespace refrain

// Generates many texts at once: requests come and go while others run.
//
// Each step is one pass of the model over the pending tokens of all running requests: the new token
// of each request that generates, and chunks of prompts beside them. So a long prompt delays the
// next token of others by one chunk at most. The result of a request does not depend on the other
// requests, nor on where its prompt is cut.
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
  // Tokens that the state may hold; 0 = prompt + new tokens, at most the trained context. When it
  // is full, the later half is read again into a new state, and generation continues.
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
  // Seconds until the first token was chosen, and after that for all steps, including that of an
  // end token. Time of the caller in between is not counted.
  double prompt_seconds = 0, generation_seconds = 0;
  int64_t steps = 0;

  double prompt_tokens_per_second() const;
  double tokens_per_second() const;  // of the steps; 0 when there was none
};

// Called with every new token that does not end the text. To stop after it, return the reason:
// kStopText, kCancelled.
using OnToken = std::function<std::optional<StopReason>(const SampledToken&)>;

using RequestId = uint64_t;  // an engine gives none twice

// For one thread at a time.
class Engine {
 public:
  // The model must outlive this. Requests run together as long as their states fit into
  // `max_tokens` tokens (prompts and new ones), but always one. Others wait in order.
  Engine(const LanguageModel& model, int64_t max_tokens);
  ~Engine();
  Engine(Engine&&) noexcept;

  // An invalid request is an Error and does not change the engine. `on_token` must not call the
  // engine, except for cancel().
  RequestId submit(GenerationRequest request, OnToken on_token = {});
  // Continues a sequence of this model, which must outlive the request and has one at a time. The
  // prompt is appended to it (it may be empty if the sequence is not), then every new token,
  // including an end token. The tokens are those of an uninterrupted run with the same settings.
  RequestId submit(GenerationRequest request, Sequence& sequence, OnToken on_token = {});

  // One pass of the model; false if no work is left after it. An Error of a request (in its
  // on_token, logits that are not numbers, no memory for its state) ends only that request, and
  // take() throws it.
  bool step();

  // Ends a waiting or running request with kCancelled; take() gives what it has so far. Does
  // nothing to a request that has ended.
  void cancel(RequestId id);

  // Ends a request if it still runs, and discards it and its result. An on_token must not call it.
  void drop(RequestId id);

  bool ended(RequestId id) const { return ended_.contains(id); }
  // The result of a request that has ended, or the Error that ended it. Only once.
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
  bool in_step_ = false;
  size_t turn_ = 0;  // of those that generate, where a window begins that cannot hold them all
  std::deque<std::unique_ptr<ActiveRequest>> waiting_;
  std::vector<std::unique_ptr<ActiveRequest>> active_;  // as they came
  std::map<RequestId, Ended> ended_;
  Workspace workspace_;
  RaggedBatchBuilder builder_;
  std::vector<float> logits_;
};

}  // namespace refrain

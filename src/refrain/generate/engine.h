// Generates many texts at once: requests come and go while others run.
//
// Each step is one pass of the model over the pending tokens of all running requests: the new token
// of each request that generates, and chunks of prompts beside them. So a long prompt delays the
// next token of others by one chunk at most. The result of a request does not depend on the other
// requests, nor on where its prompt is cut.
//
// With a draft (generate/draft.h), a request that generates gets several tokens in a step.
#pragma once
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <vector>

#include "refrain/generate/draft.h"
#include "refrain/generate/forward_pass.h"
#include "refrain/generate/request.h"
#include "refrain/generate/sequence.h"
#include "refrain/model/language_model.h"

namespace refrain {

using RequestId = uint64_t;  // an engine gives none twice

// For one thread at a time.
class Engine {
 public:
  // The model must outlive this. Requests run together as long as their states fit into
  // `max_tokens` tokens (prompts and new ones), but always one. Others wait in order.
  // `draft`: a smaller model with the same tokenizer, which must outlive this too, or none. It
  // guesses for requests with draft_tokens; what its states take counts as so many tokens of the
  // model's.
  Engine(const LanguageModel& model, int64_t max_tokens, const LanguageModel* draft = nullptr);
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
  // A sequence may have some tokens left to read again if a draft guessed for it.
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
  void guess(const std::vector<ActiveRequest*>& requests);
  void read(const std::vector<ActiveRequest*>& requests);
  void catch_up();
  void retire();

  const LanguageModel& model_;
  int64_t max_tokens_, tokens_ = 0;  // tokens_: that the states under way have room for
  RequestId next_id_ = 1;
  bool in_step_ = false;
  size_t turn_ = 0;  // of those that generate, where a window begins that cannot hold them all
  std::deque<std::unique_ptr<ActiveRequest>> waiting_;
  std::vector<std::unique_ptr<ActiveRequest>> active_;  // as they came
  std::map<RequestId, Ended> ended_;
  ForwardPass pass_;
  std::unique_ptr<Draft> draft_;
};

}  // namespace refrain

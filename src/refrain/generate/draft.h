// Guesses what a model will choose, with a smaller model of the same tokenizer (speculative
// decoding; Leviathan et al., 2023, arXiv 2211.17192; Chen et al., 2023, arXiv 2302.01318).
//
// A guess is nothing but a token that the model reads ahead. One pass of the model reads several,
// for little more time than one token takes, and the model's own sampler then chooses at each of
// their places. As long as its choice is the guess, the next logits are there already. What it
// chooses is what it chooses without a draft: no bit of its logits depends on where a text is cut,
// and its draws are functions of (seed, place, logits). So nothing of a distribution is corrected
// after a wrong guess, unlike in the papers, and a text has the same bytes with any draft.
//
// The draft guesses with the sampler of the request and the random numbers of the places that it
// guesses for: where its probabilities are the model's, it is right.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "refrain/generate/forward_pass.h"
#include "refrain/generate/request.h"
#include "refrain/generate/rollback.h"
#include "refrain/generate/sequence.h"

namespace refrain {

// What a draft has been told of a text, and its guesses behind that.
class DraftSequence {
 public:
  // Begins with `text`, which will have `tokens` tokens; the state may hold `limit` of them.
  DraftSequence(const LanguageModel& draft, std::span<const int32_t> text, int64_t tokens,
                int64_t limit);

  // The text goes on: with the next guess, or otherwise; then the guesses behind it go.
  void append(int32_t token);

  std::span<const int32_t> guesses() const {
    return sequence_.tokens().subspan(static_cast<size_t>(known_ - sequence_.forgotten()));
  }

 private:
  friend class Draft;
  void discard_guesses();

  Sequence sequence_;  // the guesses included; read up to the last of them at most
  int64_t known_ = 0;  // tokens of the text
  Rollback rollback_;  // the end of the text, before guesses were read
  int64_t limit_;
  bool knows_all_ = true;  // each token is one of its vocabulary
};

class Draft {
 public:
  // Both must outlive this.
  Draft(const LanguageModel& draft, const LanguageModel& model);

  // Tokens of a text of `tokens` tokens that its state may hold, where that of the model may hold
  // `context` (0: as many as it was trained on). It follows the model beyond what it was trained on
  // only if that was as much as the model.
  int64_t context_limit(int64_t context) const;
  // What guessing takes beside a state of the model for `room` tokens, in tokens of that state: the
  // draft's state, and the copies that both can go back to.
  int64_t extra_room(int64_t tokens, int64_t context, int64_t room) const;
  const LanguageModel& model() const { return draft_; }

  struct Turn {
    DraftSequence* sequence;
    Sampler* sampler;
    const GenerationRequest* request;
    int64_t most;  // tokens to guess, 1 or more
  };
  // Each reads what it has not read of its text, in a pass that has room for a chunk of a long one;
  // those that have read all of it guess.
  void guess(std::span<const Turn> turns);

 private:
  bool add_guess(const Turn& turn, std::span<const float> logits, float& chance) const;

  const LanguageModel &draft_, &model_;
  ForwardPass pass_;
};

}  // namespace refrain

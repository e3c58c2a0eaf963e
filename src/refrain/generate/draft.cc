#include "refrain/generate/draft.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace refrain {
namespace {

// Where all of its guesses are right with a chance below this, a draft guesses no further. Its own
// probabilities say what the chance is. One more guess costs a pass of the draft and a row of the
// model.
constexpr float kLeastChance = 0.2f;

}  // namespace

DraftSequence::DraftSequence(const LanguageModel& draft, std::span<const int32_t> text,
                             int64_t tokens, int64_t limit)
    : sequence_(draft), limit_(limit) {
  sequence_.reserve(tokens, limit);
  for (const int32_t token : text) append(token);
}

void DraftSequence::append(int32_t token) {
  if (token >= sequence_.model().config().vocab_size) knows_all_ = false;
  if (const auto next = guesses(); !next.empty() && next.front() == token) {
    ++known_;
    return;
  }
  discard_guesses();
  sequence_.append(token);
  ++known_;
}

void DraftSequence::discard_guesses() {
  SequenceState& state = sequence_.state();
  if (sequence_.begin() + state.position() > known_) {
    if (rollback_.trivial())
      state.rewind(known_ - sequence_.begin());
    else
      rollback_.restore(state);
  }
  sequence_.truncate(known_);
}

Draft::Draft(const LanguageModel& draft, const LanguageModel& model)
    : draft_(draft), model_(model), pass_(draft) {
  for (size_t l = 0; l < model.config().mixers.size(); ++l)
    if (model.mixer(l).traits().cut_multiple > 1)
      throw_error(
          "draft: expected a model whose numbers do not depend on where a text is cut, found one "
          "with {}",
          model.config().mixers[l].kind());
}

int64_t Draft::context_limit(int64_t context) const {
  const int64_t trained = draft_.config().context;
  const bool follows = context <= trained ||
                       (trained >= model_.config().context && !draft_.config().learned_positions);
  return refrain::context_limit(draft_, follows ? context : trained);
}

int64_t Draft::extra_room(int64_t tokens, int64_t context, int64_t room) const {
  constexpr int64_t kAhead = GenerationRequest::kMostDraftTokens;
  const int64_t held = std::min(tokens, context_limit(context));
  size_t extra = Rollback::bytes(draft_, held, kAhead) + Rollback::bytes(model_, room, kAhead);
  size_t own = 0;
  for (int64_t l = 0; l < draft_.config().layers; ++l) extra += draft_.state_bytes(l, held);
  for (int64_t l = 0; l < model_.config().layers; ++l) own += model_.state_bytes(l, room);
  const double share = static_cast<double>(extra) / static_cast<double>(std::max<size_t>(own, 1));
  return static_cast<int64_t>(std::ceil(share * static_cast<double>(room)));
}

void Draft::guess(std::span<const Turn> turns) {
  struct Guesser {
    const Turn* turn;
    int64_t left;      // guesses to be made
    float chance = 1;  // that those made are all right
  };
  std::vector<Guesser> guessers;
  std::vector<std::pair<DraftSequence*, size_t>> readers;
  pass_.clear();
  for (const Turn& turn : turns) {
    DraftSequence& its = *turn.sequence;
    if (!its.knows_all_) continue;
    its.discard_guesses();
    Sequence& sequence = its.sequence_;
    sequence.trim(turn.request->looks_back());
    const auto pending = sequence.pending();
    const size_t n =
        ForwardPass::chunk_length(sequence.state().position(), pending.size(), pass_.room());
    if (n == 0) continue;
    const bool reads_all = n == pending.size();
    pass_.add(sequence.state(), pending.first(n), {}, reads_all ? 1 : 0);
    readers.emplace_back(&its, n);
    // The guess after the last one that its state has room for needs no room.
    const int64_t room = its.limit_ - (sequence.size() - sequence.begin()) + 1;
    if (reads_all) guessers.push_back({&turn, std::min(turn.most, room)});
  }
  if (pass_.empty()) return;
  pass_.run();
  for (const auto& [its, n] : readers) its->sequence_.advance(static_cast<int64_t>(n));

  for (bool first = true; !guessers.empty(); first = false) {
    std::vector<Guesser> rest;
    for (size_t i = 0; i < guessers.size(); ++i) {
      Guesser& g = guessers[i];
      const bool goes_on = add_guess(*g.turn, pass_.logits(i), g.chance);
      if (goes_on && --g.left > 0) rest.push_back(g);
    }
    guessers = std::move(rest);
    pass_.clear();
    for (const Guesser& g : guessers) {
      DraftSequence& its = *g.turn->sequence;
      SequenceState& state = its.sequence_.state();
      if (first) its.rollback_.save(draft_, state, g.left);
      pass_.add(state, its.sequence_.unread(), {}, 1);
    }
    if (pass_.empty()) return;
    pass_.run();
    for (const Guesser& g : guessers) g.turn->sequence->sequence_.advance(1);
  }
}

// False where it is better not to go on behind it.
bool Draft::add_guess(const Turn& turn, std::span<const float> logits, float& chance) const {
  Sequence& sequence = turn.sequence->sequence_;
  // Vocabularies may have been padded to different sizes.
  const size_t V = static_cast<size_t>(model_.config().vocab_size);
  const auto guess = turn.sampler->guess(logits.first(std::min(logits.size(), V)),
                                         sequence.tokens(), turn.sequence->guesses().size());
  if (!guess) return false;
  sequence.append(guess->token);
  chance *= guess->probability;
  return chance >= kLeastChance && !turn.request->ended_by(guess->token);
}

}  // namespace refrain

#include "refrain/generate/beam.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "refrain/base/parallel.h"

namespace refrain {
namespace {

// Rows that go through the model together at most: enough to fill the products. Prompts are cut at
// multiples of it, wherever in a window they come to stand.
constexpr int64_t kWindowRows = 512;
// Bound of the logits that exist at a time, in floats; but those of one row always do.
constexpr int64_t kLogits = int64_t{1} << 23;
constexpr int64_t kOperationsPerLogit = 20;  // exponential and comparisons

void expect(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw_error("{}: expected {} to {}, found {}", name, low, high, value);
}

}  // namespace

void BeamConfig::check() const {
  expect("beam_size", beam_size, 1, 4096);
  if (n_best < 1 || n_best > beam_size)
    throw_error("n_best: expected 1 to beam_size {}, found {}", beam_size, n_best);
  if (!(length_penalty >= 0 && length_penalty <= 100))
    throw_error("length_penalty: expected 0 to 100, found {}", length_penalty);
}

struct BeamSearch::Continuation {
  int32_t token;
  double logprob;  // of the token
};

// A sequence that goes on.
struct BeamSearch::LiveHypothesis {
  std::vector<int32_t> tokens;  // behind the prompt
  double logprob = 0;
  std::unique_ptr<SequenceState> state{};
  std::vector<Continuation> continuations{};
};

// A request under way.
struct BeamSearch::ActiveRequest {
  const BeamRequest& request;
  size_t index;                                         // of the request
  int64_t room;                                         // tokens that its states may hold
  std::vector<LiveHypothesis> live{};                   // the likeliest first
  std::vector<Hypothesis> finished{};                   // in the order of their ends
  std::vector<std::unique_ptr<SequenceState>> spare{};  // with the live ones' a whole beam

  bool done() const { return live.empty(); }
  int64_t capacity() const {
    return static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens;
  }
};

// What a sequence reads in one window.
struct BeamSearch::Piece {
  LiveHypothesis* live;
  std::span<const int32_t> tokens;
  size_t continuations;  // how many are wanted after it; 0 before the end of the prompt
};

BeamSearch::BeamSearch(const LanguageModel& model, const BeamConfig& config,
                       std::vector<int32_t> end_tokens, std::span<const int32_t> never)
    : model_(model), config_(config), end_tokens_(std::move(end_tokens)) {
  config_.check();
  std::vector<bool> may_choose(static_cast<size_t>(model.config().vocab_size), true);
  for (const int32_t token : never) {
    expect("token not to choose", token, 0, model.config().vocab_size - 1);
    may_choose[static_cast<size_t>(token)] = false;
  }
  for (int32_t token = 0; token < model.config().vocab_size; ++token)
    if (may_choose[static_cast<size_t>(token)]) allowed_.push_back(token);
  if (allowed_.empty()) throw_error("beam search: every token of the vocabulary is ruled out");
}

bool BeamSearch::ends(int32_t token) const {
  return std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

double BeamSearch::score(double logprob, size_t tokens) const {
  return logprob / std::pow(static_cast<double>(tokens), config_.length_penalty);
}

std::vector<std::vector<Hypothesis>> BeamSearch::search(std::span<const BeamRequest> requests,
                                                        int64_t max_tokens) {
  expect("max_tokens", max_tokens, 1, kMaxTokens);
  for (const BeamRequest& request : requests) {
    const auto tokens = static_cast<int64_t>(request.prompt.size());
    if (tokens == 0) throw_error("prompt: expected at least one token, found none");
    expect("max_new_tokens", request.max_new_tokens, 1, kMaxTokens - tokens);
    for (const int32_t token : request.prompt)
      expect("prompt token", token, 0, model_.config().vocab_size - 1);
  }
  std::vector<std::vector<Hypothesis>> results(requests.size());
  std::vector<std::unique_ptr<ActiveRequest>> active;
  int64_t tokens = 0;  // that the states of the active have room for
  for (size_t next = 0; next < requests.size() || !active.empty();) {
    for (; next < requests.size(); ++next) {
      auto search = std::make_unique<ActiveRequest>(ActiveRequest{requests[next], next, 0});
      search->room = config_.beam_size * search->capacity();
      if (!active.empty() && tokens + search->room > max_tokens) break;
      tokens += search->room;
      search->live.emplace_back().state =
          std::make_unique<SequenceState>(model_, search->capacity());
      for (int64_t i = 1; i < config_.beam_size; ++i)
        search->spare.push_back(std::make_unique<SequenceState>(model_, search->capacity()));
      active.push_back(std::move(search));
    }
    std::vector<ActiveRequest*> searches;
    for (const auto& search : active) searches.push_back(search.get());
    step(searches);
    std::erase_if(active, [&](const std::unique_ptr<ActiveRequest>& search) {
      if (!search->done()) return false;
      std::vector<Hypothesis>& best = search->finished;
      std::stable_sort(best.begin(), best.end(),
                       [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
      best.resize(std::min(best.size(), static_cast<size_t>(config_.n_best)));
      results[search->index] = std::move(best);
      tokens -= search->room;
      return true;
    });
  }
  return results;
}

// One more token for every search.
void BeamSearch::step(std::span<ActiveRequest* const> searches) {
  std::vector<Piece> pieces;
  for (ActiveRequest* search : searches) {
    const size_t places = static_cast<size_t>(config_.beam_size) - search->finished.size();
    for (LiveHypothesis& live : search->live) {
      const auto prompt = std::span(search->request.prompt);
      auto pending = live.tokens.empty() ? prompt : std::span(live.tokens).last(1);
      while (!pending.empty()) {
        const auto piece = pending.first(std::min<size_t>(pending.size(), kWindowRows));
        pending = pending.subspan(piece.size());
        pieces.push_back({&live, piece, pending.empty() ? places : 0});
      }
    }
  }
  read(pieces);
  parallel_for(static_cast<int64_t>(searches.size()),
               [&](int64_t i) { choose(*searches[static_cast<size_t>(i)]); });
}

// Puts the pieces, in their order, into as many windows as it takes.
void BeamSearch::read(std::span<const Piece> pieces) {
  const int64_t V = model_.config().vocab_size, most_choices = std::max<int64_t>(1, kLogits / V);
  for (size_t begin = 0, end = 0; begin < pieces.size(); begin = end) {
    std::vector<SequenceState*> states;
    std::vector<int32_t> tokens, offset = {0}, positions, rows;
    std::vector<const Piece*> choosing;
    for (; end < pieces.size(); ++end) {
      const Piece& piece = pieces[end];
      const auto used = static_cast<int64_t>(tokens.size() + piece.tokens.size());
      if (end > begin && (used > kWindowRows || std::ssize(rows) == most_choices)) break;
      tokens.insert(tokens.end(), piece.tokens.begin(), piece.tokens.end());
      offset.push_back(static_cast<int32_t>(used));
      positions.push_back(static_cast<int32_t>(piece.live->state->position()));
      states.push_back(piece.live->state.get());
      if (piece.continuations == 0) continue;
      rows.push_back(offset.back() - 1);
      choosing.push_back(&piece);
    }

    const RaggedBatch batch = builder_.set(offset, positions);
    const StateView view(states, model_.config().layers);
    logits_.resize(std::max(logits_.size(), rows.size() * static_cast<size_t>(V)));
    const Tensor logits(logits_.data(), {std::ssize(rows), V});
    workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
      model_.logits(ctx, batch, tokens, view.states(), rows, logits);
    });
    for (size_t i = begin; i < end; ++i)
      pieces[i].live->state->advance(std::ssize(pieces[i].tokens));

    parallel_for(
        std::ssize(rows),
        [&](int64_t row) {
          const auto r = static_cast<size_t>(row);
          choosing[r]->live->continuations = best_continuations(
              {logits.row(row), static_cast<size_t>(V)}, choosing[r]->continuations);
        },
        std::ssize(rows) * V * kOperationsPerLogit);
  }
}

std::vector<BeamSearch::Continuation> BeamSearch::best_continuations(std::span<const float> logits,
                                                                     size_t n) const {
  const LogSoftmax log_p(logits);
  const auto logit = [&](int32_t token) { return logits[static_cast<size_t>(token)]; };
  std::vector<int32_t> best(std::min(n, allowed_.size()));
  std::partial_sort_copy(
      allowed_.begin(), allowed_.end(), best.begin(), best.end(),
      [&](int32_t a, int32_t b) { return logit(a) > logit(b) || (logit(a) == logit(b) && a < b); });
  if (!(logit(best[0]) >= std::numeric_limits<float>::lowest()))
    throw_error("the model's logits of all tokens that may be chosen are -inf: expected a number");
  std::vector<Continuation> continuations;
  for (const int32_t token : best) {
    const double logprob = log_p(logit(token));
    if (!std::isfinite(logprob)) break;  // neither is what comes behind: these never follow
    continuations.push_back({token, logprob});
  }
  return continuations;
}

// Fills the places of the beam with the likeliest continuations of its sequences.
void BeamSearch::choose(ActiveRequest& search) const {
  struct Candidate {
    size_t parent;
    int32_t token;
    double logprob;  // of the whole sequence
  };
  std::vector<Candidate> choices;
  for (size_t parent = 0; parent < search.live.size(); ++parent)
    for (const Continuation& c : search.live[parent].continuations)
      choices.push_back({parent, c.token, search.live[parent].logprob + c.logprob});
  std::stable_sort(choices.begin(), choices.end(),
                   [](const Candidate& a, const Candidate& b) { return a.logprob > b.logprob; });
  const size_t places = static_cast<size_t>(config_.beam_size) - search.finished.size();
  choices.resize(std::min(choices.size(), places));

  const size_t length = search.live[0].tokens.size() + 1;
  const bool last = std::cmp_equal(length, search.request.max_new_tokens);
  std::vector<LiveHypothesis> live;
  std::vector<size_t> parents;
  for (const Candidate& choice : choices) {
    std::vector<int32_t> tokens = search.live[choice.parent].tokens;
    const bool ended = ends(choice.token);
    if (!ended) tokens.push_back(choice.token);
    if (ended || last) {
      search.finished.push_back({std::move(tokens), choice.logprob, score(choice.logprob, length),
                                 ended ? StopReason::kEndToken : StopReason::kLength});
    } else {
      live.push_back({std::move(tokens), choice.logprob});
      parents.push_back(choice.parent);
    }
  }
  if (is_decided(search, live)) live.clear();

  // A sequence's first heir takes over its state, the others copy it.
  std::vector<const SequenceState*> of_parent(search.live.size());
  for (size_t i = 0; i < live.size(); ++i) {
    std::unique_ptr<SequenceState>& state = search.live[parents[i]].state;
    if (!state) continue;
    of_parent[parents[i]] = state.get();
    live[i].state = std::move(state);
  }
  for (LiveHypothesis& without_heir : search.live)
    if (without_heir.state) search.spare.push_back(std::move(without_heir.state));
  for (size_t i = 0; i < live.size(); ++i) {
    if (live[i].state) continue;
    live[i].state = std::move(search.spare.back());
    search.spare.pop_back();
    live[i].state->fork_from(*of_parent[parents[i]]);
  }
  search.live = std::move(live);
}

// Whether nothing that goes on, the likeliest first, can come among the n_best any more.
bool BeamSearch::is_decided(const ActiveRequest& search,
                            std::span<const LiveHypothesis> live) const {
  const auto wanted = static_cast<size_t>(config_.n_best);
  if (live.empty() || search.finished.size() < wanted) return false;
  std::vector<double> scores;
  for (const Hypothesis& h : search.finished) scores.push_back(h.score);
  const auto worst = scores.begin() + static_cast<ptrdiff_t>(wanted) - 1;
  std::nth_element(scores.begin(), worst, scores.end(), std::greater<>());
  return score(live[0].logprob, static_cast<size_t>(search.request.max_new_tokens)) <= *worst;
}

}  // namespace refrain

#include "refrain/generate/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace refrain {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Bound of the logits that exist at a time, in floats; but those of one row always do.
constexpr int64_t kLogits = int64_t{1} << 23;
// Rows up to which a pass of those that generate takes little more time for one more: it reads the
// weights anyway. Guesses are rows beside the requests' own.
constexpr size_t kSpeculativeRows = 40;

}  // namespace

struct Engine::ActiveRequest {
  ActiveRequest(const LanguageModel& model, const Draft* d, GenerationRequest r, Sequence* goes_on,
                OnToken f)
      : request(std::move(r)),
        own(goes_on ? nullptr : std::make_unique<Sequence>(model)),
        sequence(goes_on ? *goes_on : *own),
        on_token(std::move(f)),
        sampler(request.sampling, sequence.progress, request.never),
        // It guesses neither the first token nor the last one.
        draft(request.draft_tokens > 0 && request.max_new_tokens > 2 ? d : nullptr) {
    if (request.prompt.empty() && sequence.pending().empty())
      throw_error("prompt: expected at least one token, found none");
    result.prompt_tokens = std::ssize(request.prompt);
    limit = context_limit(model, request.context);
    room = std::min(final_size(), limit);
    if (draft) room += draft->extra_room(final_size(), request.context, room);
  }

  // How large the text will be at most.
  int64_t final_size() const {
    return sequence.size() + std::ssize(request.prompt) + request.max_new_tokens;
  }

  // From here on it has a state.
  void enter() {
    const int64_t most = final_size();
    sequence.reserve(most, limit);
    sequence.append(request.prompt);
    if (draft)
      draft_sequence = std::make_unique<DraftSequence>(draft->model(), sequence.tokens(),
                                                       most - sequence.forgotten(),
                                                       draft->context_limit(request.context));
    done = pending().empty();
  }

  // One token is always left unread: what comes after it is still to be chosen when a sequence goes
  // on.
  std::span<const int32_t> pending() const {
    const auto all = sequence.pending();
    return request.max_new_tokens == 0 ? all.first(all.size() - 1) : all;
  }

  void stop(StopReason reason) {
    result.reason = reason;
    done = true;
  }

  // It has read its text but for the last token, and what it must read again.
  bool generates() { return std::ssize(pending()) <= 1 + behind; }

  // Tokens to guess where its window may have `rows`.
  int64_t most_guesses(int64_t rows) {
    // Instead of falling further behind, it catches up.
    if (!draft_sequence || result.tokens == 0 || !generates() || behind > request.draft_tokens)
      return 0;
    const int64_t unread = std::ssize(pending());
    return std::min({request.draft_tokens, request.max_new_tokens - result.tokens - 1,
                     limit - sequence.state().position() - unread, rows - unread});
  }

  // From the logits of the chunk's last row and of the guesses behind it, as far as they are right.
  void choose(const ForwardPass& pass, size_t row, Clock::time_point since) {
    size_t right = 0;  // guesses that are the text
    if (guesses.empty()) advance();
    try {
      while (true) {
        SampledToken choice =
            sampler.choose(pass.logits(row + right), sequence.tokens(), request.logprobs);
        seconds += seconds_since(since);
        if (done) break;  // cancelled by another one's on_token
        const int32_t token = choice.token;
        take(std::move(choice));
        since = Clock::now();
        if (right == guesses.size()) break;
        const bool guessed = token == guesses[right];
        result.draft_proposed += guessed ? 1 : std::ssize(guesses) - static_cast<int64_t>(right);
        result.draft_accepted += guessed ? 1 : 0;
        if (done || !guessed) break;
        ++right;
      }
    } catch (...) {
      error = std::current_exception();
      done = true;
    }
    if (!guesses.empty()) accept(right);
  }

  // What was in the window has been read.
  void advance() {
    sequence.advance(static_cast<int64_t>(reading));
    behind = std::max<int64_t>(0, behind - static_cast<int64_t>(reading));
  }

  // Likewise with guesses, the first `right` of which are the text.
  void accept(size_t right) {
    if (right == guesses.size() || rollback.trivial()) {
      sequence.advance(static_cast<int64_t>(reading + right));
      behind = 0;
    } else {
      rollback.restore(sequence.state());
      behind = std::ssize(sequence.unread()) - 1;
    }
  }

  void take(SampledToken choice) {
    const double elapsed = std::exchange(seconds, 0);
    if (result.tokens == 0) {
      result.prompt_seconds = elapsed;
    } else {
      result.generation_seconds += elapsed;
      ++result.steps;
    }
    sequence.append(choice.token);
    sequence.progress = sampler.progress();
    sequence.trim(request.looks_back());
    if (draft_sequence) draft_sequence->append(choice.token);
    if (const auto end = request.ended_by(choice.token)) return stop(*end);
    ++result.tokens;
    const auto asked = on_token ? on_token(choice) : std::nullopt;
    if (request.keep_choices) result.choices.push_back(std::move(choice));
    if (done) return;  // cancelled by its own on_token
    if (asked) return stop(*asked);
    if (sampler.low_confidence()) {
      sequence.progress.low_confidence_streak = 0;  // who goes on nevertheless starts counting anew
      return stop(StopReason::kUnsure);
    }
    if (result.tokens == request.max_new_tokens) stop(StopReason::kLength);
  }

  RequestId id = 0;
  const GenerationRequest request;
  std::unique_ptr<Sequence> own;
  Sequence& sequence;
  OnToken on_token;
  Sampler sampler;
  const Draft* draft;  // null: none guesses for it
  std::unique_ptr<DraftSequence> draft_sequence{};
  int64_t limit = 0, room = 0;  // tokens that its state may hold; what it counts as
  GenerationResult result{};
  std::exception_ptr error;
  size_t reading = 0;              // tokens in the window, without guesses
  bool choosing = false;           // their last one's logits give the next token
  std::vector<int32_t> guesses{};  // behind them in the window
  Rollback rollback{};             // to before the window, with guesses in it
  int64_t behind = 0;  // tokens that were read and are to be read again, after a wrong guess
  double seconds = 0;  // since the last choice
  bool done = false;
};

Engine::Engine(const LanguageModel& model, int64_t max_tokens, const LanguageModel* draft)
    : model_(model),
      max_tokens_(max_tokens),
      pass_(model),
      draft_(draft ? std::make_unique<Draft>(*draft, model) : nullptr) {
  if (max_tokens < 1) throw_error("max_tokens: expected 1 or more, found {}", max_tokens);
}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;

RequestId Engine::submit(GenerationRequest request, OnToken on_token) {
  return add(std::move(request), nullptr, std::move(on_token));
}

RequestId Engine::submit(GenerationRequest request, Sequence& sequence, OnToken on_token) {
  return add(std::move(request), &sequence, std::move(on_token));
}

RequestId Engine::add(GenerationRequest request, Sequence* sequence, OnToken on_token) {
  request.check(model_.config().vocab_size);
  if (sequence) {
    REFRAIN_CHECK(&sequence->model() == &model_);
    const auto has_it = [&](const auto& other) {
      return &other->sequence == sequence && !other->done;
    };
    REFRAIN_CHECK(std::ranges::none_of(waiting_, has_it) && std::ranges::none_of(active_, has_it));
  }
  waiting_.push_back(std::make_unique<ActiveRequest>(model_, draft_.get(), std::move(request),
                                                     sequence, std::move(on_token)));
  return waiting_.back()->id = next_id_++;
}

void Engine::cancel(RequestId id) {
  for (const auto& request : active_)
    if (request->id == id && !request->done) request->stop(StopReason::kCancelled);
  const auto it = std::ranges::find(waiting_, id, [](const auto& request) { return request->id; });
  if (it == waiting_.end()) return;
  (*it)->stop(StopReason::kCancelled);
  ended_[id] = {std::move((*it)->result), nullptr};
  waiting_.erase(it);
}

void Engine::drop(RequestId id) {
  REFRAIN_CHECK(!in_step_);
  cancel(id);
  retire();
  ended_.erase(id);
}

GenerationResult Engine::take(RequestId id) {
  auto node = ended_.extract(id);
  if (node.empty()) throw_error("request {}: has not ended, or was taken", id);
  if (node.mapped().error) std::rethrow_exception(node.mapped().error);
  return std::move(node.mapped().result);
}

bool Engine::step() {
  REFRAIN_CHECK(!in_step_);
  in_step_ = true;
  const struct End {
    bool& in_step;
    ~End() { in_step = false; }
  } end{in_step_};
  admit();
  if (const auto requests = in_turn(); !requests.empty()) read(requests);
  catch_up();
  retire();
  return !active_.empty() || !waiting_.empty();
}

void Engine::admit() {
  while (!waiting_.empty()) {
    if (!active_.empty() && tokens_ + waiting_.front()->room > max_tokens_) return;
    active_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    ActiveRequest& request = *active_.back();
    tokens_ += request.room;
    try {
      request.enter();
    } catch (...) {  // there is no memory for its state
      request.error = std::current_exception();
      request.done = true;
      retire();
    }
  }
}

size_t Engine::most_choices() const {
  return static_cast<size_t>(std::max<int64_t>(1, kLogits / model_.config().vocab_size));
}

// Those that generate, and then those that read their prompts, as they came.
std::vector<Engine::ActiveRequest*> Engine::in_turn() {
  std::vector<ActiveRequest*> all, prompts;
  for (const auto& request : active_)
    if (!request->done) (request->generates() ? all : prompts).push_back(request.get());
  // A window that cannot hold them all begins behind those that the one before has held; prompts
  // get a chunk of it, and a row of logits, nevertheless.
  const size_t choices = most_choices();
  constexpr size_t kPromptRows = 64;
  const size_t most = prompts.empty()
                          ? std::min(ForwardPass::kRows, choices)
                          : std::clamp(choices - 1, size_t{1}, ForwardPass::kRows - kPromptRows);
  if (all.size() > most) {
    turn_ %= all.size();
    std::rotate(all.begin(), all.begin() + static_cast<ptrdiff_t>(turn_), all.end());
    turn_ += most;
    all.resize(most);
  }
  all.insert(all.end(), prompts.begin(), prompts.end());
  return all;
}

// Lets the draft guess for those that generate.
void Engine::guess(const std::vector<ActiveRequest*>& requests) {
  for (ActiveRequest* request : requests) request->guesses.clear();
  if (!draft_) return;
  const auto n = static_cast<size_t>(
      std::ranges::count_if(requests, [](ActiveRequest* request) { return request->generates(); }));
  if (n == 0) return;
  const size_t of_prompts = n < requests.size() ? 1 : 0;
  const size_t rows = std::min(kSpeculativeRows, most_choices() - of_prompts) / n;
  std::vector<Draft::Turn> turns;
  std::vector<ActiveRequest*> guessed_for;
  for (ActiveRequest* request : requests) {
    const int64_t most = request->most_guesses(static_cast<int64_t>(rows));
    if (most <= 0) continue;
    turns.push_back({request->draft_sequence.get(), &request->sampler, &request->request, most});
    guessed_for.push_back(request);
  }
  draft_->guess(turns);
  for (ActiveRequest* request : guessed_for) {
    const auto guesses = request->draft_sequence->guesses();
    request->guesses.assign(guesses.begin(), guesses.end());
  }
}

// Puts into one window what the requests have not read, as far as there is room; those that have
// read all choose their next token.
void Engine::read(const std::vector<ActiveRequest*>& requests) {
  const auto start = Clock::now();
  guess(requests);
  pass_.clear();
  std::vector<ActiveRequest*> readers;
  for (ActiveRequest* request : requests) {
    const auto pending = request->pending();
    SequenceState& state = request->sequence.state();
    request->reading = ForwardPass::chunk_length(state.position(), pending.size(), pass_.room());
    request->choosing = request->reading == pending.size() && request->request.max_new_tokens > 0;
    if (request->reading == 0 || (request->choosing && pass_.wanted() == most_choices())) break;
    std::vector<int32_t>& guesses = request->guesses;
    const size_t room = request->choosing ? std::min(pass_.room() - request->reading,
                                                     most_choices() - pass_.wanted() - 1)
                                          : 0;
    guesses.resize(std::min(guesses.size(), room));
    if (!guesses.empty())
      request->rollback.save(model_, state, std::ssize(pending) + std::ssize(guesses));
    pass_.add(state, pending.first(request->reading), guesses,
              request->choosing ? 1 + guesses.size() : 0);
    readers.push_back(request);
  }
  pass_.run();

  size_t row = 0;
  for (ActiveRequest* request : readers) {
    if (request->choosing) {
      const size_t first = std::exchange(row, row + 1 + request->guesses.size());
      request->choose(pass_, first, start);
    } else {
      request->advance();
      request->seconds += seconds_since(start);
      if (request->done) continue;  // cancelled by another one's on_token
      if (request->request.max_new_tokens == 0 && request->pending().empty()) {
        request->result.prompt_seconds = request->seconds;
        request->stop(StopReason::kLength);
      }
    }
  }
}

// Sequences of requests that ended with a wrong guess read what they have to read again: one that
// goes on has the state that it has without a draft.
void Engine::catch_up() {
  std::vector<ActiveRequest*> readers;
  pass_.clear();
  for (const auto& request : active_) {
    if (!request->done || request->own || request->behind == 0) continue;
    const auto unread = request->sequence.unread();
    pass_.add(request->sequence.state(), unread.first(unread.size() - 1), {}, 0);
    readers.push_back(request.get());
  }
  if (readers.empty()) return;
  pass_.run();
  for (ActiveRequest* request : readers)
    request->sequence.advance(std::exchange(request->behind, 0));
}

void Engine::retire() {
  std::erase_if(active_, [&](const std::unique_ptr<ActiveRequest>& request) {
    if (!request->done) return false;
    ended_[request->id] = {std::move(request->result), request->error};
    tokens_ -= request->room;
    return true;
  });
}

}  // namespace refrain

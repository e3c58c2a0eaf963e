#include "refrain/generate/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace refrain {
namespace {

using Clock = std::chrono::steady_clock;

// Where a prompt is cut does not depend on who shares the window: at multiples of kCut, where
// mixers are the same to the bit (their blocks stand at multiples of it or of a divisor).
constexpr size_t kCut = 64;
// Rows that go through the model together at most: enough to fill the products.
constexpr size_t kWindowRows = 512;
// Bound of the logits that exist at a time, in floats; but those of one row always do.
constexpr int64_t kLogits = int64_t{1} << 23;

void check(const GenerationRequest& request, int64_t vocab_size) {
  const auto expect = [](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
      throw_error("{}: expected {} to {}, found {}", name, low, high, value);
  };
  for (const int32_t token : request.prompt) expect("prompt token", token, 0, vocab_size - 1);
  for (const int32_t token : request.never) expect("token not to draw", token, 0, vocab_size - 1);
  expect("max_new_tokens", request.max_new_tokens, 0, kMaxTokens);
  expect("context", request.context, 0, kMaxTokens);
  expect("logprobs", request.logprobs, 0, kMaxTokens);
}

std::optional<StopReason> end_of(const GenerationRequest& request, int32_t token) {
  if (request.ignore_eos) return {};
  const auto& more = request.more_eos;
  if (token == request.eos || std::find(more.begin(), more.end(), token) != more.end())
    return StopReason::kEndToken;
  if (token == request.pad) return StopReason::kPadToken;
  return {};
}

// How much of what a sequence at `position` has not read goes into a window with `room` rows.
size_t chunk_length(int64_t position, size_t pending, size_t room) {
  if (pending <= room) return pending;
  const size_t at = static_cast<size_t>(position), end = (at + room) / kCut * kCut;
  return end > at ? end - at : 0;
}

double rate(int64_t n, double seconds) {
  return n == 0 ? 0 : static_cast<double>(n) / std::max(seconds, 1e-9);
}

}  // namespace

std::string_view to_text(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kEndToken:
      return "eos";
    case StopReason::kPadToken:
      return "pad";
    case StopReason::kStopText:
      return "stop";
    case StopReason::kUnsure:
      return "unsure";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "";
}

double GenerationResult::prompt_tokens_per_second() const {
  return rate(prompt_tokens, prompt_seconds);
}

double GenerationResult::tokens_per_second() const { return rate(steps, generation_seconds); }

struct Engine::ActiveRequest {
  ActiveRequest(const LanguageModel& model, GenerationRequest r, Sequence* goes_on, OnToken f)
      : request(std::move(r)),
        own(goes_on ? nullptr : std::make_unique<Sequence>(model)),
        sequence(goes_on ? *goes_on : *own),
        on_token(std::move(f)),
        sampler(request.sampling, sequence.progress, request.never) {
    if (request.prompt.empty() && sequence.pending().empty())
      throw_error("prompt: expected at least one token, found none");
    result.prompt_tokens = std::ssize(request.prompt);
    limit = context_limit(model, request.context);
    room = std::min(final_size(), limit);
  }

  // How large the text will be at most.
  int64_t final_size() const {
    return sequence.size() + std::ssize(request.prompt) + request.max_new_tokens;
  }

  // From here on it has a state.
  void enter() {
    sequence.reserve(final_size(), limit);
    sequence.append(request.prompt);
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

  // Tokens of a sequence that its sampler may look at.
  int64_t looks_back() const {
    const SamplingConfig& sampling = request.sampling;
    if (sampling.repeat_penalty == 1) return 0;
    return sampling.repeat_last_n < 0 ? kMaxTokens : sampling.repeat_last_n;
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
    sequence.trim(looks_back());
    if (const auto end = end_of(request, choice.token)) return stop(*end);
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
  int64_t limit = 0, room = 0;  // tokens that its state may hold, and will
  GenerationResult result{};
  std::exception_ptr error;
  size_t reading = 0;     // tokens in the window
  bool choosing = false;  // their last one's logits give the next token
  double seconds = 0;     // since the last choice
  bool done = false;
};

Engine::Engine(const LanguageModel& model, int64_t max_tokens)
    : model_(model), max_tokens_(max_tokens) {
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
  check(request, model_.config().vocab_size);
  if (sequence) {
    REFRAIN_CHECK(&sequence->model() == &model_);
    const auto has_it = [&](const auto& other) {
      return &other->sequence == sequence && !other->done;
    };
    REFRAIN_CHECK(std::ranges::none_of(waiting_, has_it) && std::ranges::none_of(active_, has_it));
  }
  waiting_.push_back(
      std::make_unique<ActiveRequest>(model_, std::move(request), sequence, std::move(on_token)));
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
    if (!request->done) (request->pending().size() == 1 ? all : prompts).push_back(request.get());
  // A window that cannot hold them all begins behind those that the one before has held; prompts
  // get a chunk of it, and a row of logits, nevertheless.
  const size_t choices = most_choices();
  const size_t most = prompts.empty() ? std::min(kWindowRows, choices)
                                      : std::clamp(choices - 1, size_t{1}, kWindowRows - kCut);
  if (all.size() > most) {
    turn_ %= all.size();
    std::rotate(all.begin(), all.begin() + static_cast<ptrdiff_t>(turn_), all.end());
    turn_ += most;
    all.resize(most);
  }
  all.insert(all.end(), prompts.begin(), prompts.end());
  return all;
}

// Puts into one window what the requests have not read, as far as there is room; those that have
// read all choose their next token.
void Engine::read(const std::vector<ActiveRequest*>& requests) {
  const auto start = Clock::now();
  const int64_t V = model_.config().vocab_size;
  std::vector<ActiveRequest*> readers;
  std::vector<SequenceState*> states;
  std::vector<int32_t> tokens, offset = {0}, positions, rows;
  for (ActiveRequest* request : requests) {
    const auto pending = request->pending();
    const int64_t position = request->sequence.state().position();
    request->reading = chunk_length(position, pending.size(), kWindowRows - tokens.size());
    request->choosing = request->reading == pending.size() && request->request.max_new_tokens > 0;
    if (request->reading == 0 || (request->choosing && rows.size() == most_choices())) break;
    const auto chunk = pending.first(request->reading);
    tokens.insert(tokens.end(), chunk.begin(), chunk.end());
    offset.push_back(static_cast<int32_t>(tokens.size()));
    positions.push_back(static_cast<int32_t>(position));
    states.push_back(&request->sequence.state());
    if (request->choosing) rows.push_back(offset.back() - 1);
    readers.push_back(request);
  }

  const RaggedBatch batch = builder_.set(offset, positions);
  const StateView view(states, model_.config().layers);
  logits_.resize(std::max(logits_.size(), rows.size() * static_cast<size_t>(V)));
  const Tensor logits(logits_.data(), {static_cast<int64_t>(rows.size()), V});
  workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
    model_.logits(ctx, batch, tokens, view.states(), rows, logits);
  });

  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const float* row = logits.data;
  for (ActiveRequest* request : readers) {
    request->sequence.advance(static_cast<int64_t>(request->reading));
    if (request->choosing) {
      const std::span<const float> its(row, static_cast<size_t>(V));
      row += V;
      try {
        SampledToken choice =
            request->sampler.choose(its, request->sequence.tokens(), request->request.logprobs);
        request->seconds += elapsed();
        if (!request->done) request->take(std::move(choice));
      } catch (...) {
        request->error = std::current_exception();
        request->done = true;
      }
    } else {
      request->seconds += elapsed();
      if (request->done) continue;  // cancelled by another one's on_token
      if (request->request.max_new_tokens == 0 && request->pending().empty()) {
        request->result.prompt_seconds = request->seconds;
        request->stop(StopReason::kLength);
      }
    }
  }
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

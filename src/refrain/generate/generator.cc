#include "refrain/generate/generator.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

namespace refrain {
namespace {

using Clock = std::chrono::steady_clock;

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

// How large the text will be at most, if it is `size` tokens so far.
int64_t final_size(const GenerationRequest& request, int64_t size) {
  return size + static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens;
}

std::optional<StopReason> end_of(const GenerationRequest& request, int32_t token) {
  if (request.ignore_eos) return {};
  const auto& more = request.more_eos;
  if (token == request.eos || std::find(more.begin(), more.end(), token) != more.end())
    return StopReason::kEndToken;
  if (token == request.pad) return StopReason::kPadToken;
  return {};
}

// How much of what a sequence at `position` has not read goes into a window with `room` rows. Where
// a prompt is cut does not depend on who shares the window: at multiples of kCut, where mixers are
// the same to the bit (their blocks stand at multiples of it or of a divisor).
size_t piece_length(int64_t position, size_t unread, size_t room) {
  constexpr size_t kCut = 64;
  if (unread <= room) return unread;
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

// A request under way.
struct Generator::Job {
  const GenerationRequest& request;
  Sequence& sequence;
  Sampler sampler;
  GenerationResult result{};
  size_t reading = 0;     // tokens in the window
  bool choosing = false;  // their last one's logits give the next token
  double seconds = 0;     // since the last choice
  bool done = false;

  // One token is always left unread: what comes after it is still to be chosen when a sequence goes
  // on.
  std::span<const int32_t> unread() const {
    const auto all = sequence.unread();
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

  void take(Choice choice, const OnToken& on_token) {
    const double elapsed = std::exchange(seconds, 0);
    if (result.tokens == 0) {
      result.prompt_seconds = elapsed;
    } else {
      result.generation_seconds += elapsed;
      ++result.steps;
    }
    sequence.append(choice.token);
    sequence.progress = sampler.progress();
    sequence.forget(looks_back());
    if (const auto end = end_of(request, choice.token)) return stop(*end);
    ++result.tokens;
    const auto asked = on_token ? on_token(choice) : std::nullopt;
    if (request.keep_choices) result.choices.push_back(std::move(choice));
    if (asked) return stop(*asked);
    if (sampler.unsure()) {
      sequence.progress.low_in_a_row = 0;  // who goes on nevertheless starts counting anew
      return stop(StopReason::kUnsure);
    }
    if (result.tokens == request.max_new_tokens) stop(StopReason::kLength);
  }
};

Generator::Generator(const LanguageModel& model) : model_(model) {}

Generator::Job Generator::begin(const GenerationRequest& request, Sequence& sequence) const {
  check(request, model_.config().vocab_size);
  Job job{request, sequence, Sampler(request.sampling, sequence.progress, request.never)};
  job.result.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  sequence.reserve(final_size(request, sequence.size()), context_limit(model_, request.context));
  sequence.append(request.prompt);
  if (sequence.unread().empty()) throw_error("prompt: expected at least one token, found none");
  job.done = job.unread().empty();
  return job;
}

GenerationResult Generator::generate(const GenerationRequest& request, const OnToken& on_token) {
  Sequence sequence(model_);
  return generate(request, sequence, on_token);
}

GenerationResult Generator::generate(const GenerationRequest& request, Sequence& sequence,
                                     const OnToken& on_token) {
  Job job = begin(request, sequence);
  Job* const jobs[] = {&job};
  while (!job.done) step(jobs, on_token);
  return std::move(job.result);
}

std::vector<GenerationResult> Generator::generate_batch(std::span<const GenerationRequest> requests,
                                                        int64_t max_tokens) {
  if (max_tokens < 1) throw_error("max_tokens: expected 1 or more, found {}", max_tokens);
  struct Active {
    size_t index;  // of the request
    int64_t tokens;
    Sequence sequence;
    Job job;
    Active(const Generator& generator, const GenerationRequest& request, size_t i, int64_t room)
        : index(i),
          tokens(room),
          sequence(generator.model_),
          job(generator.begin(request, sequence)) {}
  };
  std::vector<GenerationResult> results(requests.size());
  std::vector<std::unique_ptr<Active>> active;
  int64_t tokens = 0;  // that the states alive have room for
  for (size_t next = 0; next < requests.size() || !active.empty();) {
    for (; next < requests.size(); ++next) {
      const GenerationRequest& request = requests[next];
      const int64_t room = std::min(final_size(request, 0), context_limit(model_, request.context));
      if (!active.empty() && tokens + room > max_tokens) break;
      active.push_back(std::make_unique<Active>(*this, request, next, room));
      tokens += room;
    }
    std::vector<Job*> jobs;
    for (const auto& one : active)
      if (!one->job.done) jobs.push_back(&one->job);
    if (!jobs.empty()) step(jobs, {});
    std::erase_if(active, [&](const std::unique_ptr<Active>& one) {
      if (!one->job.done) return false;
      results[one->index] = std::move(one->job.result);
      tokens -= one->tokens;
      return true;
    });
  }
  return results;
}

// Puts into one window what the jobs, in their order, have not read, as far as there is room; those
// that have read all choose their next token.
void Generator::step(std::span<Job* const> jobs, const OnToken& on_token) {
  const auto start = Clock::now();
  const int64_t V = model_.config().vocab_size;
  const auto most_choices = static_cast<size_t>(std::max<int64_t>(1, kLogits / V));
  std::vector<Job*> readers;
  std::vector<SequenceState*> states;
  std::vector<int32_t> tokens, offset = {0}, positions, rows;
  for (Job* job : jobs) {
    const auto unread = job->unread();
    job->reading =
        piece_length(job->sequence.state().position(), unread.size(), kWindowRows - tokens.size());
    job->choosing = job->reading == unread.size() && job->request.max_new_tokens > 0;
    if (job->reading == 0 || rows.size() == most_choices) break;
    const auto piece = unread.first(job->reading);
    tokens.insert(tokens.end(), piece.begin(), piece.end());
    offset.push_back(static_cast<int32_t>(tokens.size()));
    positions.push_back(static_cast<int32_t>(job->sequence.state().position()));
    states.push_back(&job->sequence.state());
    if (job->choosing) rows.push_back(offset.back() - 1);
    readers.push_back(job);
  }

  const Window window = window_.set(offset, positions);
  const StateView view(states, model_.config().layers);
  logits_.resize(std::max(logits_.size(), rows.size() * static_cast<size_t>(V)));
  const Tensor logits(logits_.data(), {static_cast<int64_t>(rows.size()), V});
  workspace_.run({}, [&](Context& ctx, Arena&) {
    model_.logits(ctx, window, tokens, view.states(), rows, logits);
  });

  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const float* row = logits.data;
  for (Job* job : readers) {
    job->sequence.advance(static_cast<int64_t>(job->reading));
    if (job->choosing) {
      Choice choice = job->sampler.choose({row, static_cast<size_t>(V)}, job->sequence.tokens(),
                                          job->request.logprobs);
      row += V;
      job->seconds += elapsed();
      job->take(std::move(choice), on_token);
    } else {
      job->seconds += elapsed();
      if (job->request.max_new_tokens == 0 && job->unread().empty()) {
        job->result.prompt_seconds = job->seconds;
        job->stop(StopReason::kLength);
      }
    }
  }
}

}  // namespace refrain

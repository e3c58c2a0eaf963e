#include "refrain/generate/conversation.h"

#include <algorithm>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/generate/stop_texts.h"

namespace refrain {
namespace {

using io::Json;

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

std::string valid_utf8(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const CodePoint next = decode_utf8(text);
    append_utf8(valid, next.code);
    text.remove_prefix(next.bytes);
  }
  return valid;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n\v\f";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) + 1 - first);
}

Json message_of(const char* role, std::string_view content) {
  return {{"role", role}, {"content", content}};
}

}  // namespace

// An answer that is under way.
struct Conversation::Turn {
  Turn(const text::Tokenizer& tokenizer, const AnswerSettings& s)
      : settings(s), stops(s.stop), plain(tokenizer), whole(tokenizer, true) {}

  AnswerSettings settings;
  Json messages;  // with the new one
  std::string rendered;
  std::vector<int32_t> ids;  // of that
  OnText on_text;
  StopTexts stops;
  text::StreamDecoder plain, whole;  // without special tokens, with them
  RequestId id = 0;
  bool only_reads = false, cancelled = false, ended = false;
  std::vector<int32_t> added;  // by the request, so far as it has begun
  std::string spoken;          // the answer, with special tokens
  double seconds = 0;          // of requests before
  Answer answer;
};

Conversation::Conversation(const ChatModel& with, std::optional<std::tm> now)
    : with_(with), now_(now), sequence_(with.model) {
  ends_ = ends_of_template();
}

Conversation::~Conversation() = default;

std::string Conversation::render(const Json& messages, bool for_answer) const {
  text::ChatInput input;
  input.messages = messages;
  input.add_generation_prompt = for_answer;
  input.bos_token = with_.bos_token;
  input.eos_token = with_.eos_token;
  input.variables = with_.variables;
  input.now = now_;
  return with_.chat.render(input).text;
}

// The special token right behind an answer.
std::vector<int32_t> Conversation::ends_of_template() const {
  constexpr std::string_view kAnswer = "refrain";
  try {
    const std::string text =
        render(Json::array({message_of("user", "a"), message_of("assistant", kAnswer)}), false);
    const size_t at = text.rfind(kAnswer);
    if (at == text.npos) return {};
    const std::string_view rest = trimmed(std::string_view(text).substr(at + kAnswer.size()));
    const auto ids = with_.tokenizer.encode(rest, true);
    if (!ids.empty() && with_.tokenizer.is_special(ids[0]) && ids[0] != with_.tokenizer.unk())
      return {ids[0]};
  } catch (const Error&) {  // it takes no such messages
  }
  return {};
}

void Conversation::set_messages(Json messages) {
  REFRAIN_CHECK(!turn_);
  if (!messages.is_array())
    throw_error("messages: expected a list, found {}", io::describe(messages));
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string where = fmt::format("message {}", i + 1);
    if (!messages[i].is_object())
      throw_error("{}: expected an object, found {}", where, io::describe(messages[i]));
    io::get_string(messages[i], "role", where);
  }
  messages_ = std::move(messages);
}

// What the model wrote keeps the tokens that it chose, though its text may have others.
std::vector<int32_t> Conversation::ids_of(std::string_view rendered) const {
  const text::Tokenizer& tokenizer = with_.tokenizer;
  if (!text_.empty() && rendered.starts_with(text_)) {
    // Texts are cut at special tokens: behind the last one, or before the next one.
    const int32_t last = ids_.back();
    const bool at_special = last < tokenizer.vocab_size() && tokenizer.is_special(last);
    std::string rest(at_special ? tokenizer.token(last) : "");
    rest += rendered.substr(text_.size());
    const auto more = tokenizer.encode(rest, true);
    if (!more.empty() && (at_special ? more[0] == last : tokenizer.is_special(more[0]))) {
      std::vector<int32_t> ids = ids_;
      ids.insert(ids.end(), more.begin() + (at_special ? 1 : 0), more.end());
      return ids;
    }
  }
  return tokenizer.encode(rendered, true);
}

// Where later texts will still have the tokens of this one: before what asks for an answer. 0 if no
// mark is needed, because states can go back to any place.
int64_t Conversation::place_of_mark(const Json& messages, std::span<const int32_t> ids,
                                    int64_t new_tokens) const {
  const int64_t size = std::ssize(ids);
  if (Rollback::bytes(with_.model, size, new_tokens) == 0) return 0;
  try {
    return std::min(common_prefix(ids_of(render(messages, false)), ids), size - 1);
  } catch (const Error&) {
    return size - 1;
  }
}

// So that the sequence has the first `size` of its tokens, or fewer.
void Conversation::go_back(int64_t size) {
  text_.clear();
  SequenceState& state = sequence_.state();
  if (size < state.position()) {
    if (Rollback::bytes(with_.model, size, state.position() - size) == 0) {
      state.rewind(size);
    } else if (mark_ && mark_->position <= size) {
      mark_->rollback.restore(state);
      size = mark_->position;
    } else {
      sequence_ = Sequence(with_.model);
      size = 0;
    }
  }
  mark_.reset();  // it does not hold for what is read from now on
  ids_.resize(static_cast<size_t>(size));
  if (size >= sequence_.forgotten()) return sequence_.truncate(size);
  Sequence shorter(with_.model, {.tokens = ids_, .position = size});
  shorter.state().fork_from(sequence_.state());
  sequence_ = std::move(shorter);
}

// It holds for all that the state has room for.
void Conversation::set_mark() {
  SequenceState& state = sequence_.state();
  mark_.emplace();
  mark_->position = state.position();
  mark_->rollback.save(with_.model, state, state.capacity() - state.position());
}

void Conversation::begin(Engine& engine, Json message, const AnswerSettings& settings,
                         OnText on_text) {
  REFRAIN_CHECK(!turn_);
  auto turn = std::make_unique<Turn>(with_.tokenizer, settings);
  turn->on_text = std::move(on_text);
  turn->messages = messages_;
  turn->messages.push_back(std::move(message));
  turn->rendered = render(turn->messages, true);
  turn->ids = ids_of(turn->rendered);
  const std::vector<int32_t>& ids = turn->ids;
  GenerationRequest& request = turn->settings.request;
  const int64_t size = std::ssize(ids), limit = context_limit(with_.model, request.context);
  if (ids.empty()) throw_error("the chat template makes no text of the conversation");
  if (size >= limit)
    throw_error(
        "the conversation has {} tokens with this message, expected fewer than its context, {}",
        size, limit);
  request.prompt = ids;
  request.check(with_.model.config().vocab_size);
  request.keep_choices = false;
  request.max_new_tokens = std::min(request.max_new_tokens, limit - size);
  request.more_eos.insert(request.more_eos.end(), ends_.begin(), ends_.end());
  const auto answers = std::ranges::count_if(messages_, [](const Json& m) {
    return m.is_object() && m.value("role", Json()) == "assistant";
  });
  request.sampling.seed = static_cast<int64_t>(static_cast<uint64_t>(request.sampling.seed) +
                                               static_cast<uint64_t>(answers));
  for (const int32_t id : ids) {  // they tell the decoders where they stand
    turn->plain.feed(id);
    turn->whole.feed(id);
  }
  const int64_t mark = place_of_mark(turn->messages, ids, request.max_new_tokens);

  go_back(std::min(common_prefix(ids, ids_), size - 1));
  sequence_.progress = {};
  sequence_.reserve(size + request.max_new_tokens, limit);
  const int64_t position = sequence_.state().position();
  turn->answer.tokens = size;
  turn->answer.read = size - position;
  if (mark >= position && position > 0) set_mark();
  turn_ = std::move(turn);
  try {
    mark > position ? submit(engine, mark + 1, true) : submit(engine, size, false);
  } catch (...) {
    turn_.reset();
    throw;
  }
}

// A request for the tokens up to `end` that the sequence does not have.
void Conversation::submit(Engine& engine, int64_t end, bool only_read) {
  Turn& turn = *turn_;
  GenerationRequest request = turn.settings.request;
  const int64_t begin = std::min(sequence_.size(), end);
  request.prompt.assign(turn.ids.begin() + begin, turn.ids.begin() + end);
  if (only_read) request.max_new_tokens = 0;
  turn.added = request.prompt;
  turn.only_reads = only_read;
  turn.id =
      engine.submit(std::move(request), sequence_,
                    [this, &turn](const SampledToken& choice) -> std::optional<StopReason> {
                      turn.added.push_back(choice.token);
                      turn.spoken += turn.whole.feed(choice.token);
                      const std::string shown = turn.stops.feed(turn.plain.feed(choice.token));
                      turn.answer.text += shown;
                      if (turn.on_text && !shown.empty()) turn.on_text(shown);
                      if (turn.stops.found()) return StopReason::kStopText;
                      return turn.cancelled ? std::optional(StopReason::kCancelled) : std::nullopt;
                    });
}

void Conversation::absorb() {
  const auto n = static_cast<size_t>(sequence_.size()) - ids_.size();
  std::vector<int32_t>& added = turn_->added;
  if (added.size() < n) added.push_back(sequence_.tokens().back());  // what ended it
  REFRAIN_CHECK(n <= added.size());
  ids_.insert(ids_.end(), added.begin(), added.begin() + static_cast<ptrdiff_t>(n));
}

bool Conversation::advance(Engine& engine) {
  REFRAIN_CHECK(turn_);
  if (turn_->ended) return true;
  if (!engine.ended(turn_->id)) return false;
  GenerationResult result;
  try {
    result = engine.take(turn_->id);
  } catch (...) {
    absorb();
    turn_.reset();
    throw;
  }
  absorb();
  if (turn_->only_reads && result.reason != StopReason::kCancelled && !turn_->cancelled) {
    set_mark();
    turn_->seconds += result.prompt_seconds;
    submit(engine, std::ssize(turn_->ids), false);
    return false;
  }
  if (turn_->only_reads) result.reason = StopReason::kCancelled;
  finish(std::move(result));
  return true;
}

void Conversation::finish(GenerationResult result) {
  Turn& turn = *turn_;
  Answer& answer = turn.answer;
  result.prompt_seconds += turn.seconds;
  if (!turn.stops.found()) {
    std::string shown = turn.stops.feed(turn.plain.finish());
    shown += turn.stops.finish();
    answer.text += shown;
    if (turn.on_text && !shown.empty()) turn.on_text(shown);
    if (turn.stops.found()) result.reason = StopReason::kStopText;
  }
  answer.text = valid_utf8(answer.text);
  answer.kept = result.tokens > 0 || result.reason != StopReason::kCancelled;
  if (answer.kept) {
    const size_t generated = ids_.size() - turn.ids.size();
    if (std::cmp_greater(generated, result.tokens)) turn.spoken += turn.whole.feed(ids_.back());
    turn.spoken += turn.whole.finish();
    text_ = turn.rendered + turn.spoken;
    messages_ = as_read(std::move(turn.messages), answer.text);
  }
  answer.result = std::move(result);
  turn.ended = true;
}

// The messages with the answer. White space around it is left out if the template then gives the
// text that the model has read.
Json Conversation::as_read(Json messages, const std::string& answer) const {
  messages.push_back(message_of("assistant", answer));
  const std::string_view inner = trimmed(answer);
  if (inner.size() == answer.size()) return messages;
  const auto is_read = [&](const Json& all) {
    try {
      return render(all, false).starts_with(text_);
    } catch (const Error&) {
      return false;
    }
  };
  if (is_read(messages)) return messages;
  Json shorter = messages;
  shorter.back()["content"] = inner;
  return is_read(shorter) ? shorter : messages;
}

void Conversation::cancel(Engine& engine) {
  REFRAIN_CHECK(turn_);
  if (turn_->ended) return;
  turn_->cancelled = true;
  engine.cancel(turn_->id);
}

void Conversation::discard(Engine& engine) {
  if (!turn_) return;
  if (!turn_->ended) {
    engine.drop(turn_->id);
    absorb();
  }
  turn_.reset();
}

Answer Conversation::take() {
  REFRAIN_CHECK(turn_ && turn_->ended);
  Answer answer = std::move(turn_->answer);
  turn_.reset();
  return answer;
}

Answer Conversation::ask(Engine& engine, Json message, const AnswerSettings& settings,
                         const OnText& on_text, const std::function<bool()>& cancelled) {
  begin(engine, std::move(message), settings, on_text);
  try {
    while (!advance(engine)) {
      engine.step();
      if (cancelled && cancelled()) cancel(engine);
    }
  } catch (...) {
    discard(engine);
    throw;
  }
  return take();
}

}  // namespace refrain

// A conversation with a model: messages, and the state of the model after the text that a chat
// template makes of them. A new message costs the reading of its own tokens. Where a template
// writes earlier messages otherwise from then on (many leave out an answer's reasoning), the state
// goes back to the last token that both texts share: a key/value cache to any place, a recurrent
// state to the end of the last question. If it cannot go back, the text is read anew.
//
// The text has at most as many tokens as the context; nothing of it is dropped silently.
#pragma once
#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/generate/engine.h"
#include "refrain/generate/rollback.h"
#include "refrain/generate/sequence.h"
#include "refrain/io/json.h"
#include "refrain/model/language_model.h"
#include "refrain/text/chat/chat_template.h"
#include "refrain/text/tokenizer.h"

namespace refrain {

// What conversations are held with; it must outlive them.
struct ChatModel {
  LanguageModel& model;
  const text::Tokenizer& tokenizer;
  const text::ChatTemplate& chat;
  // For the template, as in text::ChatInput.
  std::string bos_token{}, eos_token{};
  io::Json variables = io::Json::object();
};

struct AnswerSettings {
  // Of each answer. The prompt is set here, and tokens that end an answer are added. Answer n draws
  // with the seed + n. `context` is the most tokens that the conversation may have.
  GenerationRequest request;
  std::vector<std::string> stop;  // texts that end an answer (generate/stop_texts.h)
};

struct Answer {
  std::string text;
  GenerationResult result;  // without choices
  int64_t tokens = 0;       // of the conversation, up to the answer
  int64_t read = 0;         // of these, those that the model had not read before
  // False if it was cancelled before its first token: then the conversation is as it was before.
  bool kept = true;
};

// For one thread at a time. It must stay where it is while an answer is under way.
class Conversation {
 public:
  using OnText = std::function<void(std::string_view)>;

  // `now`: when it begins, for templates that tell the date.
  explicit Conversation(const ChatModel& with, std::optional<std::tm> now = {});
  ~Conversation();
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  const io::Json& messages() const { return messages_; }
  // Objects with role and content, for example the system's. The state stays, and serves as far as
  // their text has the tokens that it has read. An Error if they are no such list.
  void set_messages(io::Json messages);
  // Tokens that the state stands for, those of the last answer included.
  std::span<const int32_t> tokens() const { return ids_; }
  // Tokens that end an answer besides those of a request: what the template puts behind answers.
  std::span<const int32_t> ends() const { return ends_; }

  // Adds the message and the answer to it. `cancelled` is asked after each pass of the model. After
  // an Error the conversation is as it was before. `on_text` gets the answer in parts.
  Answer ask(Engine& engine, io::Json message, const AnswerSettings& settings,
             const OnText& on_text = {}, const std::function<bool()>& cancelled = {});

  // The same in steps, for an engine that has other work too: begin(), then Engine::step() until
  // advance(), called after each step, says that the answer is there. discard() ends one that
  // nobody waits for, and must be called when advance() was not.
  void begin(Engine& engine, io::Json message, const AnswerSettings& settings, OnText on_text = {});
  bool advance(Engine& engine);
  void cancel(Engine& engine);  // it ends with what there is, at the next advance()
  void discard(Engine& engine);
  Answer take();

  // A file with messages, tokens and the state, for the same weights only. Durable and atomic.
  void save(const std::string& path);
  // Becomes the conversation of a file, which is checked before anything changes.
  void load(const std::string& path);

 private:
  struct Turn;
  struct Mark {
    int64_t position;
    Rollback rollback;
  };

  std::string render(const io::Json& messages, bool for_answer) const;
  std::vector<int32_t> ids_of(std::string_view rendered) const;
  std::vector<int32_t> ends_of_template() const;
  int64_t place_of_mark(const io::Json& messages, std::span<const int32_t> ids,
                        int64_t new_tokens) const;
  void go_back(int64_t size);
  void set_mark();
  void submit(Engine& engine, int64_t end, bool only_read);
  void absorb();  // what a request has added to the sequence
  void finish(GenerationResult result);
  io::Json as_read(io::Json messages, const std::string& answer) const;

  ChatModel with_;
  std::optional<std::tm> now_;
  std::vector<int32_t> ends_;
  io::Json messages_ = io::Json::array();
  Sequence sequence_;
  std::vector<int32_t> ids_;  // all tokens of the sequence, which may forget some
  std::string text_;          // what they stand for; empty if that is not known
  std::optional<Mark> mark_;
  std::unique_ptr<Turn> turn_;
};

}  // namespace refrain

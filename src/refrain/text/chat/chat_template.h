// Chat templates: the Jinja programs with which models say how a conversation becomes a text. They
// mean what they mean to transformers' apply_chat_template(), to the byte. A template is a program
// of somebody else: it sees only what it is given, its time, memory and output are limited, and
// whatever goes wrong is an Error of one line: "name: line 3: what".
#pragma once
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/io/json.h"
#include "refrain/text/chat/jinja/interpreter.h"
#include "refrain/text/chat/jinja/runtime.h"

namespace refrain::text {

struct ChatInput {
  io::Json messages;         // a list of objects
  io::Json tools = nullptr;  // a list, or null
  bool add_generation_prompt = false;
  std::string bos_token{}, eos_token{};  // empty: the model has none, and the name is undefined
  // More names: other special tokens, `documents`, what a model's page tells (`enable_thinking`).
  io::Json variables = io::Json::object();
  std::optional<std::tm> now{};  // for strftime_now(): local time
  jinja::Limits limits{};
};

// The text, and what of it the assistant wrote, if the template marks that with {% generation %}.
using Rendered = jinja::Output;

// A chat template as a model's files have it, and its name in errors.
struct ChatTemplateSource {
  std::string text, name;
};

// The template of a model directory: chat_template.jinja, or `chat_template` in
// tokenizer_config.json. Where there are several, the one for tools if there are tools, and
// "default" otherwise. Or tokenizer.chat_template of a GGUF file. Nothing if there is none. The
// text is not checked.
std::optional<ChatTemplateSource> find_chat_template(const std::string& directory,
                                                     bool with_tools = false);

class ChatTemplate {
 public:
  // `name` stands in errors.
  static constexpr size_t kMaxBytes = size_t{512} << 10;
  static ChatTemplate parse(std::string_view source, std::string name);

  // What find_chat_template() finds.
  static std::optional<ChatTemplate> read(const std::string& directory, bool with_tools = false);

  Rendered render(const ChatInput& input) const;

  const std::string& source() const { return source_; }
  bool marks_generation() const { return marks_generation_; }

 private:
  ChatTemplate() = default;

  std::string name_, source_;
  bool marks_generation_ = false;
  std::shared_ptr<const jinja::Template> tree_;
};

// The special tokens of tokenizer_config.json, or of a GGUF file, by name ("bos_token": "<s>"), as
// variables for a template. An empty object if the directory has no such file.
io::Json special_token_texts(const std::string& directory);

}  // namespace refrain::text

#include "refrain/text/chat/conversation.h"

#include <algorithm>
#include <span>
#include <utility>

#include "refrain/base/error.h"

namespace refrain::text {
namespace {

using io::Json;
using Spans = std::vector<std::pair<size_t, size_t>>;  // bytes of a text: from, to

class Writer {
 public:
  Writer(const Json& object, const std::string& where, const ChatFormat& format,
         const Tokenizer& tokenizer)
      : object_(object), where_(where), format_(format), tokenizer_(tokenizer) {
    if (const Json* tools = io::find(object, "tools")) tools_ = *tools;
    // As a text in JSON too: columns of tables have one type.
    if (tools_.is_string()) tools_ = io::parse_json(tools_.get<std::string>(), where_ + ": tools");
    if (!tools_.is_null() && !tools_.is_array())
      throw_error("{}: tools: expected a list, found {}", where_, io::describe(tools_));
    if (tools_.is_array() && tools_.empty()) tools_ = nullptr;
  }

  LearnedText of_text(const std::string& text) const {
    LearnedText made = whole(text, true);
    made.learned.assign(made.ids.size(), true);
    return made;
  }
  LearnedText of_pair(const std::string& prompt, const std::string& completion) const {
    LearnedText made = whole(prompt + completion, true);
    learn_from(encoded(prompt, true), made);
    return made;
  }
  LearnedText of_messages(const Json& prompt, const Json& completion) const {
    Json all = prompt;
    all.insert(all.end(), completion.begin(), completion.end());
    LearnedText made = whole(render(all, false).text, false);
    learn_from(encoded(render(prompt, true).text, false), made);
    return made;
  }
  LearnedText of_messages(const Json& messages) const {
    const Rendered rendered = render(messages, false);
    LearnedText made = whole(rendered.text, false);
    if (!format_.mask_prompt) {
      made.learned.assign(made.ids.size(), true);
      return made;
    }
    Spans spans;
    if (template_of().marks_generation() && rendered.all_placed) {
      for (const auto& span : rendered.generated) spans.emplace_back(span.begin, span.end);
    } else {
      spans = by_prefixes(messages, rendered.text);
    }
    for (const auto& [begin, end] : spans) learn(rendered.text, begin, end, made);
    return made;
  }

  const Json& list_of_messages(const char* name) const {
    const Json& messages = io::member(object_, name, where_);
    if (!messages.is_array() || messages.empty())
      throw_error("{}: {}: expected a list of messages, found {}", where_, name,
                  messages.is_array() ? "none" : io::describe(messages));
    for (const Json& message : messages) {
      const Json* role = message.is_object() ? io::find(message, "role") : nullptr;
      if (!role || !role->is_string())
        throw_error("{}: {}: expected objects with a role, found {}", where_, name,
                    io::describe(message));
    }
    return messages;
  }

 private:
  std::string eos_text() const {
    const Json* named = io::find(format_.special_tokens, "eos_token");
    if (named && named->is_string()) return named->get<std::string>();
    return tokenizer_.eos() == kNoToken ? "" : std::string(tokenizer_.token(tokenizer_.eos()));
  }

  std::vector<int32_t> encoded(const std::string& text, bool begins) const {
    std::vector<int32_t> ids = tokenizer_.encode(text, true);
    if (begins && tokenizer_.adds_bos()) ids.insert(ids.begin(), tokenizer_.bos());
    return ids;
  }
  // `plain`: a text without a template, which begins and ends as the tokenizer says.
  LearnedText whole(std::string text, bool plain) const {
    const std::string end = eos_text();
    if (plain && !text.ends_with(end)) text += end;
    LearnedText made{encoded(text, plain), {}, static_cast<int64_t>(text.size())};
    made.learned.assign(made.ids.size(), !format_.mask_prompt);
    return made;
  }

  static size_t common(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
    const size_t most = std::min(a.size(), b.size());
    return static_cast<size_t>(
        std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(most), b.begin()).first -
        a.begin());
  }
  // All behind what the ids begin with as the prompt alone has it.
  static void learn_from(const std::vector<int32_t>& prompt, LearnedText& made) {
    for (size_t i = common(prompt, made.ids); i < made.ids.size(); ++i) made.learned[i] = true;
  }
  // Where the bytes of every id begin in the text, and its end; nothing if the ids do not decode to
  // it (a normalizer has changed it).
  std::vector<size_t> offsets(const std::string& text, const std::vector<int32_t>& ids) const {
    std::vector<size_t> at = {0};
    for (size_t i = 0; i < ids.size(); ++i) {
      // Behind another one: what begins a text may decode otherwise.
      const std::span<const int32_t> both(&ids[i == 0 ? 0 : i - 1], i == 0 ? 1 : 2);
      const size_t before = i == 0 ? 0 : tokenizer_.decode(both.first(1), true).size();
      const std::string decoded = tokenizer_.decode(both, true);
      if (decoded.size() < before) return {};
      const std::string own = decoded.substr(before);
      if (text.compare(at.back(), own.size(), own) != 0) return {};
      at.push_back(at.back() + own.size());
    }
    return at.back() == text.size() ? at : std::vector<size_t>();
  }
  // The tokens that bytes [begin, end) of the text are in.
  void learn(const std::string& text, size_t begin, size_t end, LearnedText& made) const {
    if (begin >= end) return;
    if (const std::vector<size_t> at = offsets(text, made.ids); !at.empty()) {
      for (size_t i = 0; i < made.ids.size(); ++i)
        if (at[i] < end && at[i + 1] > begin) made.learned[i] = true;
      return;
    }
    const auto upto = [&](size_t at) { return encoded(text.substr(0, at), false); };
    const std::vector<int32_t> before = upto(begin), with = upto(end);
    size_t last = common(with, made.ids);
    if (last < with.size()) ++last;  // a token that goes on behind the end
    for (size_t i = common(before, made.ids); i < std::min(last, made.ids.size()); ++i)
      made.learned[i] = true;
  }

  Spans by_prefixes(const Json& messages, const std::string& text) const {
    Spans spans;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (io::find(messages[i], "role")->get<std::string>() != "assistant") continue;
      Json before(messages.begin(), messages.begin() + static_cast<ptrdiff_t>(i));
      if (i == 0) before = Json::array();
      const std::string from = i == 0 ? "" : render(before, true).text;
      Json with = before;
      with.push_back(messages[i]);
      const std::string to = i + 1 == messages.size() ? text : render(with, false).text;
      if (!to.starts_with(from) || !text.starts_with(to))
        throw_error(
            "{}: the chat template writes earlier messages otherwise when others follow, and "
            "has no {{% generation %}}: what the assistant writes in message {} cannot be "
            "told (--no-mask-prompt learns all)",
            where_, i + 1);
      spans.emplace_back(from.size(), to.size());
    }
    return spans;
  }

  const ChatTemplate& template_of() const {
    const auto& chosen = tools_.is_null() ? format_.plain : format_.with_tools;
    if (!chosen)
      throw_error("{}: messages: expected a model with a chat template, found none", where_);
    return *chosen;
  }
  Rendered render(const Json& messages, bool add_generation_prompt) const {
    ChatInput input{.messages = messages, .tools = tools_};
    input.add_generation_prompt = add_generation_prompt;
    const auto text = [&](const char* name) {
      const Json* token = io::find(format_.special_tokens, name);
      return token && token->is_string() ? token->get<std::string>() : std::string();
    };
    input.bos_token = text("bos_token");
    input.eos_token = text("eos_token");
    for (const auto& [name, value] : format_.special_tokens.items())
      if (name != "bos_token" && name != "eos_token") input.variables[name] = value;
    try {
      return template_of().render(input);
    } catch (const Error& error) {
      throw_error("{}: {}", where_, error.what());
    }
  }

  const Json& object_;
  const std::string& where_;
  const ChatFormat& format_;
  const Tokenizer& tokenizer_;
  Json tools_ = nullptr;
};

}  // namespace

ChatFormat ChatFormat::read(const std::string& directory) {
  return {ChatTemplate::read(directory), ChatTemplate::read(directory, true),
          special_token_texts(directory)};
}

LearnedText encode_conversation(const Json& object, const std::string& where,
                                const ChatFormat& format, const Tokenizer& tokenizer) {
  if (!object.is_object())
    throw_error("{}: expected an object, found {}", where, io::describe(object));
  const Writer writer(object, where, format, tokenizer);
  const auto text = [&](const char* name) { return io::get_string(object, name, where); };
  LearnedText made;
  if (io::find(object, "messages")) {
    made = writer.of_messages(writer.list_of_messages("messages"));
  } else if (const Json* prompt = io::find(object, "prompt")) {
    if (prompt->is_array())
      made = writer.of_messages(writer.list_of_messages("prompt"),
                                writer.list_of_messages("completion"));
    else
      made = writer.of_pair(text("prompt"), text("completion"));
  } else if (io::find(object, "text")) {
    made = writer.of_text(text("text"));
  } else {
    throw_error(
        "{}: expected \"messages\", \"prompt\" and \"completion\", or \"text\", found "
        "none of them",
        where);
  }
  // The first id is nobody's target.
  const auto from = made.learned.begin() + (made.learned.empty() ? 0 : 1);
  if (std::find(from, made.learned.end(), true) == made.learned.end())
    throw_error(
        "{}: expected something to learn, an assistant's turn or a completion, found none "
        "(--no-mask-prompt learns all)",
        where);
  return made;
}

}  // namespace refrain::text

#include "refrain/text/chat/chat_template.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/gguf/gguf.h"
#include "refrain/text/chat/globals.h"
#include "refrain/text/chat/jinja/parser.h"

namespace refrain::text {
namespace {

using io::Json;
using namespace jinja;

constexpr size_t kMaxConfigBytes = size_t{64} << 20;  // older ones list all added tokens

Value from_json(Runtime& rt, const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::of(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::of(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > uint64_t{INT64_MAX})
        rt.fail("an integer of the input that 64 bits cannot hold: {}", io::describe(json));
      return Value::of(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value::of(json.get<double>());
    case Json::value_t::string:
      return rt.text(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(from_json(rt, item));
      return rt.list(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> members;
      members.reserve(json.size());
      for (const auto& [key, item] : json.items())
        members.emplace_back(rt.text(key), from_json(rt, item));
      return rt.map(std::move(members));
    }
    default:
      return Value::none();
  }
}

// As transformers prepares messages: members that are null are left out, and reasoning has all the
// names that templates read it by.
Json prepared(const Json& message, size_t index, const std::string& name) {
  if (!message.is_object())
    throw_error("{}: message {}: expected an object, found {}", name, index + 1,
                io::describe(message));
  Json made = Json::object();
  for (const auto& [key, value] : message.items())
    if (!value.is_null()) made[key] = value;
  for (const char* key : {"reasoning_content", "thinking", "reasoning"}) {
    const Json* found = io::find(made, key);
    if (!found) continue;
    const Json reasoning = *found;
    if (!io::find(made, "thinking")) {
      Json with = Json::object();  // in front, as there
      with["thinking"] = reasoning;
      with.update(made);
      made = std::move(with);
    }
    made["reasoning_content"] = reasoning;
    break;
  }
  return made;
}

std::string read_text(const std::string& path) {
  return io::read_file(path, ChatTemplate::kMaxBytes);
}

// The text of a special token: itself, or the content of what describes it.
const Json* token_text(const Json& token) {
  return token.is_string() ? &token : io::find(token, "content");
}

}  // namespace

ChatTemplate ChatTemplate::parse(std::string_view source, std::string name) {
  if (source.size() > kMaxBytes)
    throw_error("{}: {} bytes; a chat template has at most {}", name, source.size(), kMaxBytes);
  ChatTemplate made;
  made.name_ = std::move(name);
  made.source_ = source;
  made.tree_ = std::make_shared<Template>(parse_template(source, made.name_));
  made.marks_generation_ = made.tree_->marks_generation;
  return made;
}

std::optional<ChatTemplateSource> find_chat_template(const std::string& directory,
                                                     bool with_tools) {
  if (io::is_gguf(directory)) {
    const std::string key = "tokenizer.chat_template";
    const io::Gguf gguf(directory);
    if (!gguf.find(key)) return {};
    const std::string name = directory + ": " + key, tools = key + ".tool_use";
    if (with_tools && gguf.find(tools)) return ChatTemplateSource{gguf.get_string(tools), name};
    return ChatTemplateSource{gguf.get_string(key), name};
  }
  const std::string file = directory + "/chat_template.jinja";
  const std::string for_tools = directory + "/additional_chat_templates/tool_use.jinja";
  const auto whole = [](const std::string& path) {
    return ChatTemplateSource{read_text(path), path};
  };
  if (with_tools && io::exists(for_tools)) return whole(for_tools);
  if (io::exists(file)) return whole(file);
  const std::string config = directory + "/tokenizer_config.json";
  if (!io::exists(config)) return {};
  const Json json = io::read_json(config, kMaxConfigBytes);
  const Json* found = io::find(json, "chat_template");
  if (!found) return {};
  const std::string name = config + ": chat_template";
  if (found->is_string()) return ChatTemplateSource{found->get<std::string>(), name};
  if (!found->is_array())
    throw_error("{}: expected a string or a list, found {}", name, io::describe(*found));
  const Json* chosen = nullptr;
  std::string known;
  for (const Json& one : *found) {
    const std::string of = io::get_string(one, "name", name);
    known += (known.empty() ? "" : ", ") + io::quote(of);
    if (of == "default" && !chosen) chosen = &one;
    if (of == "tool_use" && with_tools) chosen = &one;
  }
  if (!chosen)
    throw_error("{}: expected one called \"default\", found {}", name,
                known.empty() ? "none" : known);
  return ChatTemplateSource{io::get_string(*chosen, "template", name),
                            name + ": " + io::get_string(*chosen, "name", name)};
}

std::optional<ChatTemplate> ChatTemplate::read(const std::string& directory, bool with_tools) {
  auto found = find_chat_template(directory, with_tools);
  if (!found) return {};
  return parse(found->text, std::move(found->name));
}

Rendered ChatTemplate::render(const ChatInput& input) const {
  if (!input.messages.is_array())
    throw_error("{}: messages: expected a list, found {}", name_, io::describe(input.messages));
  if (input.messages.empty()) throw_error("{}: a conversation without messages", name_);
  if (!input.tools.is_null() && !input.tools.is_array())
    throw_error("{}: tools: expected a list, found {}", name_, io::describe(input.tools));
  if (!input.variables.is_object())
    throw_error("{}: variables: expected an object, found {}", name_,
                io::describe(input.variables));
  Json messages = Json::array();
  for (size_t i = 0; i < input.messages.size(); ++i)
    messages.push_back(prepared(input.messages[i], i, name_));

  Runtime rt(name_, input.limits);
  Context context;
  put_globals(rt, input.now, context);
  context.emplace_back("documents", Value::none());
  if (!input.bos_token.empty()) context.emplace_back("bos_token", rt.text(input.bos_token));
  if (!input.eos_token.empty()) context.emplace_back("eos_token", rt.text(input.eos_token));
  for (const auto& [key, value] : input.variables.items())
    context.emplace_back(key, from_json(rt, value));
  context.emplace_back("messages", from_json(rt, messages));
  context.emplace_back("tools", from_json(rt, input.tools));
  context.emplace_back("add_generation_prompt", Value::of(input.add_generation_prompt));
  return Interpreter(rt, context).run(*tree_);
}

io::Json special_token_texts(const std::string& directory) {
  Json made = Json::object();
  if (io::is_gguf(directory)) {
    const io::Gguf gguf(directory);
    const std::vector<std::string>* tokens = gguf.find_strings("tokenizer.ggml.tokens");
    for (const auto& [key, name] :
         {std::pair("bos", "bos_token"), std::pair("eos", "eos_token"),
          std::pair("unknown", "unk_token"), std::pair("padding", "pad_token")}) {
      const int64_t id =
          gguf.get_int(fmt::format("tokenizer.ggml.{}_token_id", key), INT64_MIN, INT64_MAX, -1);
      if (tokens && id >= 0 && std::cmp_less(id, tokens->size()))
        made[name] = (*tokens)[static_cast<size_t>(id)];
    }
    return made;
  }
  const std::string config = directory + "/tokenizer_config.json";
  if (!io::exists(config)) return made;
  const Json json = io::read_json(config, kMaxConfigBytes);
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    const Json* token = io::find(json, name);
    if (!token) continue;
    const Json* text = token_text(*token);
    if (!text || !text->is_string())
      throw_error("{}: {}: expected a string, found {}", config, name, io::describe(*token));
    made[name] = *text;
  }
  return made;
}

}  // namespace refrain::text

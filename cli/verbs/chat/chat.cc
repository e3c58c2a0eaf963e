// A conversation with a model.
#include <unistd.h>

#include <ctime>
#include <optional>

#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/verbs.h"
#include "cli/verbs/chat/chat_input.h"
#include "refrain/base/utf8.h"
#include "refrain/formats/chat_template.h"
#include "refrain/generate/conversation.h"
#include "refrain/generate/stop_texts.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {

constexpr const char* kCommands =
    "/reset        begins a new conversation\n"
    "/save FILE    writes the conversation with the model's state\n"
    "/load FILE    goes on with a saved one, of the same model\n"
    "/quit         leaves, as the end of the input does\n"
    "/help         shows this\n"
    "//...         a message that begins with a slash\n";

text::ChatTemplate load_template(const std::string& model, const std::string& file) {
  if (!file.empty())
    return text::ChatTemplate::parse(io::read_file(file, text::ChatTemplate::kMaxBytes), file);
  const auto source = read_chat_template(model);
  if (!source)
    throw_error(
        "{}: the model has no chat template; --chat-template FILE gives one (Jinja, as "
        "chat_template.jinja)",
        model);
  return text::ChatTemplate::parse(*source, model + ": chat template");
}

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

// What a terminal may get: no control characters but line ends and tabs.
std::string for_terminal(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool control = (byte < ' ' && c != '\n' && c != '\t') || byte == 0x7F;
    shown += control ? "\uFFFD" : std::string(1, c);
  }
  return shown;
}

// A model, its template, and the one conversation with it.
class Session {
 public:
  Session(const LoadedModel& loaded, text::ChatTemplate chat, const std::string& directory,
          std::string system)
      : chat_(std::move(chat)),
        directory_(directory),
        system_(std::move(system)),
        engine_(*loaded.model, kMaxTokens),
        conversation_(describe(loaded), local_time()) {
    reset();
  }

  void reset() {
    io::Json messages = io::Json::array();
    if (!system_.empty()) messages.push_back({{"role", "system"}, {"content", system_}});
    conversation_.set_messages(std::move(messages));
  }

  Answer ask(const std::string& text, const AnswerSettings& settings,
             const Conversation::OnText& on_text, const std::function<bool()>& cancelled) {
    return conversation_.ask(engine_, {{"role", "user"}, {"content", text}}, settings, on_text,
                             cancelled);
  }

  void save(const std::string& path) {
    check_target("/save", path, {directory_});
    conversation_.save(path);
  }
  void load(const std::string& path) { conversation_.load(path); }
  size_t messages() const { return conversation_.messages().size(); }
  size_t tokens() const { return conversation_.tokens().size(); }

 private:
  ChatModel describe(const LoadedModel& loaded) const {
    ChatModel made{*loaded.model, loaded.tokenizer, chat_};
    made.variables = text::special_token_texts(directory_);
    if (!made.variables.empty()) return made;
    const auto text_of = [&](int32_t id) {
      const bool known = id >= 0 && id < loaded.tokenizer.vocab_size();
      return known ? std::string(loaded.tokenizer.token(id)) : "";
    };
    made.bos_token = text_of(loaded.special.bos);
    made.eos_token = text_of(loaded.special.eos);
    return made;
  }

  text::ChatTemplate chat_;
  std::string directory_, system_;
  Engine engine_;
  Conversation conversation_;
};

struct Chat {
  std::string model, adapter, system, chat_template, cache_type = "f32";
  AnswerSettings answers;
  bool json = false;

  Chat() { answers.request.max_new_tokens = 1024; }

  template <class V>
  void visit(V&& v) {
    v("model", model, kModelHelp);
    v("adapter", adapter, kAdapterHelp);
    v("system", system, "the system's message, which stands before all others");
    v("chat_template", chat_template,
      "file with the chat template (Jinja); empty = that of the model");
    v("max_new_tokens", answers.request.max_new_tokens, "tokens of an answer at most");
    v("context", answers.request.context,
      "tokens of the conversation at most; 0 = as many as the model was trained on");
    v("cache_type", cache_type, kCacheTypeHelp);
    answers.request.sampling.visit(v);
    v("stop", answers.stop, "texts that end an answer; they are not printed");
    v("json", json, "print each answer as a JSON object on a line");
  }

  void check(const CommandLine& line) const {
    const auto expect = [](const char* flag, int64_t value, int64_t low) {
      constexpr int64_t kMost = int64_t{1} << 24;
      if (value < low || value > kMost)
        throw_error("{}: expected {} to {}, found {}", flag, low, kMost, value);
    };
    StopTexts{answers.stop};
    parse_cache_type(cache_type);
    check_sampling(line, answers.request.sampling);
    expect("--max-new-tokens", answers.request.max_new_tokens, 1);
    expect("--context", answers.request.context, 0);
    if (find_invalid_utf8(system)) throw_error("--system: expected UTF-8");
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    check(line);
    require_language_model(model);
    // The template first: it is the smaller file.
    text::ChatTemplate chat = load_template(model, chat_template);
    LoadedModel loaded = load_generator(model);
    loaded.lora = adapt(*loaded.model, adapter);
    set_cache_type(loaded, cache_type);
    set_ends(loaded);
    context_ = context_limit(*loaded.model, answers.request.context);
    Session session(loaded, std::move(chat), model, system);
    ChatInput input;
    return converse(session, input);
  }

 private:
  void set_ends(const LoadedModel& loaded) {
    GenerationRequest& request = answers.request;
    request.eos = loaded.special.eos;
    request.pad = loaded.special.pad;
    request.more_eos = loaded.special.more_eos;
    const io::Json tokens = text::special_token_texts(model);
    if (const io::Json* eos = io::find(tokens, "eos_token"))
      if (const int32_t id = loaded.tokenizer.id_of(eos->get<std::string>()); id != text::kNoToken)
        request.more_eos.push_back(id);
    std::vector<int32_t> ends = request.more_eos;
    ends.insert(ends.end(), {request.eos, request.pad});
    request.never = ids_without_token(loaded, ends);
  }

  int converse(Session& session, ChatInput& input) {
    const bool talks = input.is_terminal();
    if (talks) note(model + ": /help lists what else to type; Ctrl-C stops an answer");
    bool failed = false, interrupted = false;
    for (std::string line;;) {
      if (talks) show_prompt("> ");
      const ChatInput::Event event = input.next(line);
      if (event == ChatInput::Event::kEnd) {
        if (talks) show_prompt("\n");
        break;
      }
      if (event == ChatInput::Event::kInterrupt) {
        show_prompt("\n");
        if (std::exchange(interrupted, true)) return kInterrupted;
        note("Ctrl-C again leaves, and so does /quit");
        continue;
      }
      interrupted = false;
      try {
        if (line.starts_with('/') && !line.starts_with("//")) {
          if (!command(session, line)) break;
        } else if (!text::is_blank(line)) {
          const std::string text = line.starts_with("//") ? line.substr(1) : line;
          interrupted = !answer(session, input, text);
        }
      } catch (const Error& error) {
        note(error.what());
        failed = true;
      }
    }
    return failed && !talks ? kMistake : 0;
  }

  // False: it was stopped with Ctrl-C.
  bool answer(Session& session, ChatInput& input, const std::string& text) const {
    if (find_invalid_utf8(text)) throw_error("the message: expected UTF-8");
    const bool screen = isatty(STDOUT_FILENO) == 1;
    bool begun = false;
    const auto on_text = [&](std::string_view part) {
      if (json) return;
      if (!begun) part.remove_prefix(std::min(part.find_first_not_of(" \t\r\n"), part.size()));
      if (part.empty()) return;
      begun = true;
      print(screen ? for_terminal(part) : std::string(part));
      flush_output();
    };
    const Answer answer = session.ask(text, answers, on_text, [&] { return input.interrupted(); });
    if (json)
      print(io::to_line(as_json(answer)) + "\n");
    else
      print("\n");
    flush_output();
    tell(answer, input.is_terminal());
    return answer.result.reason != StopReason::kCancelled;
  }

  static io::Json as_json(const Answer& answer) {
    return {{"answer", answer.text},
            {"stop_reason", to_text(answer.result.reason)},
            {"tokens", answer.tokens},
            {"tokens_read", answer.read},
            {"answer_tokens", answer.result.tokens},
            {"prompt_seconds", answer.result.prompt_seconds},
            {"generation_seconds", answer.result.generation_seconds}};
  }

  void tell(const Answer& answer, bool talks) const {
    const GenerationResult& result = answer.result;
    const bool full = answer.tokens + result.tokens >= context_;
    if (full) note(fmt::format("the context of {} tokens is full: /reset begins anew", context_));
    if (!talks) {
      note(fmt::format(
          "conversation: {} tokens, {} read in {:.3f} s; answer: {} tokens, {:.3f} s, {:.0f} a "
          "second; stopped: {}",
          answer.tokens, answer.read, result.prompt_seconds, result.tokens,
          result.generation_seconds, result.tokens_per_second(), to_text(result.reason)));
    } else if (!answer.kept) {
      note("stopped before it answered: the message is not part of the conversation");
    } else if (result.reason == StopReason::kLength && !full) {
      note(fmt::format("the answer was cut at {} tokens (--max-new-tokens)", result.tokens));
    } else if (result.reason == StopReason::kUnsure) {
      note("the answer was cut where the model was unsure");
    }
  }

  // False: it ends the conversation.
  static bool command(Session& session, std::string_view line) {
    const size_t space = std::min(line.find_first_of(" \t"), line.size());
    const std::string_view name = line.substr(0, space);
    std::string_view rest = line.substr(space);
    rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
    rest = rest.substr(0, rest.find_last_not_of(" \t") + 1);
    const bool takes_file = name == "/save" || name == "/load";
    if (takes_file && rest.empty()) throw_error("{}: expected a file, found none", name);
    const std::string file(rest);
    if (name == "/save") {
      session.save(file);
      note(fmt::format("{}: {} messages, {} tokens", file, session.messages(), session.tokens()));
      return true;
    }
    if (name == "/load") {
      session.load(file);
      note(fmt::format("{}: {} messages, {} tokens", file, session.messages(), session.tokens()));
      return true;
    }
    const bool known = name == "/reset" || name == "/quit" || name == "/help";
    if (!known) throw_error("unknown command {}; /help lists them", io::quote(name));
    if (!rest.empty())
      throw_error("{}: expected nothing behind it, found {}", name, io::quote(rest));
    if (name == "/quit") return false;
    if (name == "/reset") session.reset();
    if (name == "/help") show_prompt(kCommands);
    return true;
  }

  static constexpr int kMistake = 2, kInterrupted = 130;
  int64_t context_ = 0;
};

}  // namespace

Verb chat_verb() {
  return make_verb<Chat>(
      "chat", "talk with a model", "-m DIR [--system TEXT]",
      "Each line is a message, at a terminal or of any standard input. Answers go to standard\n"
      "output as they are made, everything else to standard error. /help lists the commands.\n"
      "Ctrl-C stops an answer; at the prompt, a second one leaves.");
}

}  // namespace refrain::cli

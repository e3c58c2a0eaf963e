#include "refrain/generate/conversation.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "generate/tiny_model.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using io::Json;
using ConversationTest = OneThread;

constexpr const char* kPlain =
    "{% for m in messages %}<b>{{ m.role[0] }}{{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<b>a{% endif %}";
// Earlier answers lose what is in front of their last character, as reasoning is lost.
constexpr const char* kForgets =
    "{% for m in messages %}<b>{{ m.role[0] }}"
    "{{ m.content[-1:] if m.role == 'assistant' and not loop.last else m.content }}<e>"
    "{% endfor %}{% if add_generation_prompt %}<b>ac{% endif %}";

text::Tokenizer tokenizer_of_characters() {
  text::TokenizerTraining training = text::Tokenizer::parse_spec("char");
  training.special_tokens = {"<b>", "<e>"};
  bool given = false;
  return text::Tokenizer::train(training, [&](std::string& piece) {
    piece = "abcdefghijklmnosu";
    return !std::exchange(given, true);
  });
}

// A model with its tokenizer, of which it has every id, and a template.
struct Parts {
  explicit Parts(const char* source = kPlain, const std::string& pattern = "attention",
                 const SettingMap& settings = {})
      : model(2, 1, pattern, settings),
        tokenizer(tokenizer_of_characters()),
        chat(text::ChatTemplate::parse(source, "chat")),
        engine(model, kMaxTokens) {}

  std::unique_ptr<Conversation> conversation() {
    return std::make_unique<Conversation>(ChatModel{model, tokenizer, chat});
  }

  TinyModel model;
  text::Tokenizer tokenizer;
  text::ChatTemplate chat;
  Engine engine;
};

Json user(const std::string& text) { return {{"role", "user"}, {"content", text}}; }

AnswerSettings settings_of(double temp, int64_t n = 5) {
  AnswerSettings settings;
  settings.request = request_of({}, n, temp);
  return settings;
}

std::vector<int32_t> tokens_of(const Conversation& conversation) {
  return {conversation.tokens().begin(), conversation.tokens().end()};
}

SettingMap window_of(int64_t tokens) {
  SettingMap settings;
  settings.set("attention.window", std::to_string(tokens));
  return settings;
}

// Whatever was kept of the state: each answer is that of a model which reads the whole text anew.
void expect_fresh_answers(Parts& parts, double temp) {
  const auto conversation = parts.conversation();
  conversation->set_messages(Json::array({{{"role", "system"}, {"content", "cab"}}}));
  const AnswerSettings settings = settings_of(temp);
  for (int turn = 0; turn < 3; ++turn) {
    const Answer answer = conversation->ask(
        parts.engine, user(std::string(1, static_cast<char>('d' + turn))), settings);
    const auto all = tokens_of(*conversation);
    GenerationRequest request = settings.request;
    request.prompt.assign(all.begin(), all.begin() + answer.tokens);
    request.sampling.seed += turn;
    request.more_eos.assign(conversation->ends().begin(), conversation->ends().end());
    std::vector<int32_t> fresh = request.prompt;
    const GenerationResult result = Generator(parts.model).generate(request);
    for (const SampledToken& choice : result.choices) fresh.push_back(choice.token);
    if (result.reason == StopReason::kEndToken) fresh.push_back(all.back());
    EXPECT_EQ(all, fresh) << turn;
    EXPECT_EQ(conversation->messages().size(), 3u + 2u * static_cast<size_t>(turn));
    EXPECT_EQ(conversation->messages().back()["content"], answer.text);
  }
}

TEST_F(ConversationTest, AnswersAreThoseOfTheWholeText) {
  for (const char* source : {kPlain, kForgets})
    for (const char* pattern : {"attention", "gla", "gla attention", "lstm"})
      for (const double temp : {0.0, 1.0}) {
        SCOPED_TRACE(fmt::format("{} {} {}", source, pattern, temp));
        Parts parts(source, pattern);
        expect_fresh_answers(parts, temp);
      }
  for (const int64_t window : {3, 8, 40}) {
    Parts parts(kForgets, "attention", window_of(window));
    SCOPED_TRACE(window);
    expect_fresh_answers(parts, 1);
  }
}

// <b> u ... <e> <b> a are five tokens beside the message's, and what was chosen last is unread.
TEST_F(ConversationTest, ReadsOnlyWhatIsNew) {
  for (const char* pattern : {"attention", "gla"}) {
    Parts parts(kPlain, pattern);
    const auto conversation = parts.conversation();
    int64_t before = 0;
    for (const char* text : {"abc", "d", "efghi"}) {
      const Answer answer = conversation->ask(parts.engine, user(text), settings_of(0));
      EXPECT_EQ(answer.tokens, before + (before > 0 ? 1 : 0) + 5 + std::ssize(std::string(text)));
      EXPECT_EQ(answer.read, answer.tokens - std::max<int64_t>(0, before - 1));
      before = std::ssize(conversation->tokens());
      EXPECT_EQ(before, answer.tokens + 5);
    }
  }
}

TEST_F(ConversationTest, GoesBackWhereTheTextDiffers) {
  for (const char* pattern : {"attention", "gla"}) {
    Parts parts(kForgets, pattern);
    const auto conversation = parts.conversation();
    const AnswerSettings settings = settings_of(0);
    int64_t question = 0;  // tokens up to the end of the last one
    for (const char* text : {"abc", "d", "efghi"}) {
      const Answer answer = conversation->ask(parts.engine, user(text), settings);
      // The two have <b> a, which asks for an answer, in common; a recurrent state has its mark
      // before that.
      const int64_t shared = std::string_view(pattern) == "attention" ? question + 2 : question;
      EXPECT_EQ(answer.read, answer.tokens - (question == 0 ? 0 : shared));
      question = answer.tokens - 3;  // <b> a c
    }
  }
}

TEST_F(ConversationTest, OtherMessagesUseWhatTheyShare) {
  Parts parts;
  const auto conversation = parts.conversation();
  conversation->ask(parts.engine, user("abcdef"), settings_of(0));
  conversation->set_messages(Json::array());
  const Answer answer = conversation->ask(parts.engine, user("abcghi"), settings_of(0));
  EXPECT_EQ(answer.read, answer.tokens - 5);  // <b> u a b c
  EXPECT_NE(error_of([&] { conversation->set_messages(user("a")); }), "(no error)");
  EXPECT_EQ(error_of([&] { conversation->set_messages(Json::array({3})); }),
            "message 1: expected an object, found 3");
  EXPECT_NE(error_of([&] { conversation->set_messages(Json::array({Json::object()})); }),
            "(no error)");
  EXPECT_EQ(conversation->messages().size(), 2u);
}

TEST_F(ConversationTest, CancelledAnswersStayAndCancelledQuestionsGo) {
  for (const char* pattern : {"attention", "gla"}) {
    Parts parts(kPlain, pattern), other(kPlain, pattern);
    const auto conversation = parts.conversation(), same = other.conversation();
    const AnswerSettings settings = settings_of(1, 12);
    for (const auto* c : {&conversation, &same})
      (*c)->ask(c == &same ? other.engine : parts.engine, user("ab"), settings);
    const Json before = conversation->messages();
    const Answer none =
        conversation->ask(parts.engine, user("cdefghijk"), settings, {}, [] { return true; });
    // A pass reads the question, or chooses the first token as well.
    if (!none.kept) {
      EXPECT_EQ(none.text, "");
      EXPECT_EQ(conversation->messages(), before);
    } else {
      conversation->set_messages(before);
    }
    int passes = 0;
    std::string shown;
    const auto on_text = [&](std::string_view part) { shown += part; };
    const Answer cut = conversation->ask(parts.engine, user("c"), settings, on_text,
                                         [&] { return ++passes == 4; });
    EXPECT_TRUE(cut.kept);
    EXPECT_EQ(cut.result.reason, StopReason::kCancelled);
    EXPECT_LT(cut.result.tokens, 5);
    EXPECT_GT(cut.result.tokens, 1);
    EXPECT_EQ(cut.text, shown);
    const Answer whole = same->ask(other.engine, user("c"), settings);
    EXPECT_TRUE(whole.text.starts_with(cut.text)) << whole.text << " " << cut.text;
    EXPECT_EQ(conversation->messages().back()["content"], cut.text);
    const int64_t tokens = std::ssize(conversation->tokens());
    const Answer next = conversation->ask(parts.engine, user("d"), settings);
    EXPECT_EQ(next.read, next.tokens - tokens + 1);
  }
}

TEST_F(ConversationTest, AnErrorChangesNothing) {
  Parts parts;
  const auto conversation = parts.conversation();
  AnswerSettings settings = settings_of(0);
  conversation->ask(parts.engine, user("ab"), settings);
  const Json before = conversation->messages();
  const auto tokens = tokens_of(*conversation);
  EXPECT_EQ(
      error_of([&] { conversation->ask(parts.engine, user(std::string(50, 'a')), settings); }),
      "the conversation has 68 tokens with this message, expected fewer than its context, "
      "64");
  settings.request.sampling.temp = -1;
  EXPECT_NE(error_of([&] { conversation->ask(parts.engine, user("a"), settings); }), "(no error)");
  settings.request.sampling.temp = 0;
  const auto stop = [](std::string_view) { throw_error("no room"); };
  EXPECT_EQ(error_of([&] { conversation->ask(parts.engine, user("a"), settings, stop); }),
            "no room");
  EXPECT_EQ(conversation->messages(), before);
  EXPECT_EQ(std::vector<int32_t>(tokens.begin(), tokens.end()),
            std::vector<int32_t>(conversation->tokens().begin(),
                                 conversation->tokens().begin() + std::ssize(tokens)));
  const Answer answer = conversation->ask(parts.engine, user("b"), settings);
  EXPECT_EQ(answer.tokens, std::ssize(tokens) + 7);
}

// The answer ends where the state may hold no more, and the conversation goes no further.
TEST_F(ConversationTest, AnswersEndWithTheContext) {
  Parts parts;
  const auto conversation = parts.conversation();
  AnswerSettings settings = settings_of(1, 1000);
  settings.request.ignore_eos = true;
  const Answer answer = conversation->ask(parts.engine, user("ab"), settings);
  EXPECT_EQ(answer.result.tokens, 64 - answer.tokens);
  EXPECT_EQ(answer.result.reason, StopReason::kLength);
  EXPECT_NE(error_of([&] { conversation->ask(parts.engine, user("a"), settings); }), "(no error)");
  EXPECT_EQ(conversation->messages().size(), 2u);
  Parts recurrent(kPlain, "gla");
  const auto endless = recurrent.conversation();
  EXPECT_EQ(endless->ask(recurrent.engine, user("ab"), settings).result.tokens, 1000);
}

// A text so long that a sequence forgets its first tokens can go back as well.
TEST_F(ConversationTest, LongAnswersGoBack) {
  Parts parts(kForgets, "gla"), fresh(kForgets, "gla");
  const auto conversation = parts.conversation(), anew = fresh.conversation();
  AnswerSettings settings = settings_of(1, 9000);
  settings.request.ignore_eos = true;
  conversation->ask(parts.engine, user("ab"), settings);
  settings.request.max_new_tokens = 20;
  anew->set_messages(conversation->messages());
  const Answer answer = conversation->ask(parts.engine, user("c"), settings);
  EXPECT_LT(answer.read, 20);
  EXPECT_EQ(answer.text, anew->ask(fresh.engine, user("c"), settings).text);
  EXPECT_EQ(tokens_of(*conversation), tokens_of(*anew));
}

TEST_F(ConversationTest, EndsWithTheTokensThatEndAnswers) {
  Parts parts;
  const auto conversation = parts.conversation();
  EXPECT_EQ(std::vector<int32_t>(conversation->ends().begin(), conversation->ends().end()),
            std::vector<int32_t>{parts.tokenizer.id_of("<e>")});
  // An unknown character is no end.
  Parts unknown("{% for m in messages %}<b>{{ m.content }}?{% endfor %}");
  EXPECT_TRUE(unknown.conversation()->ends().empty());
  AnswerSettings settings = settings_of(0, 20);
  const Answer first = conversation->ask(parts.engine, user("ab"), settings);
  const int32_t third = conversation->tokens()[static_cast<size_t>(first.tokens) + 2];
  settings.request.more_eos = {third};
  const auto other = parts.conversation();
  const Answer cut = other->ask(parts.engine, user("ab"), settings);
  EXPECT_EQ(cut.result.reason, StopReason::kEndToken);
  EXPECT_LE(cut.result.tokens, 2);
  EXPECT_EQ(other->tokens().back(), third);
  EXPECT_TRUE(first.text.starts_with(cut.text));
  settings = settings_of(0, 20);
  settings.stop = {first.text.substr(2, 2)};
  const auto third_one = parts.conversation();
  const Answer stopped = third_one->ask(parts.engine, user("ab"), settings);
  EXPECT_EQ(stopped.result.reason, StopReason::kStopText);
  EXPECT_EQ(stopped.text, first.text.substr(0, first.text.find(settings.stop[0])));
  expect_fresh_answers(parts, 1);
}

// Several conversations side by side have the answers that each has alone.
TEST_F(ConversationTest, ShareAnEngine) {
  for (const char* pattern : {"attention", "gla"}) {
    Parts parts(kForgets, pattern), alone(kForgets, pattern);
    std::vector<std::unique_ptr<Conversation>> all, each;
    for (int i = 0; i < 3; ++i) {
      all.push_back(parts.conversation());
      each.push_back(alone.conversation());
    }
    for (int turn = 0; turn < 2; ++turn) {
      const auto message = [&](int i) {
        return user(std::string(static_cast<size_t>(1 + 3 * i), 'c'));
      };
      const auto settings = [&](int i) { return settings_of(1, 3 + 2 * i); };
      for (int i = 0; i < 3; ++i)
        all[static_cast<size_t>(i)]->begin(parts.engine, message(i), settings(i));
      std::vector<bool> done(3);
      while (!(done[0] && done[1] && done[2])) {
        parts.engine.step();
        for (size_t i = 0; i < 3; ++i) done[i] = all[i]->advance(parts.engine);
      }
      for (int i = 0; i < 3; ++i) {
        const auto at = static_cast<size_t>(i);
        EXPECT_EQ(all[at]->take().text, each[at]->ask(alone.engine, message(i), settings(i)).text);
        EXPECT_EQ(tokens_of(*all[at]), tokens_of(*each[at]));
      }
    }
    all[0]->begin(parts.engine, user("d"), settings_of(0));
    all[0]->discard(parts.engine);
    EXPECT_EQ(all[0]->messages(), each[0]->messages());
  }
}

TEST_F(ConversationTest, SavedOnesGoOnWithoutReading) {
  const TemporaryFolder folder;
  const std::string path = folder / "chat";
  for (const char* pattern : {"attention", "gla"})
    for (const char* source : {kPlain, kForgets}) {
      Parts parts(source, pattern), later(source, pattern);
      const auto conversation = parts.conversation(), loaded = later.conversation();
      conversation->save(path);
      loaded->load(path);
      EXPECT_TRUE(loaded->messages().empty());
      const AnswerSettings settings = settings_of(1);
      conversation->ask(parts.engine, user("abcd"), settings);
      conversation->save(path);
      loaded->ask(later.engine, user("fff"), settings);
      loaded->load(path);
      EXPECT_EQ(loaded->messages(), conversation->messages());
      EXPECT_EQ(tokens_of(*loaded), tokens_of(*conversation));
      const Answer expected = conversation->ask(parts.engine, user("e"), settings);
      const Answer found = loaded->ask(later.engine, user("e"), settings);
      EXPECT_EQ(found.text, expected.text);
      EXPECT_EQ(tokens_of(*loaded), tokens_of(*conversation));
      const bool goes_back = source == kForgets && std::string_view(pattern) == "gla";
      EXPECT_EQ(found.read, goes_back ? found.tokens : expected.read);
    }
}

TEST_F(ConversationTest, BadFilesAreRefused) {
  const TemporaryFolder folder;
  Parts parts;
  TinyModel other_model(2, 7);
  const auto conversation = parts.conversation();
  conversation->ask(parts.engine, user("abcd"), settings_of(0));
  const std::string path = folder / "chat";
  conversation->save(path);
  const std::string bytes = io::read_file(path);
  const Json before = conversation->messages();
  const auto refused = [&](const std::string& changed) {
    return error_of([&] { conversation->load(folder.put("changed", changed)); });
  };
  EXPECT_TRUE(refused("").ends_with("not a conversation"));
  EXPECT_TRUE(refused("refrchat").ends_with("damaged: it is too short"));
  EXPECT_TRUE(refused(bytes + "a").ends_with("damaged: its length is wrong"));
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_NE(refused(changed), "(no error)") << i;
    EXPECT_NE(refused(bytes.substr(0, i)), "(no error)") << i;
  }
  EXPECT_EQ(conversation->messages(), before);
  Conversation other(ChatModel{other_model, parts.tokenizer, parts.chat});
  EXPECT_NE(error_of([&] { other.load(path); }).find("the state of another model"),
            std::string::npos);
  EXPECT_EQ(error_of([&] { conversation->load(path); }), "(no error)");
}

}  // namespace
}  // namespace refrain

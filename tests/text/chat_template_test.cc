// Chat templates: the families' formats against transformers' texts, what is refused, and limits.
#include "refrain/text/chat/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

#ifndef REFRAIN_GOLDEN
#error "REFRAIN_GOLDEN names the folder of golden files"
#endif

namespace refrain::text {
namespace {

using io::Json;

Json conversation(const char* text = R"([{"role": "user", "content": "Hi"}])") {
  return io::parse_json(text, "messages");
}

std::string render(const std::string& source, ChatInput input) {
  return ChatTemplate::parse(source, "t").render(input).text;
}

std::string render(const std::string& source, const Json& variables = Json::object()) {
  ChatInput input;
  input.messages = conversation();
  input.variables = variables;
  return render(source, input);
}

std::string refused(const std::string& source) {
  return error_of([&] { render(source); });
}

// 1 January 2026, 13:01:02, a Thursday.
std::tm fixed_time() {
  std::tm now{};
  now.tm_year = 126;
  now.tm_mday = 1;
  now.tm_hour = 13;
  now.tm_min = 1;
  now.tm_sec = 2;
  now.tm_wday = 4;
  return now;
}

// tests/compat/chat_compat.py --write makes the texts with transformers.
TEST(ChatTemplate, FamiliesGiveTheTextsOfTransformers) {
  const std::string folder = std::string(REFRAIN_GOLDEN) + "/chat/";
  const Json conversations = io::read_json(folder + "conversations.json");
  const Json expected = io::read_json(folder + "expected.json");
  int families = 0, texts = 0, refusals = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".jinja") continue;
    ++families;
    const std::string family = entry.path().stem().string();
    const auto chat = ChatTemplate::parse(io::read_file(entry.path().string()), family);
    for (const Json& one : conversations) {
      const std::string name = family + ", " + one["name"].get<std::string>();
      ASSERT_TRUE(expected.contains(name)) << name;
      ChatInput input;
      input.messages = one["messages"];
      input.tools = one.value("tools", Json(nullptr));
      input.add_generation_prompt = one.value("add_generation_prompt", false);
      input.variables = one.value("variables", Json::object());
      input.bos_token = "<s>";
      input.eos_token = "</s>";
      input.now = fixed_time();
      if (expected[name].is_null()) {
        ++refusals;
        EXPECT_NE(error_of([&] { chat.render(input); }), "(no error)") << name;
      } else {
        ++texts;
        EXPECT_EQ(chat.render(input).text, expected[name].get<std::string>()) << name;
      }
    }
  }
  EXPECT_EQ(families, 13);
  EXPECT_GE(texts, 600);
  EXPECT_GE(refusals, 50);
}

// Likewise: short templates for every filter, test, method, operator and statement.
TEST(ChatTemplate, SnippetsGiveTheTextsOfTransformers) {
  const Json golden = io::read_json(std::string(REFRAIN_GOLDEN) + "/chat/snippets.json");
  ChatInput input;
  input.messages = conversation();
  input.variables = golden["variables"];
  input.now = fixed_time();
  EXPECT_GE(golden["snippets"].size(), 1200u);
  for (const Json& one : golden["snippets"]) {
    const std::string source = one[0].get<std::string>();
    std::string text;
    const std::string error =
        error_of([&] { text = ChatTemplate::parse(source, "t").render(input).text; });
    if (one[1].is_null())
      EXPECT_NE(error, "(no error)") << source;
    else
      EXPECT_EQ(text, one[1].get<std::string>()) << source << " " << error;
  }
}

TEST(ChatTemplate, WhiteSpaceIsKeptAsJinjaKeepsIt) {
  EXPECT_EQ(render("a\n"), "a");
  EXPECT_EQ(render("a\n\n"), "a\n");
  EXPECT_EQ(render("{% if true %}\n  x\n  {% endif %}\ny"), "  x\ny");
  EXPECT_EQ(render("a {%- if true -%}\n b {% endif %}"), "ab ");
  EXPECT_EQ(render("  {%+ if true +%}\nx{% endif %}"), "  \nx");
  EXPECT_EQ(render("x {{- 1 -}} \n y"), "x1y");
  EXPECT_EQ(render("a{# b #}\nc {#- d -#} e"),
            "ac"
            "e");
  EXPECT_EQ(render("{% raw %}{{ x }}{% endraw %}"), "{{ x }}");
  EXPECT_EQ(render("a\r\nb\rc"), "a\nb\nc");
}

TEST(ChatTemplate, NamesAreBoundAsJinjaBindsThem) {
  EXPECT_EQ(
      render(
          "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}"),
      "15151");
  const Json n = {{"n", 7}};
  EXPECT_EQ(render("{% for i in [1] %}{{ n }}{% endfor %}{% set n = 1 %}", n), "");
  EXPECT_EQ(render("{% if false %}{% set n = 3 %}{% endif %}{{ n }}", n), "7");
  EXPECT_EQ(render("{% macro m() %}{{ late }}{% endmacro %}{% set late = 5 %}{{ m() }}"), "5");
  EXPECT_EQ(
      render("{% set s = namespace(c=0) %}{% for i in [1, 2] %}{% set s.c = s.c + i %}{% endfor %}"
             "{{ s.c }}"),
      "3");
}

TEST(ChatTemplate, ValuesAreWrittenAsPythonWritesThem) {
  const Json variables = io::parse_json(
      R"({"d": {"a": [1, 2.0, null, true], "b": "it's \"é\"\n"}, "x": 1e16, "s": "ΑΣ ß"})", "v");
  EXPECT_EQ(render("{{ d }}", variables), R"({'a': [1, 2.0, None, True], 'b': 'it\'s "é"\n'})");
  EXPECT_EQ(render("{{ d | tojson }}", variables),
            R"({"a": [1, 2.0, null, true], "b": "it's \"é\"\n"})");
  EXPECT_EQ(render("{{ d | tojson(indent=1, separators=(',', ':')) }}", variables),
            "{\n \"a\":[\n  1,\n  2.0,\n  null,\n  true\n ],\n \"b\":\"it's \\\"é\\\"\\n\"\n}");
  EXPECT_EQ(render("{{ x }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }}",
                   variables),
            "1e+16 0.30000000000000004 1e-05 3.5 -4 2");
  EXPECT_EQ(render("{{ s | lower }} {{ s | upper }} {{ s[::-1] }} {{ s | length }}", variables),
            "ας ß ΑΣ SS ß ΣΑ 4");
}

TEST(ChatTemplate, LazyFiltersAreIterators) {
  EXPECT_EQ(render("{% set g = [1, 2] | select %}{{ g | list }}{{ g | list }}"), "[1, 2][]");
  EXPECT_EQ(render("{{ [1, 'a'] | map('abs') | first }}"), "1");
  EXPECT_NE(refused("{{ [1, 'a'] | map('abs') | list }}").find("bad operand type for abs()"),
            std::string::npos);
  // The test of a loop sees what its body has set.
  EXPECT_EQ(render("{% set s = namespace(end=false) %}{% for x in [1, 2, 3] if not s.end %}{{ x }}"
                   "{% set s.end = true %}{% endfor %}"),
            "1");
}

TEST(ChatTemplate, LoopsWithATestLookAheadFromWithinOtherBlocks) {
  EXPECT_EQ(render("{% for x in range(9) if x % 3 == 1 %}{% generation %}{{ x }}{{ loop.last }} "
                   "{% endgeneration %}{% endfor %}"),
            "1False 4False 7True ");
  EXPECT_EQ(render("{% macro m(l) %}{% set a = 1 %}{{ l.length }}{{ l.nextitem }} {% endmacro %}"
                   "{% for x in 'abc' if x != 'b' %}{{ m(loop) }}{% endfor %}"),
            "2c 2 ");
}

TEST(ChatTemplate, GenerationBlocksAreSpansOfBytes) {
  ChatInput input;
  input.messages = conversation();
  const auto rendered =
      ChatTemplate::parse(
          "é{% generation %}añ{% endgeneration %}b{% generation %}{% endgeneration %}", "t")
          .render(input);
  EXPECT_EQ(rendered.text, "éañb");
  EXPECT_EQ(rendered.generated, (std::vector<jinja::Span>{{2, 5}, {6, 6}}));
  EXPECT_TRUE(rendered.all_placed);
  const auto chat =
      ChatTemplate::parse("{% set x %}{% generation %}a{% endgeneration %}{% endset %}", "t");
  EXPECT_TRUE(chat.marks_generation());
  EXPECT_FALSE(chat.render(input).all_placed);
  EXPECT_FALSE(ChatTemplate::parse("x", "t").marks_generation());
}

TEST(ChatTemplate, MessagesArePreparedAsTransformersPreparesThem) {
  ChatInput input;
  input.messages = conversation(
      R"([{"role": "user", "content": null, "reasoning": "r"}, {"role": "x", "thinking": "t"}])");
  EXPECT_EQ(render("{{ messages }}", input),
            "[{'thinking': 'r', 'role': 'user', 'reasoning': 'r', 'reasoning_content': 'r'}, "
            "{'role': 'x', 'thinking': 't', 'reasoning_content': 't'}]");
}

TEST(ChatTemplate, TheTimeIsGivenOrRefused) {
  ChatInput input;
  input.messages = conversation();
  EXPECT_NE(error_of([&] { render("{{ strftime_now('%d %b %Y') }}", input); }).find("is not given"),
            std::string::npos);
  input.now = fixed_time();
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y %H:%M:%S %a%Z%f') }}", input),
            "01 Jan 2026 13:01:02 Thu000000");
}

TEST(ChatTemplate, ErrorsSayTemplateAndLine) {
  EXPECT_EQ(refused("a\nb{{ raise_exception('No ' ~ 'way\nat all') }}"),
            "t: line 2: No way\\nat all");
  EXPECT_EQ(refused("\n\n{{ missing.x }}"), "t: line 3: 'missing' is undefined");
  EXPECT_EQ(refused("{{ {}.x.y }}"), "t: line 1: 'dict object' has no attribute 'x'");
  EXPECT_EQ(refused("{% if x %}\n"),
            "t: line 1: the template ends within 'if'; expected 'elif' or "
            "'else' or 'endif'");
  EXPECT_EQ(refused("x\n{% nope %}"), "t: line 2: unknown tag \"nope\"");
  EXPECT_EQ(refused("{% extends 'x' %}"), "t: line 1: there is no support for the tag \"extends\"");
  EXPECT_EQ(refused("{{ 'a }}"), "t: line 1: a string without an end");
  EXPECT_EQ(refused("{{ a ? b }}"), "t: line 1: unexpected character \"?\"");
  EXPECT_EQ(refused("{{ [1, 2) }}"), "t: line 1: unexpected ')', expected ']'");
  EXPECT_EQ(refused("a\n{{ 1 | nope }}"), "t: line 2: no filter named 'nope'");
  EXPECT_EQ(refused("{{ messages.append(1) }}"),
            "t: line 1: access to attribute 'append' of 'list' object is unsafe.");
  EXPECT_EQ(refused("{{ ''.__class__.__mro__ }}"),
            "t: line 1: 'str object' has no attribute '__class__'");
  EXPECT_EQ(refused("\xff"), "t: line 1: invalid UTF-8");
  EXPECT_EQ(refused("{% set x = namespace(_a=1) %}"),
            "t: line 1: names of attributes that begin with an underscore cannot be set: '_a'");
}

TEST(ChatTemplate, OddInputsAreRefusedByName) {
  const auto chat = ChatTemplate::parse("{{ messages }}", "t");
  const auto error = [&](const char* messages, Json tools = nullptr) {
    ChatInput input;
    input.messages = conversation(messages);
    input.tools = std::move(tools);
    return error_of([&] { chat.render(input); });
  };
  EXPECT_EQ(error("[]"), "t: a conversation without messages");
  EXPECT_EQ(error("{}"), "t: messages: expected a list, found an object");
  EXPECT_EQ(error("[{}, 5]"), "t: message 2: expected an object, found 5");
  EXPECT_EQ(error("[[]]"), "t: message 1: expected an object, found a list");
  EXPECT_EQ(error("[{}]", "x"), "t: tools: expected a list, found \"x\"");
  EXPECT_NE(error(R"([{"x": 18446744073709551615}])").find("64 bits"), std::string::npos);
  EXPECT_EQ(
      error_of([] { ChatTemplate::parse(std::string(ChatTemplate::kMaxBytes + 1, 'x'), "t"); }),
      "t: 524289 bytes; a chat template has at most 524288");
  // A message without a role is the template's affair.
  EXPECT_EQ(refused("{{ messages[0].rule + 'x' }}"),
            "t: line 1: 'dict object' has no attribute 'rule'");
}

// Whatever a template does, it ends soon, with one line.
TEST(ChatTemplate, TemplatesWithoutEndAreEnded) {
  const std::string many = "{% for a in range(100000) %}{% for b in range(100000) %}";
  const std::pair<std::string, const char*> hostile[] = {
      {many + "{% endfor %}{% endfor %}", "steps"},
      {many + "{{ a }}{% endfor %}{% endfor %}", "steps"},
      {many + "{% set x = 'y' * 10000 %}{% endfor %}{% endfor %}", "steps"},
      {"{{ 'x' * 10 ** 9 }}", "bytes of memory"},
      {"{{ 'x' * 2 ** 62 }}", "bytes of memory"},
      {"{{ [1] * 10 ** 9 }}", "bytes of memory"},
      {"{{ '%1000000000d' % 1 }}", "bytes of memory"},
      {"{{ '{:>1000000000}'.format(1) }}", "bytes of memory"},
      {"{{ 'x'.center(10 ** 12) }}", "bytes of memory"},
      {"{{ 'x' | indent(10 ** 12) }}", "bytes of memory"},
      {"{{ [1] | tojson(indent=10 ** 12) }}", "bytes of memory"},
      {"{{ [1, 2] | batch(10 ** 12, 0) | list }}", "bytes of memory"},
      {"{% set s = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set s.x = s.x ~ s.x %}{% "
       "endfor %}",
       "bytes of memory"},
      {"{% set s = namespace(x='aa') %}{% for i in range(99) %}{% set s.x = s.x.replace('a', s.x) "
       "%}{% endfor %}",
       "bytes of memory"},
      {"{% set s = namespace(x=[0]) %}{% for i in range(99) %}{% set s.x = s.x + s.x %}{% endfor "
       "%}",
       "bytes of memory"},
      {"{% set s = namespace(x=0) %}{% for i in range(99999) %}{% set s.x = [s.x] %}{% endfor %}",
       "nested deeper"},
      {"{% set s = namespace(x=[0]) %}{% for i in range(60) %}{% set s.x = [s.x, s.x] %}{% endfor "
       "%}{{ s.x }}",
       "steps"},
      {"{% set s = namespace(x=[0]) %}{% for i in range(60) %}{% set s.x = [s.x, s.x] %}{% endfor "
       "%}"
       "{{ s.x | tojson }}",
       "steps"},
      {"{% set s = namespace(x=[0], y=[0]) %}{% for i in range(60) %}{% set s.x = [s.x, s.x] %}"
       "{% set s.y = [s.y, s.y] %}{% endfor %}{{ s.x == s.y }}",
       "steps"},
      {"{% set s = namespace() %}{% set s.x = s %}{{ s }}", "nested deeper"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper"},
      {"{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper"},
      {"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
       "steps"},
      {"{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", "bytes of output"},
      {"{% macro m() %}{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}{% endmacro %}{{ "
       "m() }}",
       "bytes of output"},
      {"{{ range(10 ** 9) }}", "range of more than"},
      {"{{ 10 ** 10 ** 10 }}", "64 bits"},
      {"{{ " + std::string(100000, '('), "nested deeper"},
      {"{{ " + std::string(100000, '['), "nested deeper"},
      {"{{ " + std::string(100000, '-') + "1 }}", "nested deeper"},
      {"{{ 1" +
           [] {
             std::string s;
             for (int i = 0; i < 9999; ++i) s += " + 1";
             return s;
           }() +
           " }}",
       "nested deeper"},
      {[] {
         std::string s;
         for (int i = 0; i < 9999; ++i) s += "{% if 1 %}";
         return s;
       }(),
       "nested deeper"},
      {"{{ x" +
           [] {
             std::string s;
             for (int i = 0; i < 9999; ++i) s += "|list";
             return s;
           }() +
           " }}",
       "nested deeper"},
  };
  for (const auto& [source, says] : hostile) {
    const auto start = std::chrono::steady_clock::now();
    const std::string error = refused(source);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_NE(error.find(says), std::string::npos) << source.substr(0, 120) << "\n" << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
    EXPECT_LT(took.count(), 60) << source.substr(0, 120);
  }
}

TEST(ChatTemplate, LimitsAreThoseOfTheInput) {
  ChatInput input;
  input.messages = conversation();
  input.limits.steps = 100;
  EXPECT_NE(
      error_of([&] { render("{% for i in range(99) %}{% endfor %}", input); }).find("100 steps"),
      std::string::npos);
  input.limits = {};
  input.limits.output_bytes = 4;
  EXPECT_EQ(render("abcd", input), "abcd");
  EXPECT_EQ(error_of([&] { render("abc\nde", input); }), "t: line 1: more than 4 bytes of output");
  // Sums within each other: a level each.
  const auto sum = [](size_t terms) {
    std::string text = "1";
    for (size_t i = 0; i < terms; ++i) text = "(1 + " + text + ")";
    return "{{ " + text + " }}";
  };
  input.limits = {};
  input.limits.depth = 40;
  EXPECT_EQ(render(sum(30), input), "31");
  EXPECT_EQ(error_of([&] { render(sum(45), input); }), "t: line 1: nested deeper than 40 levels");
}

TEST(ChatTemplate, ADirectoryHasItsTemplateInOneOfItsFiles) {
  const TemporaryFolder folder;
  EXPECT_FALSE(ChatTemplate::read(folder.path()));
  EXPECT_EQ(special_token_texts(folder.path()), Json::object());
  folder.put("tokenizer_config.json",
             R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
                                          "pad_token": null})");
  EXPECT_FALSE(ChatTemplate::read(folder.path()));
  EXPECT_EQ(special_token_texts(folder.path()),
            Json({{"bos_token", "<s>"}, {"eos_token", "</s>"}}));

  folder.put("tokenizer_config.json", R"({"chat_template": "one"})");
  EXPECT_EQ(ChatTemplate::read(folder.path())->source(), "one");
  folder.put("tokenizer_config.json",
             R"({"chat_template": [{"name": "default", "template": "d"},
                                   {"name": "tool_use", "template": "{{ x.y }}"}]})");
  EXPECT_EQ(ChatTemplate::read(folder.path())->source(), "d");
  const auto for_tools = ChatTemplate::read(folder.path(), true);
  EXPECT_EQ(for_tools->source(), "{{ x.y }}");
  ChatInput input;
  input.messages = conversation();
  EXPECT_EQ(error_of([&] { for_tools->render(input); }),
            folder / "tokenizer_config.json: chat_template: tool_use: line 1: 'x' is undefined");

  folder.put("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_EQ(
      error_of([&] { ChatTemplate::read(folder.path()); }),
      folder /
          "tokenizer_config.json: chat_template: expected one called \"default\", found \"rag\"");
  folder.put("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_EQ(error_of([&] { ChatTemplate::read(folder.path()); }),
            folder / "tokenizer_config.json: chat_template: expected a string or a list, found 5");

  folder.put("chat_template.jinja", "file\n");  // it counts before the other
  EXPECT_EQ(ChatTemplate::read(folder.path())->source(), "file\n");
  EXPECT_EQ(ChatTemplate::read(folder.path(), true)->source(), "file\n");
  std::filesystem::create_directory(folder / "additional_chat_templates");
  folder.put("additional_chat_templates/tool_use.jinja", "tools");
  EXPECT_EQ(ChatTemplate::read(folder.path(), true)->source(), "tools");
  EXPECT_EQ(ChatTemplate::read(folder.path())->source(), "file\n");
}

}  // namespace
}  // namespace refrain::text

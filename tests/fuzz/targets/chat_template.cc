// A chat template and, after the last NUL, messages as JSON.
#include "refrain/text/chat/chat_template.h"

#include "fuzz/target.h"
#include "refrain/base/error.h"
#include "refrain/base/utf8.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [source, messages] = parts_of(input);
  try {
    text::ChatInput chat;
    chat.messages = messages.empty() ? io::Json::array({{{"role", "user"}, {"content", "Hi é"}}})
                                     : io::parse_json(messages, "messages");
    chat.tools = io::Json::array({{{"name", "f"}, {"parameters", {{"x", 1.5}}}}});
    chat.add_generation_prompt = true;
    chat.bos_token = "<s>";
    chat.now.emplace();
    // As much work as 8 KB of input should make.
    chat.limits.steps = 200'000;
    chat.limits.memory_bytes = size_t{16} << 20;
    chat.limits.output_bytes = size_t{4} << 20;
    const auto tmpl = text::ChatTemplate::parse(source, "template");
    const auto rendered = tmpl.render(chat);
    expect(!find_invalid_utf8(rendered.text), "a text that is not UTF-8");
    for (const auto& span : rendered.generated)
      expect(span.begin <= span.end && span.end <= rendered.text.size(), "a span out of the text");
    expect(tmpl.render(chat).text == rendered.text, "a template gives two texts");
  } catch (const Error& error) {
    const std::string_view line = error.what();
    expect(line.find('\n') == line.npos, "an error of two lines");
    throw;
  }
}

std::vector<std::string> seeds() {
  const std::string messages =
      std::string(1, '\0') +
      R"([{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
          {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, null]}}}]}])";
  return {
      "{% for m in messages %}{{ '<|' + m.role + '|>\\n' ~ m['content'] | trim }}{% if loop.last "
      "and "
      "add_generation_prompt -%} x {%- endif %}{% else %}none{% endfor %}",
      "{%- macro t(s, d=0) -%}{% if s is mapping %}{% for k, v in s | dictsort %}{{ k ~ t(v, d + "
      "1) }}"
      "{% endfor %}{% elif d > 3 %}{% endif %}{%- endmacro -%}{{ t(tools[0]) }}" +
          messages,
      "{% set ns = namespace(a=[], n=0) %}{% for m in messages[::-1] if m.role != 'tool' %}{% set "
      "ns.n = ns.n "
      "+ loop.index0 %}{% set ns.a = ns.a + [m.role | upper] %}{% break %}{% endfor %}{{ ns.a | "
      "tojson(indent=2) "
      "}}{{ ns }}{{ '%s %05.1f' % (ns.n, 2) }}{{ '{0:>4}'.format(ns.n) }}",
      "{% macro m(l) %}{{ l.length }}{{ l.nextitem }}{% endmacro %}{% for x in range(9) if x % 3 "
      "== 1 %}{% "
      "generation %}{{ loop.last }}{{ m(loop) }}{% endgeneration %}{% endfor %}",
      "{# c #}{% raw %}{{ }}{% endraw %}{% generation %}{{ 'é'.split() | map('title') | join(',') "
      "}}"
      "{% endgeneration %}{% set b %}{{ strftime_now('%d %b') }}{% endset %}{{ b[1:-1] }}{% filter "
      "upper "
      "%}x{% endfilter %}{% with q = 1 %}{{ q is odd }}{% endwith %}",
      "{% macro c() %}{{ caller(1) }}{% endmacro %}{% call(x) c() %}{{ x * 'ab' }}{% endcall %}{{ "
      "messages | "
      "selectattr('role', 'in', ['user']) | list | length }}{{ -7 // 2 ** 2 % 3 }}{{ 'a' if none "
      "else 'b' }}"
      "{{ (1, 'x') | reverse | list | unique | sort(attribute='a') | first is defined }}",
  };
}

const Register registered({"chat_template", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

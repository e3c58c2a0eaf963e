// A pre_tokenizer of tokenizer.json and, after the last NUL, a text that it splits. The first byte
// asks for a known pattern besides, which must split as the regular expression does.
#include "refrain/text/tokenizer/pre_tokenizer.h"

#include "fuzz/target.h"
#include "refrain/base/utf8.h"

namespace refrain::fuzz {
namespace {

using text::PreTokenizer;
using text::RegexSearch;
using text::WordPattern;

void check_known_pattern(unsigned choice, std::string_view text) {
  const WordPattern pattern{choice % 2 == 1, choice % 3 == 0 ? 0 : choice % 3 == 1 ? 1 : 3};
  const text::Regex regex(pattern.regex(), "pattern");
  RegexSearch search(regex, text.size());
  search.start(text);
  for (size_t at = 0; search.next(); at = search.end()) {
    expect(search.begin() == at, "the pattern matches all of a text");
    expect(text::pattern_word(pattern, text.substr(at)) == search.end() - at,
           "scanned by hand a word ends elsewhere");
  }
}

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  const auto [json, text] = parts_of(rest);
  if (!find_invalid_utf8(text)) check_known_pattern(choice, text);
  const io::Json steps = io::parse_json(json, "pre_tokenizer");
  PreTokenizer splitter;
  if (steps.is_array())
    for (const io::Json& step : steps) splitter.add({&step, "pre_tokenizer"});
  else
    splitter.add({&steps, "pre_tokenizer"});
  const char* end = text.data();
  splitter.for_each(text, [&, text = text](std::string_view word) {  // clang 14 needs the copy
    expect(!word.empty() || text.empty(), "a word is empty");
    expect(word.data() >= end, "words are not in order");
    end = word.data() + word.size();
  });
  expect(end <= text.data() + text.size(), "a word is not of the text");
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  const auto add = [&](char choice, std::string_view json, std::string_view text) {
    all.push_back(std::string(1, choice) + std::string(json) + std::string(1, '\0') +
                  std::string(text));
  };
  add(0, R"({"type": "Digits", "individual_digits": true})", "a12b 3");
  add(1, R"([{"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Digits"}])",
      "a!?1, \u00bd");
  add(2, R"({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext"})",
      "a  b c");
  add(3,
      R"({"type": "Split", "pattern": {"Regex": "(?i:'s)|\\p{L}+|[^\\s\\w]{1,3}?(?=a)|\\b"},
          "behavior": "Removed", "invert": true})",
      "It'S caf\u00e9\r\n  !?a");
  add(4, R"({"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated"})", "aaab");
  add(5,
      R"json({"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)"}, "behavior": "Contiguous"})json",
      "I'LL  e\u0301\n 12\xff\U0001F600");
  return all;
}

const Register registered({"pre_tokenizer", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

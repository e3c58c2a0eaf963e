// A normalizer of tokenizer.json and, after the last NUL, a text that it changes. Forms of Unicode
// stay as they are when they are made again, and go through each other.
#include "refrain/text/tokenizer/normalizer.h"

#include "fuzz/target.h"

namespace refrain::fuzz {
namespace {

using text::UnicodeForm;

std::string formed(UnicodeForm form, const std::string& text) {
  std::string out;
  return to_unicode_form(form, text, out) ? out : text;
}

void run(std::string_view input) {
  const auto [json, text] = parts_of(input);
  const std::string whole(text);
  const std::string nfc = formed(UnicodeForm::kNfc, whole), nfd = formed(UnicodeForm::kNfd, whole);
  expect(formed(UnicodeForm::kNfc, nfc) == nfc, "NFC of NFC is another");
  expect(formed(UnicodeForm::kNfd, nfc) == nfd, "NFD of NFC is not NFD");
  expect(formed(UnicodeForm::kNfc, nfd) == nfc, "NFC of NFD is not NFC");
  const std::string nfkc = formed(UnicodeForm::kNfkc, whole);
  expect(formed(UnicodeForm::kNfkc, nfd) == nfkc, "NFKC of NFD is not NFKC");
  expect(formed(UnicodeForm::kNfkc, formed(UnicodeForm::kNfkd, whole)) == nfkc,
         "NFKC of NFKD is not NFKC");
  const io::Json steps = io::parse_json(json, "normalizer");
  text::Normalizer normalizer;
  if (steps.is_array())
    for (const io::Json& step : steps) normalizer.add({&step, "normalizer"});
  else
    normalizer.add({&steps, "normalizer"});
  std::string storage;
  const std::string_view made = normalizer.apply(text, storage);
  expect(made.data() == text.data() || made.data() == storage.data(), "a view of something else");
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  const auto add = [&](std::string_view json, std::string_view text) {
    all.push_back(std::string(json) + std::string(1, '\0') + std::string(text));
  };
  add(R"({"type": "NFC"})", "cafe\u0301 \u1112\u1161\u11ab\u0f71\u0f72 \xff");
  add(R"([{"type": "NFKC"}, {"type": "Lowercase"}])", "\u0130\ufb01 \ufdfa\u1e9b\u0323");
  add(R"([{"type": "Strip", "strip_left": true, "strip_right": false},
          {"type": "Prepend", "prepend": "_"}])",
      " \u3000a ");
  add(R"([{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
          {"type": "Replace", "pattern": {"Regex": "\\s*"}, "content": " "}, {"type": "NFD"}])",
      "aab \u00e9\u0323");
  return all;
}

const Register registered({"normalizer", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

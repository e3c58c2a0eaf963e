// Unicode's forms: as utf8proc gives them for the whole text.
#include "refrain/text/tokenizer/normalizer.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "support/error_of.h"

namespace refrain::text {
namespace {

constexpr UnicodeForm kForms[] = {UnicodeForm::kNfc, UnicodeForm::kNfd, UnicodeForm::kNfkc,
                                  UnicodeForm::kNfkd};

std::string formed(UnicodeForm form, const std::string& text) {
  std::string out = "untouched";
  if (to_unicode_form(form, text, out)) {
    EXPECT_NE(out, text);
    return out;
  }
  EXPECT_EQ(out, "untouched");
  return text;
}

std::string by_reference(UnicodeForm form, const std::string& text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.c_str());
  utf8proc_uint8_t* made = form == UnicodeForm::kNfc    ? utf8proc_NFC(bytes)
                           : form == UnicodeForm::kNfd  ? utf8proc_NFD(bytes)
                           : form == UnicodeForm::kNfkc ? utf8proc_NFKC(bytes)
                                                        : utf8proc_NFKD(bytes);
  std::string result = reinterpret_cast<const char*>(made);
  std::free(made);
  return result;
}

TEST(UnicodeForms, AreThoseOfTheWholeText) {
  EXPECT_EQ(formed(UnicodeForm::kNfc, "cafe\u0301 \u1112\u1161\u11ab"), "caf\u00e9 \ud55c");
  EXPECT_EQ(formed(UnicodeForm::kNfd, "caf\u00e9 \ud55c"), "cafe\u0301 \u1112\u1161\u11ab");
  EXPECT_EQ(formed(UnicodeForm::kNfkc, "\ufb01\u00b2\u2026"), "fi2...");
  const std::vector<std::string> parts = {
      "a",          "e",          " ",          "\u00e9", "\u0301", "\u0323", "\u0327",
      "\u0345",     "\u1100",     "\u1161",     "\u11a8", "\uac00", "\uac01", "\u304b",
      "\u3099",     "\u304c",     "\u732b",     "\u2126", "\ufb01", "\u00bd", "\u09c7",
      "\u09be",     "\u0f71",     "\u0f72",     "\u0f73", "\ufdfa", "\u1e9b", "\U0001d15e",
      "\U0002f800", "\U0001F600", "\U000e0101", "\u200d", "\ufe0f", "\n"};
  Random random(mix_key(1, "forms"));
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (uint64_t n = 1 + random.below(12); n > 0; --n) text += parts[random.below(parts.size())];
    for (const UnicodeForm form : kForms)
      ASSERT_EQ(formed(form, text), by_reference(form, text)) << text;
  }
}

TEST(UnicodeForms, OfEveryCharacter) {
  for (const UnicodeForm form : kForms)
    for (char32_t c = 1; c < 0x110000; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      utf8proc_uint8_t bytes[5] = {};
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
      const std::string text = reinterpret_cast<const char*>(bytes);
      ASSERT_EQ(formed(form, text), by_reference(form, text)) << std::hex << uint32_t{c};
    }
}

TEST(UnicodeForms, BytesThatAreNotTextStay) {
  EXPECT_EQ(formed(UnicodeForm::kNfc,
                   "e\u0301\xff\u0301\xc3"
                   "e\u0301\xe3\x81"),
            "\u00e9\xff\u0301\xc3\u00e9\xe3\x81");
}

// A run of marks was sorted in the square of its length.
TEST(UnicodeForms, TakeLinearTimeForRunsOfMarks) {
  std::string text = "a";
  for (int i = 0; i < 500000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  const auto start = std::chrono::steady_clock::now();
  const std::string made = formed(UnicodeForm::kNfc, text);
  EXPECT_TRUE(made.starts_with("\u1ea1\u0323"));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 20);  // of less than 1
}

TEST(LowerCase, IsUnicodes) {
  std::string out;
  EXPECT_FALSE(to_lower_case("abc \u00e9\xff", out));
  EXPECT_TRUE(to_lower_case("ABZ[\u00c9\u0130\u1e9e\U00010400\xff", out));
  EXPECT_EQ(out, "abz[\u00e9i\u0307\u00df\U00010428\xff");
}

Normalizer made(const std::vector<std::string>& steps) {
  Normalizer normalizer;
  for (const std::string& step : steps) {
    const io::Json json = io::parse_json(step, "step");
    normalizer.add({&json, "t.json: normalizer"});
  }
  return normalizer;
}

std::string normalized(const std::vector<std::string>& steps, std::string_view text) {
  std::string storage;
  return std::string(made(steps).apply(text, storage));
}

const char* const kStrip = R"({"type": "Strip", "strip_left": true, "strip_right": true})";

TEST(Normalizer, TakesItsStepsInTurn) {
  EXPECT_EQ(normalized({}, " A "), " A ");
  EXPECT_EQ(normalized({kStrip}, " \u3000 A b\n"), "A b");
  EXPECT_EQ(normalized({kStrip}, " \u3000 \n"), "");
  EXPECT_EQ(normalized({R"({"type": "Prepend", "prepend": "_"})"}, "a"), "_a");
  EXPECT_EQ(normalized({kStrip, R"({"type": "Prepend", "prepend": "_"})"}, " "), "");
  EXPECT_EQ(
      normalized({R"({"type": "Replace", "pattern": {"String": "aa"}, "content": "b"})"}, "aaaxa"),
      "baxa");
  EXPECT_EQ(
      normalized({R"({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "-"})"}, "axxb"),
      "-a-b-");
  EXPECT_EQ(normalized({R"({"type": "NFKC"})", R"({"type": "Lowercase"})"}, "\uff21\ufb01"), "afi");
}

TEST(Normalizer, LeavesTextAloneThatDoesNotChange) {
  const std::string text = "caf\u00e9 \u732b";
  std::string storage;
  const auto view = made({R"({"type": "NFC"})", R"({"type": "Lowercase"})"}).apply(text, storage);
  EXPECT_EQ(view.data(), text.data());
}

TEST(Normalizer, RefusesByName) {
  EXPECT_EQ(error_of([] { made({R"({"type": "StripAccents"})"}); }),
            "t.json: normalizer: type: expected NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace or "
            "Prepend, found \"StripAccents\"");
  EXPECT_EQ(error_of([] { made({R"({"type": "NFC", "x": 1})"}); }),
            "t.json: normalizer: \"x\" is not supported, found \"1\"");
  EXPECT_EQ(
      error_of([] { made({R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})"}); }),
      "t.json: normalizer: pattern: expected a pattern that is not empty");
}

TEST(Normalizer, TextsDoNotGrowWithoutEnd) {
  const std::string grow =
      R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaaaaaaa"})";
  const std::vector<std::string> steps(8, grow);
  EXPECT_EQ(
      error_of([&] { normalized(steps, "aa"); }),
      "t.json: normalizer: a text grows to more than 1048704 bytes, which is the most for its "
      "size");
  const std::vector<std::string> many(65, R"({"type": "NFC"})");
  EXPECT_EQ(error_of([&] { made(many); }),
            "t.json: normalizer: expected at most 64 steps, found more");
}

}  // namespace
}  // namespace refrain::text

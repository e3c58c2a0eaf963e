// The forms of published models: ids that the `tokenizers` package gives for the same files.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/text/text_cuts.h"
#include "refrain/text/tokenizer.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"
#include "support/tokenizer_files.h"

namespace refrain {
namespace {

using io::Json;
using testing_files::TokenizerFile;
using text::Tokenizer;

const char* const kQwen2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char* const kQwen35 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char* const kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char* const kGpt4o =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

Json of_type(const char* type) { return {{"type", type}}; }
Json digits(bool individual) { return {{"type", "Digits"}, {"individual_digits", individual}}; }
Json byte_level(bool use_regex = false, bool prefix_space = false) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"use_regex", use_regex}};
}
Json split(const char* regex, const char* behavior = "Isolated", bool invert = false) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", regex}}},
          {"behavior", behavior},
          {"invert", invert}};
}
Json at_spaces(const char* behavior) {
  return {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", behavior}};
}
Json replace(Json pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", std::move(pattern)}, {"content", content}};
}
Json all_changes() {
  Json members = Json::array({of_type("NFKC"),
                              of_type("Lowercase"),
                              {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}},
                              replace({{"Regex", "\\s+"}}, " "),
                              replace({{"String", "!"}}, "?"),
                              {{"type", "Prepend"}, {"prepend", "_"}}});
  return {{"type", "Sequence"}, {"normalizers", std::move(members)}};
}

// All bytes, and merges that reach over the places where the forms split; "hello" is a token that
// no merge makes.
TokenizerFile bytes_file() {
  TokenizerFile file = testing_files::empty_file();
  for (const uint8_t byte : text::bytes_by_character()) file.add_token(text::byte_character(byte));
  constexpr std::pair<const char*, const char*> kMerges[] = {{"l", "l"},
                                                             {"h", "e"},
                                                             {"he", "ll"},
                                                             {"\u0120", "hell"},
                                                             {"\u0120hell", "o"},
                                                             {"1", "2"},
                                                             {"12", "3"},
                                                             {"\u010a", "\u010a"},
                                                             {"\u010d", "\u010a"},
                                                             {"\u0120", "\u0120"},
                                                             {"\u0109", "he"},
                                                             {"!", "\u010a"},
                                                             {"'", "L"},
                                                             {"'L", "L"},
                                                             {"\u00c3", "\u00a9"},
                                                             {"\u00cc", "\u0123"},
                                                             {"e", "\u00cc\u0123"},
                                                             {"a", "\u00cc\u0123"},
                                                             {"\u0120", "1"},
                                                             {"o", "\u010a"},
                                                             {"\u0120", "!"}};
  for (const auto& [left, right] : kMerges) file.merge(left, right);
  file.add_token("hello");
  file.add_special("<|end|>");
  file.json["decoder"] = of_type("ByteLevel");
  return file;
}

struct Form {
  const char* name;
  Json normalizer;
  std::vector<Json> splitters;
  bool ignore_merges;
  std::vector<int32_t> ids;

  TokenizerFile file() const {
    TokenizerFile file = bytes_file();
    file.json["normalizer"] = normalizer;
    file.json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", splitters}};
    file.json["model"]["ignore_merges"] = ignore_merges;
    return file;
  }
};

const std::string kText =
    " I'LL hello  12345\r\n\n caf\u00e9 cafe\u0301 a\u0301\u0301,\thello!\n\n!! "
    "\ud55c\u1112\u1161\u11ab\u3000'\u017f \u00bd\u00b2 \ufb01<|end|>hello\n \u0130";

const std::vector<Form>& forms() {
  static const std::vector<Form> all = {
      {"smollm2",
       Json(),
       {digits(true), byte_level(true)},
       false,
       {220, 40,  6,   43,  43,  260, 265, 16,  17,  18,  19,  20,  201, 263, 220,
        66,  64,  69,  270, 220, 66,  64,  69,  68,  271, 220, 64,  271, 271, 11,
        197, 258, 78,  0,   198, 198, 0,   0,   220, 169, 243, 250, 157, 226, 240,
        157, 227, 94,  157, 228, 104, 159, 222, 222, 6,   129, 123, 220, 126, 121,
        126, 110, 220, 171, 105, 223, 278, 258, 78,  198, 220, 128, 108}},
      {"digits_together",
       Json(),
       {digits(false), byte_level(true, true)},
       false,
       {220, 40,  6,   43,  43,  260, 265, 220, 262, 19,  20,  220, 201, 263, 220,
        66,  64,  69,  270, 220, 66,  64,  69,  68,  271, 220, 64,  271, 271, 11,
        197, 258, 78,  0,   198, 198, 0,   0,   220, 169, 243, 250, 157, 226, 240,
        157, 227, 94,  157, 228, 104, 159, 222, 222, 6,   129, 123, 220, 220, 126,
        121, 126, 110, 220, 171, 105, 223, 278, 260, 198, 220, 128, 108}},
      {"qwen2",
       of_type("NFC"),
       {split(kQwen2), byte_level()},
       false,
       {220, 40,  269, 260, 220, 220, 16,  17,  18,  19,  20,  201, 263, 220, 66,  64,
        69,  270, 220, 66,  64,  69,  270, 220, 127, 94,  271, 11,  197, 258, 78,  0,
        263, 0,   0,   220, 169, 243, 250, 169, 243, 250, 159, 222, 222, 6,   129, 123,
        220, 126, 121, 126, 110, 220, 171, 105, 223, 278, 258, 78,  198, 220, 128, 108}},
      {"qwen3_5",
       of_type("NFC"),
       {split(kQwen35), byte_level()},
       false,
       {220, 40,  269, 260, 220, 220, 16,  17,  18,  19,  20,  201, 263, 220, 66,  64,
        69,  270, 220, 66,  64,  69,  270, 220, 127, 94,  271, 11,  197, 258, 78,  0,
        263, 0,   0,   220, 169, 243, 250, 169, 243, 250, 159, 222, 222, 6,   129, 123,
        220, 126, 121, 126, 110, 220, 171, 105, 223, 278, 258, 78,  198, 220, 128, 108}},
      {"llama3",
       Json(),
       {split(kLlama3), byte_level()},
       true,
       {220, 40,  269, 260, 220, 220, 262, 19,  20,  201, 263, 220, 66,  64,  69,  270, 220,
        66,  64,  69,  68,  271, 220, 64,  271, 271, 11,  197, 258, 78,  0,   263, 0,   0,
        220, 169, 243, 250, 157, 226, 240, 157, 227, 94,  157, 228, 104, 159, 222, 222, 6,
        129, 123, 220, 126, 121, 126, 110, 220, 171, 105, 223, 278, 277, 198, 220, 128, 108}},
      {"gpt4",
       Json(),
       {split(kLlama3, "Removed", true), byte_level()},
       false,
       {220, 40,  269, 260, 220, 220, 262, 19,  20,  201, 263, 220, 66,  64,  69, 270, 220, 66,
        64,  69,  68,  271, 220, 64,  271, 271, 11,  197, 258, 78,  0,   263, 0,  0,   220, 169,
        243, 250, 157, 226, 240, 157, 227, 94,  157, 228, 104, 159, 222, 222, 6,  129, 123, 220,
        126, 121, 126, 110, 220, 171, 105, 223, 278, 258, 78,  198, 220, 128, 108}},
      {"gpt4o",
       Json(),
       {split(kGpt4o), byte_level()},
       false,
       {220, 40,  269, 260, 220, 220, 262, 19,  20,  201, 263, 220, 66,  64,  69,  270, 220,
        66,  64,  69,  272, 220, 273, 271, 11,  197, 258, 78,  0,   263, 0,   0,   220, 169,
        243, 250, 157, 226, 240, 157, 227, 94,  157, 228, 104, 159, 222, 222, 6,   129, 123,
        220, 126, 121, 126, 110, 220, 171, 105, 223, 278, 258, 78,  198, 220, 128, 108}},
      {"deepseek",
       Json(),
       {split("[\\r\\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), digits(true), byte_level()},
       false,
       {220, 40,  6,   43,  43,  260, 265, 16,  17,  18,  19,  20,  201, 198, 198,
        220, 66,  64,  69,  270, 220, 66,  64,  69,  68,  271, 220, 64,  271, 271,
        11,  197, 258, 78,  0,   198, 198, 0,   0,   220, 169, 243, 250, 157, 226,
        240, 157, 227, 94,  157, 228, 104, 159, 222, 222, 6,   129, 123, 220, 126,
        121, 126, 110, 220, 171, 105, 223, 278, 258, 78,  198, 220, 128, 108}},
      {"spaces_with_next",
       Json(),
       {at_spaces("MergedWithNext"), byte_level()},
       false,
       {220, 40,  269, 260, 220, 220, 262, 19,  20,  201, 263, 220, 66,  64,  69, 270, 220,
        66,  64,  69,  272, 220, 273, 271, 11,  197, 258, 78,  0,   263, 0,   0,  220, 169,
        243, 250, 157, 226, 240, 157, 227, 94,  157, 228, 104, 159, 222, 222, 6,  129, 123,
        220, 126, 121, 126, 110, 220, 171, 105, 223, 278, 258, 275, 220, 128, 108}},
      {"spaces_removed",
       Json(),
       {at_spaces("Removed"), byte_level()},
       false,
       {40,  269, 258, 78,  262, 19,  20,  201, 263, 66,  64,  69,  270, 66,  64,
        69,  272, 273, 271, 11,  197, 258, 78,  0,   263, 0,   0,   169, 243, 250,
        157, 226, 240, 157, 227, 94,  157, 228, 104, 159, 222, 222, 6,   129, 123,
        126, 121, 126, 110, 171, 105, 223, 278, 258, 275, 128, 108}},
      {"punctuation",
       Json(),
       {{{"type", "Punctuation"}, {"behavior", "Contiguous"}}, byte_level()},
       false,
       {220, 40,  6,   43,  43,  260, 265, 262, 19,  20,  201, 263, 220, 66,  64,  69, 270,
        220, 66,  64,  69,  272, 220, 273, 271, 11,  197, 258, 78,  0,   263, 0,   0,  220,
        169, 243, 250, 157, 226, 240, 157, 227, 94,  157, 228, 104, 159, 222, 222, 6,  129,
        123, 220, 126, 121, 126, 110, 220, 171, 105, 223, 278, 258, 275, 220, 128, 108}},
      {"changed",
       all_changes(),
       {split(kLlama3), byte_level()},
       false,
       {62,  72,  6,   256, 260, 220, 262, 19,  20,  220, 66,  64,  69,  270, 220,
        66,  64,  69,  270, 220, 127, 94,  271, 11,  260, 30,  220, 30,  30,  220,
        169, 243, 250, 169, 243, 250, 220, 6,   82,  220, 16,  158, 223, 226, 17,
        17,  220, 69,  72,  278, 62,  258, 78,  220, 72,  136, 229}},
  };
  return all;
}

TEST(TokenizerForms, GiveTheIdsOfThePackage) {
  for (const Form& form : forms()) {
    const Tokenizer tokenizer = form.file().load();
    EXPECT_EQ(tokenizer.kind(), "byte-bpe");
    EXPECT_EQ(tokenizer.encode(kText, true), form.ids) << form.name;
  }
}

TEST(TokenizerForms, AreWrittenAsTheyWereRead) {
  for (const Form& form : forms()) {
    const TokenizerFile file = form.file();
    const std::string written = file.load().to_json();
    const Json json = io::parse_json(written, "written");
    EXPECT_EQ(json["normalizer"], file.json["normalizer"]) << form.name;
    EXPECT_EQ(json["pre_tokenizer"], file.json["pre_tokenizer"]) << form.name;
    const Tokenizer again = Tokenizer::from_json(written, "written");
    EXPECT_EQ(again.to_json(), written);
    EXPECT_EQ(again.encode(kText, true), form.ids) << form.name;
  }
}

TEST(TokenizerForms, BytesComeBackWhereNothingIsChangedOrRemoved) {
  const std::string broken = "a\xff\xc3 1\xe3\x81\r\n \xf0\x9f" + kText;
  for (const Form& form : forms()) {
    if (!form.normalizer.is_null() || form.name == std::string_view("spaces_removed") ||
        form.name == std::string_view("digits_together"))
      continue;
    const Tokenizer tokenizer = form.file().load();
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(broken, true), true), broken) << form.name;
  }
}

TEST(TokenizerForms, PartsGiveTheIdsOfTheWhole) {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += kText + (i % 3 == 0 ? "\n" : "") + "\u3002\n" + (i % 2 == 0 ? " \u0301x" : "7 8\t\n9");
  const TemporaryFolder folder;
  const std::string path = folder.put("text", text);
  for (const Form& form : forms()) {
    const Tokenizer tokenizer = form.file().load();
    for (const bool special : {false, true}) {
      text::PieceReader pieces(io::TextReader(path), tokenizer.cuts(special), 40);
      std::vector<int32_t> ids;
      int64_t count = 0;
      for (std::string piece; pieces.next(piece); ++count)
        for (const int32_t id : tokenizer.encode(piece, special)) ids.push_back(id);
      EXPECT_EQ(ids, tokenizer.encode(text, special)) << form.name;
      const bool is_cut = tokenizer.cuts().rule() != text::TextCuts::Rule::kNowhere;
      EXPECT_EQ(count > 20, is_cut) << form.name << " " << count;
    }
  }
}

TEST(TokenizerForms, NormalizedTokensAreFoundInNormalizedText) {
  TokenizerFile file = forms()[2].file();  // Qwen 2: NFC
  file.add_special("Ze\u0301", {{"special", false}, {"normalized", true}, {"rstrip", true}});
  const Tokenizer tokenizer = file.load();
  const int32_t id = tokenizer.id_of("Ze\u0301");
  ASSERT_NE(id, text::kNoToken);
  const std::vector<int32_t> expected = {id, tokenizer.id_of("a")};
  EXPECT_EQ(tokenizer.encode("Z\u00e9  a"), expected);
  EXPECT_EQ(tokenizer.encode("Ze\u0301  a"), expected);
  EXPECT_EQ(tokenizer.decode(std::vector{id}), "Z\u00e9");
}

TEST(TokenizerForms, TemplatesSayWhatStandsAroundATextForWhoeverAsks) {
  TokenizerFile file = forms()[4].file();
  file.add_special("<|begin|>");
  const auto token = [&](const char* name) {
    return Json{{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  };
  const auto entry = [&](const char* name, int32_t id) {
    return Json{{"id", name}, {"ids", Json::array({id})}, {"tokens", Json::array({name})}};
  };
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Tokenizer plain = file.load();
  const int32_t begin = plain.id_of("<|begin|>"), end = plain.id_of("<|end|>");
  EXPECT_TRUE(plain.template_before().empty() && plain.template_after().empty());
  EXPECT_FALSE(plain.adds_bos());
  Json tokens = Json::object();
  tokens["<|begin|>"] = entry("<|begin|>", begin);
  tokens["<|end|>"] = entry("<|end|>", end);
  Json members = Json::array({{{"type", "ByteLevel"}, {"trim_offsets", true}}});
  members.push_back({{"type", "TemplateProcessing"},
                     {"single", Json::array({token("<|begin|>"), text, token("<|end|>")})},
                     {"pair", Json::array()},
                     {"special_tokens", tokens}});
  file.json["post_processor"] = {{"type", "Sequence"}, {"processors", members}};
  const Tokenizer tokenizer = file.load();
  EXPECT_EQ(std::vector(tokenizer.template_before().begin(), tokenizer.template_before().end()),
            std::vector{begin});
  EXPECT_EQ(std::vector(tokenizer.template_after().begin(), tokenizer.template_after().end()),
            std::vector{end});
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.bos(), begin);
  EXPECT_EQ(tokenizer.encode("hello"), plain.encode("hello"));
  Json& single = file.json["post_processor"]["processors"][1]["single"];
  single.push_back(text);
  EXPECT_EQ(error_of([&] { file.load(); }),
            "t.json: post_processor: single: expected the text A once, found "
            "\"{\\\"Sequence\\\":{\\\"id\\\":\\\"A\\\",\\\"type_id\\\":0}}\"");
  single = Json::array();
  EXPECT_EQ(error_of([&] { file.load(); }),
            "t.json: post_processor: single: expected the text A once, found none");
}

}  // namespace
}  // namespace refrain

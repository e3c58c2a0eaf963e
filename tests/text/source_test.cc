#include "refrain/text/source.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using text::DocumentReader;
using text::PairReader;
using text::SourceFiles;
using text::TextRules;
using Rule = text::TextCuts::Rule;
using text::Tokenizer;

// All that makes cutting hard: runs of white space of every sort, contractions, other scripts.
const std::vector<std::string> kFragments = {
    " ",  " ",    "  ",  "\n",    "\n\n",     "\r\n",    "\t",     " \n",      "\n ",    "a",
    "we", "'ll",  "'s",  "don't", "in 1994,", "...",     "word",   "Word",     "(x)",    "!?",
    "é",  "日本", "。",  "　",    "\u00A0",   "\u2003",  "\u0301", "👍🏽", "\u2028", "\u0085",
    "▁",  "42",   "x y", "the",   "the cat ", "a b c d", " the",   "吾輩は"};

std::string tricky_text(uint64_t seed, int fragments) {
  Random random(seed);
  std::string text;
  for (int i = 0; i < fragments; ++i) text += kFragments[random.below(kFragments.size())];
  return text;
}

Tokenizer train(const std::string& spec, std::string text) {
  text::TokenizerTraining training = Tokenizer::parse_spec(spec);
  training.special_tokens = {"<s>", "</s>"};
  return Tokenizer::train(training, [&, given = false](std::string& piece) mutable {
    piece = text;
    return !std::exchange(given, true);
  });
}

// Replaces the only `from` in the tokenizer's file.
Tokenizer edited(const Tokenizer& tokenizer, const std::string& from, const std::string& to) {
  std::string json = tokenizer.to_json();
  const size_t at = json.find(from);
  EXPECT_NE(at, json.npos) << from;
  return Tokenizer::from_json(json.replace(at, from.size(), to), "edited");
}

Tokenizer llama() {
  std::vector<std::string> pieces = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) pieces.push_back(fmt::format("<0x{:02X}>", byte));
  for (const char* piece : {" ",  "  ",  "    ", "a",    "b",    "c",  "d",  "t",  "h",  "e", "th",
                            "he", "the", " t",   " the", " a",   " x", "x",  "y",  " y", "w", "o",
                            "r",  "or",  "wor",  " w",   " wor", "。", "日", "本", "\n"})
    pieces.push_back(piece);
  std::vector<float> scores(pieces.size());
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(pieces[i].size());
  return Tokenizer::from_scored_pieces(pieces, scores);
}

// A tokenizer that takes all text for one word.
Tokenizer unsplit(const std::string& text) {
  return edited(train("byte-bpe:300", text), "\"use_regex\": true", "\"use_regex\": false");
}

// Plain text has these as tokens of their own.
Tokenizer with_added(const Tokenizer& tokenizer, const std::vector<std::string>& contents,
                     const std::string& setting = "") {
  io::Json json = io::parse_json(tokenizer.to_json(), "tokenizer");
  int64_t id = tokenizer.vocab_size();
  for (const std::string& content : contents) {
    const int32_t known = tokenizer.id_of(content);
    json["added_tokens"].push_back({{"id", known == text::kNoToken ? id++ : known},
                                    {"content", content},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", false}});
    if (!setting.empty()) json["added_tokens"].back()[setting] = true;
  }
  return Tokenizer::from_json(json.dump(), "with added tokens");
}

// The llama kind with a Metaspace instead of a normalizer.
Tokenizer metaspace(const std::string& settings) {
  io::Json json = io::parse_json(llama().to_json(), "llama");
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = io::parse_json(
      "{\"type\": \"Metaspace\", \"replacement\": \"▁\", " + settings + "}", "Metaspace");
  return Tokenizer::from_json(json.dump(), "metaspace");
}

// What reading the file in pieces gives, and in how many.
std::vector<int32_t> encode_in_pieces(const std::string& path, const Tokenizer& tokenizer,
                                      size_t piece_bytes, int& pieces) {
  TextRules rules = text::rules_of(tokenizer);
  rules.piece = piece_bytes;
  DocumentReader reader({.inputs = {path}}, rules);
  std::vector<int32_t> ids;
  std::string piece;
  bool begins = false;
  for (pieces = 0; reader.next(piece, begins); ++pieces) {
    EXPECT_EQ(begins, pieces == 0);
    const std::vector<int32_t> more = tokenizer.encode(piece);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  EXPECT_EQ(reader.text_bytes(), static_cast<int64_t>(std::filesystem::file_size(path)));
  return ids;
}

TEST(Source, PiecesGiveTheIdsOfTheWhole) {
  const TemporaryFolder folder;
  const std::string training = tricky_text(1, 4000);
  const Tokenizer byte_bpe = train("byte-bpe:600", training);
  struct Case {
    std::string name;
    Tokenizer tokenizer;
    Rule rule;
  };
  std::vector<Case> cases;
  cases.push_back({"char", train("char", training), Rule::kAnywhere});
  cases.push_back({"char, unknown", train("char", "abc the"), Rule::kAnywhere});
  cases.push_back({"bpe", train("bpe:300", training), Rule::kBesideWhiteSpace});
  cases.push_back({"byte-bpe", train("byte-bpe:600", training), Rule::kBetweenWords});
  cases.push_back({"byte-bpe, prefix",
                   edited(byte_bpe, "\"add_prefix_space\": false", "\"add_prefix_space\": true"),
                   Rule::kBeforeSpace});
  cases.push_back({"byte-bpe, not split", unsplit("the words in 1994"), Rule::kBeforeWhiteSpace});
  cases.push_back({"llama", llama(), Rule::kAtSpace});
  // Added tokens that stand in plain text, with places to cut inside and at both ends.
  for (size_t i = 0, n = cases.size(); i < n; ++i)
    for (const std::string setting : {"", "single_word", "lstrip", "rstrip"})
      cases.push_back(
          {cases[i].name + " with added tokens, " + setting,
           with_added(cases[i].tokenizer, {"the cat", "word", " the", "\n\n", "a b", "e"}, setting),
           cases[i].rule});
  for (const auto& [name, settings] : std::vector<std::pair<const char*, std::string>>{
           {"Metaspace, always", "\"prepend_scheme\": \"always\", \"split\": false"},
           {"Metaspace, first", "\"prepend_scheme\": \"first\", \"split\": false"},
           {"Metaspace, never, split", "\"prepend_scheme\": \"never\", \"split\": true"},
           {"Metaspace, first, split", "\"prepend_scheme\": \"first\", \"split\": true"}}) {
    cases.push_back({name, metaspace(settings), Rule::kBeforeSpace});
    cases.push_back(
        {name, with_added(metaspace(settings), {"word", "x y", " the"}), Rule::kBeforeSpace});
  }
  for (const Case& c : cases) {
    EXPECT_EQ(text::rules_of(c.tokenizer).cuts.rule(), c.rule) << c.name;
    int most_pieces = 0;
    for (uint64_t seed = 10; seed < (c.name.find("added") == c.name.npos ? 40 : 20); ++seed) {
      const std::string text = tricky_text(seed, 400);
      const std::vector<int32_t> whole = c.tokenizer.encode(text);
      for (const size_t piece_bytes : {1u, 2u, 7u, 50u, 1000u}) {
        int pieces = 0;
        ASSERT_EQ(encode_in_pieces(folder.put("t.txt", text), c.tokenizer, piece_bytes, pieces),
                  whole)
            << c.name << ", seed " << seed << ", pieces of " << piece_bytes;
        most_pieces = std::max(most_pieces, pieces);
      }
    }
    EXPECT_GT(most_pieces, 15) << c.name;
  }
}

TEST(Source, RealTextInPieces) {
  const char* data = std::getenv("REFRAIN_DATA");
  if (!data) GTEST_SKIP() << "REFRAIN_DATA does not name the folder of the real texts";
  const std::string root = data;
  const Tokenizer gpt2 =
      Tokenizer::from_gpt2(root + "/gpt2_bpe/encoder.json", root + "/gpt2_bpe/vocab.bpe");
  EXPECT_EQ(text::rules_of(gpt2).cuts.rule(), Rule::kBetweenWords);
  for (const char* name :
       {"/tinyshakespeare/input.txt", "/japanese_text/wagahaiwa_nekodearu.txt"}) {
    int pieces = 0;
    EXPECT_EQ(encode_in_pieces(root + name, gpt2, 4096, pieces),
              gpt2.encode(io::read_file(root + name)))
        << name;
    EXPECT_GT(pieces, 5) << name;
  }
}

TEST(Source, TextThatTokensReachAcrossStaysWhole) {
  const TemporaryFolder folder;
  int pieces = 0;
  // A merge with a space inside: "a b" is one token of text that is not split.
  io::Json json = io::parse_json(unsplit("ab ab").to_json(), "unsplit");
  io::Json& model = json["model"];
  model["merges"] = io::Json::parse("[[\"a\", \"Ġ\"], [\"aĠ\", \"b\"]]");
  for (const char* token : {"aĠ", "aĠb"})
    if (!model["vocab"].contains(token)) model["vocab"][token] = model["vocab"].size();
  const Tokenizer unsplit_over = Tokenizer::from_json(json.dump(), "over");
  EXPECT_EQ(text::rules_of(unsplit_over).cuts.rule(), Rule::kNowhere);
  const std::string ab = "a b a b a b";
  EXPECT_EQ(encode_in_pieces(folder.put("t.txt", ab), unsplit_over, 1, pieces),
            unsplit_over.encode(ab));
  EXPECT_EQ(pieces, 1);

  const Tokenizer tokenizer = with_added(train("byte-bpe:300", "new york in"), {"new york"});
  const std::string text = "in new york and new york and new york";
  EXPECT_EQ(encode_in_pieces(folder.put("t.txt", text), tokenizer, 1, pieces),
            tokenizer.encode(text));
  EXPECT_GT(pieces, 3);
}

// Lines without a space, blank lines only, one word with other characters inside: more than was
// ever held at once.
TEST(Source, PlacesToCutInTextWithoutWords) {
  const TemporaryFolder folder;
  const Tokenizer byte_bpe = train("byte-bpe:300", "12,7,33,401,5\r\n");
  const Tokenizer bpe = train("bpe:300", "12,7,33,401,5\r\n");
  const auto repeated = [](std::string_view what) {
    std::string text;
    for (int i = 0; i < 300; ++i) text += what;
    return text;
  };
  for (const std::string& text : {repeated("12,7,33,401,5\r\n"), repeated("word\n\n"),
                                  repeated("\tword\n"), repeated("word　\n")})
    for (const Tokenizer* tokenizer : {&byte_bpe, &bpe}) {
      int pieces = 0;
      EXPECT_EQ(encode_in_pieces(folder.put("t.txt", text), *tokenizer, 64, pieces),
                tokenizer->encode(text));
      EXPECT_GT(pieces, 20) << tokenizer->kind() << text.substr(0, 12);
    }
  const std::string base64 = repeated("ab1/Cd+2");
  int pieces = 0;
  EXPECT_EQ(encode_in_pieces(folder.put("t.txt", base64), byte_bpe, 64, pieces),
            byte_bpe.encode(base64));
  EXPECT_GT(pieces, 20);
}

// 66 MB, for which there was no place.
TEST(Source, LongTextWithoutASpace) {
  const TemporaryFolder folder;
  const std::string line = "12,7,33,401,5\r\n";
  const int64_t lines = 4'600'000;
  std::string text;
  for (int64_t i = 0; i < lines; ++i) text += line;
  const std::string path = folder.put("t.txt", text);
  DocumentReader reader({.inputs = {path}}, text::rules_of(train("byte-bpe:300", line)));
  size_t longest = 0;
  std::string piece;
  for (bool begins = false; reader.next(piece, begins);) longest = std::max(longest, piece.size());
  EXPECT_EQ(reader.text_bytes(), lines * std::ssize(line));
  EXPECT_LT(longest, size_t{1} << 22);
}

TEST(Source, KeepsTheBytesOfText) {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& bytes, bool utf8 = true) {
    DocumentReader reader({.inputs = {folder.put("t.txt", bytes)}},
                          {text::TextCuts(Rule::kBetweenWords), utf8, 3});
    std::string all, piece;
    for (bool begins = false; reader.next(piece, begins);) all += piece;
    return all;
  };
  EXPECT_EQ(read("a\r\nb\n\n c"), "a\r\nb\n\n c");
  EXPECT_EQ(read("\xEF\xBB\xBFword"), "word");
  EXPECT_EQ(read(""), "");
  EXPECT_EQ(read("any \xFF\xFE bytes \xE3\x81", false), "any \xFF\xFE bytes \xE3\x81");
}

TEST(Source, NamesTheLineOfWhatIsNotText) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& name, const std::string& bytes, bool utf8 = true) {
    DocumentReader reader({.inputs = {folder.put(name, bytes)}},
                          {text::TextCuts(Rule::kBetweenWords), utf8, 4});
    std::string piece;
    bool begins = false;
    return error_of([&] {
      while (reader.next(piece, begins)) {
      }
    });
  };
  const std::string at = folder / "t.txt: ";
  EXPECT_EQ(error("t.txt", std::string("one two\nthree\nfo\0ur", 19)),
            at + "line 3: expected text, found a zero byte");
  EXPECT_EQ(error("t.txt", std::string("a\0", 2), false),
            at + "line 1: expected text, found a zero byte");
  EXPECT_EQ(error("t.txt", "one two\nthree\nfour \xE9t\xE9 five"),
            at + "line 3: expected UTF-8, found byte 0xe9");
  EXPECT_EQ(error("t.txt", "cut off \xE3\x81"), at + "line 1: expected UTF-8, found byte 0xe3");
  const std::string in = folder / "t.jsonl: ";
  EXPECT_EQ(error("t.jsonl", "{\"text\": \"a\"}\n\n{\"txt\": \"b\"}\n"),
            in + "line 3: expected \"text\", or \"prompt\" and \"completion\"");
  EXPECT_EQ(error("t.jsonl", "{\"text\": \"a\\u0000\"}\n"),
            in + "line 1: expected text, found a zero byte");
  EXPECT_NE(error("t.jsonl", "{\"prompt\": \"a\"}\n").find("line 1: completion: missing"),
            std::string::npos);
  EXPECT_NE(error("t.jsonl", "{\"text\": 5}\n").find("line 1: text: expected a string, found 5"),
            std::string::npos);
  EXPECT_NE(error("t.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\n").find("line 2"),
            std::string::npos);
  EXPECT_NE(error("t.jsonl", "[1]\n").find("line 1: expected"), std::string::npos);
  EXPECT_NE(error_of([&] { DocumentReader(SourceFiles{}, {}); }), "(no error)");
}

TEST(Source, DocumentsFollowOneAnother) {
  const TemporaryFolder folder;
  folder.put("a.txt", "first text");
  folder.put("empty.txt", "");
  folder.put("b.jsonl",
             "{\"text\": \"second\"}\r\n\r\n{\"prompt\": \"a \", \"completion\": \"b\"}\n"
             "{\"text\": \"  \"}\n{\"text\": \"\"}\n");
  DocumentReader reader({.inputs = {folder / "a.txt", folder / "empty.txt", folder / "b.jsonl"}},
                        {});
  std::vector<std::string> documents;
  std::string piece;
  for (bool begins = false; reader.next(piece, begins);) {
    if (begins) documents.emplace_back();
    documents.back() += piece;
  }
  EXPECT_EQ(documents, (std::vector<std::string>{"first text", "second", "a b"}));
  EXPECT_EQ(reader.blank(), 3);
  EXPECT_EQ(reader.text_bytes(), 10 + 6 + 3);
}

// Longer than 64 MiB, which was the most.
TEST(Source, LongObjects) {
  const TemporaryFolder folder;
  const std::string text(70'000'000, 'a');
  for (const char* name : {"t.jsonl", "t.json"}) {
    DocumentReader reader({.inputs = {folder.put(name, "{\"text\": \"" + text + "\"}\n")}}, {});
    std::string piece;
    bool begins = false;
    ASSERT_TRUE(reader.next(piece, begins)) << name;
    EXPECT_TRUE(piece == text && begins) << name;
    EXPECT_FALSE(reader.next(piece, begins)) << name;
  }
}

std::vector<std::string> documents_of(const std::string& path) {
  DocumentReader reader({.inputs = {path}}, {});
  std::vector<std::string> documents;
  std::string piece;
  for (bool begins = false; reader.next(piece, begins);) {
    if (begins) documents.emplace_back();
    documents.back() += piece;
  }
  return documents;
}

TEST(Source, ObjectsWhateverTheNameLooksLike) {
  using Documents = std::vector<std::string>;
  const TemporaryFolder folder;
  const Documents expected = {"one {\"}]\\", "two three"};
  const std::string one = "{\"text\": \"one {\\\"}]\\\\\"}",
                    two = "{\"prompt\": \"two \",\n \"completion\": \"three\", \"n\": [{}, 1]}";
  const std::string two_on_a_line = "{\"prompt\": \"two \", \"completion\": \"three\"}";
  for (const char* name : {"a.JSONL", "a.Jsonl.GZ"})
    EXPECT_EQ(documents_of(folder.put(name, one + "\n" + two_on_a_line)), expected) << name;
  for (const char* name : {"a.json", "a.JSON", "a.json.gz"}) {
    EXPECT_EQ(documents_of(folder.put(name, " [" + one + " ,\n" + two + "]\r\n")), expected);
    EXPECT_EQ(documents_of(folder.put(name, one + "\n" + two + "\n")), expected);
    EXPECT_EQ(documents_of(folder.put(name, one + two)), expected);
    EXPECT_EQ(documents_of(folder.put(name, "[]")), Documents());
    EXPECT_EQ(documents_of(folder.put(name, "")), Documents());
  }
  std::string many = "[";  // more than is read at a time
  for (int i = 0; i < 20'000; ++i) many += fmt::format("{}{{\"text\": \"{}\"}}", i ? "," : "", i);
  const Documents all = documents_of(folder.put("many.json", many + "]"));
  ASSERT_EQ(all.size(), 20'000u);
  EXPECT_EQ(all.back(), "19999");

  const auto error = [&](const std::string& bytes) {
    const std::string path = folder.put("bad.json", bytes);
    const std::string message = error_of([&] { documents_of(path); });
    EXPECT_TRUE(message.starts_with(path + ": ")) << message;
    return message.substr(std::min(message.size(), path.size() + 2));
  };
  EXPECT_EQ(error("\"text\""), "line 1: expected an object, found \"\\\"\"");
  EXPECT_EQ(error("[\n1]"), "line 2: expected an object, found \"1\"");
  EXPECT_EQ(error("[{\"text\": \"a\"}"),
            "line 1: expected \",\" or \"]\" behind an object, found the end of the file");
  EXPECT_EQ(error("[{\"text\": \"a\"},]"), "line 1: expected an object, found \"]\"");
  EXPECT_EQ(error("[] x"), "line 1: expected the end of the file behind its list, found \"x\"");
  EXPECT_EQ(error("\n{\"text\": \"a"),
            "line 2: expected the end of the object of line 2, found the end of the file");
  EXPECT_EQ(error("{\"data\": []}"),
            "the object of line 1: expected \"text\", or \"prompt\" and \"completion\"");
  EXPECT_NE(error("[\n{\"text\" \"a\"}]").find("the object of line 2: column"), std::string::npos);
}

using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs read_pairs(std::vector<std::string> inputs, int64_t* blank = nullptr) {
  PairReader reader({.task = "translate", .inputs = std::move(inputs)}, true);
  Pairs pairs;
  for (text::TextPair pair; reader.next(pair);) pairs.emplace_back(pair.source, pair.target);
  if (blank) *blank = reader.blank();
  return pairs;
}

TEST(Source, PairsOfEveryFormat) {
  const TemporaryFolder folder;
  const Pairs expected = {{"one", "一"}, {"two words", "二 つ"}};
  int64_t blank = 0;
  const auto source = folder.put("t.en", "\xEF\xBB\xBFone\r\n\r\nthree\ntwo words");
  const auto target = folder.put("t.ja", "一\n二\n　\n二 つ\n");
  EXPECT_EQ(read_pairs({source, target}, &blank), expected);
  EXPECT_EQ(blank, 2);
  EXPECT_EQ(read_pairs({folder.put("t.tsv", "one\t一\n\n\t三\ntwo words\t二 つ\r\n")}, &blank),
            expected);
  EXPECT_EQ(blank, 2);
  EXPECT_EQ(read_pairs({folder.put("t.jsonl",
                                   "{\"prompt\": \"one\", \"completion\": \"一\"}\n\n"
                                   "{\"prompt\": \"two words\", \"completion\": \"二 つ\"}\n")},
                       &blank),
            expected);
  EXPECT_EQ(blank, 1);
  EXPECT_EQ(read_pairs({folder.put("t.json",
                                   "[{\"prompt\": \"one\", \"completion\": \"一\"},\n"
                                   "{\"prompt\": \" \", \"completion\": \"零\"},\n"
                                   "{\"prompt\": \"two words\", \"completion\": \"二 つ\"}]\n")},
                       &blank),
            expected);
  EXPECT_EQ(blank, 1);
  EXPECT_EQ(read_pairs({folder.put("t.TSV", "one\t一\ntwo words\t二 つ\n")}), expected);
}

// "<en>one<ja>一 (1)": what a pair is and the line it is from.
std::vector<std::string> told(const SourceFiles& source) {
  PairReader reader(source, true);
  std::vector<std::string> all;
  for (text::TextPair p; reader.next(p);)
    all.push_back(
        fmt::format("{}{}{}{} ({})", p.source_tag, p.source, p.target_tag, p.target, p.line));
  return all;
}

TEST(Source, DirectionsOfPairs) {
  using Told = std::vector<std::string>;
  const TemporaryFolder folder;
  SourceFiles source = {
      .task = "translate",
      .inputs = {folder.put("t.en", "one\n\ntwo\n"), folder.put("t.ja", "一\n零\n二\n")}};
  EXPECT_EQ(told(source), (Told{"<en>one<ja>一 (1)", "<en>two<ja>二 (3)"}));
  source.both_directions = true;
  const Told both = {"<en>one<ja>一 (1)", "<ja>一<en>one (1)", "<en>two<ja>二 (3)",
                     "<ja>二<en>two (3)"};
  EXPECT_EQ(told(source), both);
  const std::vector<int64_t> wanted = {0, 1, 3};
  EXPECT_EQ(text::places_of(source, wanted),
            (Told{folder / "t.en: line 1", folder / "t.en: line 1", folder / "t.en: line 3"}));
  EXPECT_EQ(text::places_of({.inputs = {"-", "-"}}, wanted), (Told{"pair 1", "pair 2", "pair 4"}));
  source.one_direction = true;
  EXPECT_EQ(told(source), (Told{both[0], both[2]}));
  std::swap(source.source_tag, source.target_tag);
  std::swap(source.inputs[0], source.inputs[1]);
  EXPECT_EQ(told(source), (Told{both[1], both[3]}));

  source = {.task = "translate",
            .inputs = {folder.put("t.jsonl",
                                  "{\"prompt\": \"a\", \"completion\": \"b\"}\n"
                                  "{\"prompt\": \"c\", \"completion\": \"d\", \"source_tag\": "
                                  "\"<de>\", \"target_tag\": \"<fr>\"}\n")}};
  EXPECT_EQ(told(source), (Told{"<en>a<ja>b (1)", "<de>c<fr>d (2)"}));
  source.both_directions = true;
  EXPECT_EQ(told(source),
            (Told{"<en>a<ja>b (1)", "<ja>b<en>a (1)", "<de>c<fr>d (2)", "<fr>d<de>c (2)"}));
  source.one_direction = true;
  source.source_tag = "<fr>";
  source.target_tag = "<de>";
  EXPECT_EQ(told(source), (Told{"<fr>a<de>b (1)", "<fr>d<de>c (2)"}));
}

TEST(Source, SaysWhatIsWrongWithPairs) {
  const TemporaryFolder folder;
  const auto error = [&](std::vector<std::string> inputs) {
    return error_of([&] { read_pairs(std::move(inputs)); });
  };
  const auto three = folder.put("three", "1\n2\n3\n"), five = folder.put("five", "1\n2\n3\n4\n5");
  EXPECT_EQ(error({three, five}),
            fmt::format("{0} has 3 lines and {1} has 5: {0} ends after line 3", three, five));
  EXPECT_EQ(error({five, three}),
            fmt::format("{1} has 5 lines and {0} has 3: {0} ends after line 3", three, five));
  const auto empty = folder.put("empty", "");
  EXPECT_NE(error({three, empty}).find("empty ends after line 0"), std::string::npos);
  EXPECT_NE(error({folder.put("a.tsv", "a\tb\nc d\n")}).find("line 2: expected one tab, found 0"),
            std::string::npos);
  EXPECT_NE(error({folder.put("b.tsv", "a\tb\tc\n")}).find("line 1: expected one tab, found 2"),
            std::string::npos);
  EXPECT_NE(error({folder.put("a.jsonl", "{\"text\": \"a\"}\n")}).find("line 1: prompt: missing"),
            std::string::npos);
  // Its own line number is the only one.
  EXPECT_NE(error({folder.put("c.jsonl", "\n{\"prompt\": \"a\" 1}\n")})
                .find("c.jsonl: line 2: column 16: invalid JSON"),
            std::string::npos);
  EXPECT_NE(error({three, folder.put("bad", "1\n\xFF\n3\n")}).find("bad: line 2: expected UTF-8"),
            std::string::npos);
  EXPECT_NE(error({three}).find("expected a file of source lines and one of"), std::string::npos);
  EXPECT_NE(error({}).find("found none"), std::string::npos);
  EXPECT_NE(error({folder / "a.tsv", folder / "b.tsv"}).find("or one .tsv, .jsonl or .json"),
            std::string::npos);
  EXPECT_NE(error({folder / "missing", three}).find("missing"), std::string::npos);
}

TEST(Source, TextForTokenizers) {
  const TemporaryFolder folder;
  const auto all = [](const SourceFiles& source) {
    const text::TextSource next = text::text_of(source, "bpe");
    std::string text;
    for (std::string piece; next(piece);) text += piece;
    return text;
  };
  folder.put("a.txt", "one\ntwo");
  folder.put("b.jsonl", "{\"text\": \"three\"}\n{\"text\": \"four\"}\n");
  EXPECT_EQ(all({.inputs = {folder / "a.txt", folder / "b.jsonl"}}), "one\ntwo\nthree\nfour");
  folder.put("p.tsv", "a\tb\nc\td\n");
  EXPECT_EQ(all({.task = "translate", .inputs = {folder / "p.tsv"}}), "a\nb\nc\nd\n");
  EXPECT_EQ(all({.task = "translate", .inputs = {folder / "p.tsv"}, .both_directions = true}),
            "a\nb\nc\nd\n");
  folder.put("bytes.txt", "\xFF");
  EXPECT_NE(error_of([&] { all({.inputs = {folder / "bytes.txt"}}); }), "(no error)");
  std::string piece;
  EXPECT_TRUE(text::text_of({.inputs = {folder / "bytes.txt"}}, "byte-bpe")(piece));
}

}  // namespace
}  // namespace refrain

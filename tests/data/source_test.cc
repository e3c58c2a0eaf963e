#include "refrain/data/source.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using data::Cut;
using data::DocumentReader;
using data::PairReader;
using data::SourceFiles;
using data::TextRules;
using data::Tokenizer;

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
  data::TokenizerTraining training = Tokenizer::parse_spec(spec);
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

// What reading the file in pieces gives, and in how many.
std::vector<int32_t> encode_in_pieces(const std::string& path, const Tokenizer& tokenizer,
                                      size_t piece_bytes, int& pieces) {
  TextRules rules = data::rules_of(tokenizer);
  rules.piece = piece_bytes;
  DocumentReader reader({path}, rules);
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
    const char* name;
    Tokenizer tokenizer;
    Cut cut;
  };
  std::vector<Case> cases;
  cases.push_back({"char", train("char", training), Cut::kAnywhere});
  cases.push_back({"char, unknown", train("char", "abc the"), Cut::kAnywhere});
  cases.push_back({"bpe", train("bpe:300", training), Cut::kBeforeSpace});
  cases.push_back({"byte-bpe", train("byte-bpe:600", training), Cut::kBeforeSpace});
  cases.push_back({"byte-bpe, prefix",
                   edited(byte_bpe, "\"add_prefix_space\": false", "\"add_prefix_space\": true"),
                   Cut::kAtSpace});
  cases.push_back({"llama", llama(), Cut::kAtSpace});
  for (const Case& c : cases) {
    EXPECT_EQ(data::rules_of(c.tokenizer).cut, c.cut) << c.name;
    int most_pieces = 0;
    for (uint64_t seed = 10; seed < 40; ++seed) {
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
  EXPECT_EQ(data::rules_of(gpt2).cut, Cut::kBeforeSpace);
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
  const Tokenizer plain = train("byte-bpe:300", "new york new york in new york");
  // A token of its own in plain text, with a space inside.
  const std::string added = fmt::format(
      "\"added_tokens\": [{{\"id\": {}, \"content\": \"new york\", \"single_word\": false, "
      "\"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": false}}, ",
      plain.vocab_size());
  std::string json = plain.to_json();
  const size_t at = json.find("\"added_tokens\": [");
  ASSERT_NE(at, json.npos);
  json.replace(at, std::string("\"added_tokens\": [").size(), added);
  const Tokenizer tokenizer = Tokenizer::from_json(json, "with an added token");
  EXPECT_EQ(data::rules_of(tokenizer).cut, Cut::kNowhere);
  const std::string text = "in new york and new york and new york";
  int pieces = 0;
  EXPECT_EQ(encode_in_pieces(folder.put("t.txt", text), tokenizer, 1, pieces),
            tokenizer.encode(text));
  EXPECT_EQ(pieces, 1);
}

TEST(Source, KeepsTheBytesOfText) {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& bytes, bool utf8 = true) {
    DocumentReader reader({folder.put("t.txt", bytes)}, {Cut::kBeforeSpace, utf8, 3});
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
    DocumentReader reader({folder.put(name, bytes)}, {Cut::kBeforeSpace, utf8, 4});
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
  EXPECT_NE(error_of([&] { DocumentReader({}, {}); }), "(no error)");
}

TEST(Source, DocumentsFollowOneAnother) {
  const TemporaryFolder folder;
  folder.put("a.txt", "first text");
  folder.put("empty.txt", "");
  folder.put("b.jsonl",
             "{\"text\": \"second\"}\r\n\r\n{\"prompt\": \"a \", \"completion\": \"b\"}\n"
             "{\"text\": \"  \"}\n{\"text\": \"\"}\n");
  DocumentReader reader({folder / "a.txt", folder / "empty.txt", folder / "b.jsonl"}, {});
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

using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs read_pairs(std::vector<std::string> inputs, int64_t* blank = nullptr) {
  PairReader reader({.task = "translate", .inputs = std::move(inputs)}, true);
  Pairs pairs;
  for (data::TextPair pair; reader.next(pair);) pairs.emplace_back(pair.source, pair.target);
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
}

// "<en>one<ja>一 (1)": what a pair is and the line it is from.
std::vector<std::string> told(const SourceFiles& source) {
  PairReader reader(source, true);
  std::vector<std::string> all;
  for (data::TextPair p; reader.next(p);)
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
  EXPECT_EQ(data::places_of(source, wanted),
            (Told{folder / "t.en: line 1", folder / "t.en: line 1", folder / "t.en: line 3"}));
  EXPECT_EQ(data::places_of({.inputs = {"-", "-"}}, wanted), (Told{"pair 1", "pair 2", "pair 4"}));
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
  EXPECT_NE(error({folder / "a.tsv", folder / "b.tsv"}).find("or one .tsv"), std::string::npos);
  EXPECT_NE(error({folder / "missing", three}).find("missing"), std::string::npos);
}

TEST(Source, TextForTokenizers) {
  const TemporaryFolder folder;
  const auto all = [](const SourceFiles& source) {
    const data::TextSource next = data::text_of(source, "bpe");
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
  EXPECT_TRUE(data::text_of({.inputs = {folder / "bytes.txt"}}, "byte-bpe")(piece));
}

}  // namespace
}  // namespace refrain

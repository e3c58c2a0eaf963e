#include "refrain/data/dataset.h"

#include <gtest/gtest.h>

#include "refrain/data/batches.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using data::DataSet;
using data::Prepared;
using text::SourceFiles;
using text::Tokenizer;

const std::string kText =
    "The owl and the pussy cat went to sea\nin a beautiful pea green boat.\n\nThey took some "
    "honey,  and plenty of money,\nwrapped up in a five pound note.\n吾輩は猫である。\n";

Tokenizer train(const std::string& spec, const std::vector<std::string>& special) {
  text::TokenizerTraining training = Tokenizer::parse_spec(spec);
  training.special_tokens = special;
  return Tokenizer::train(training, [given = false](std::string& piece) mutable {
    piece = kText;
    return !std::exchange(given, true);
  });
}

const std::vector<std::string> kTags = {"<en>", "<ja>", "</s>"};

std::vector<int32_t> ids_of(const DataSet& set) {
  std::vector<int32_t> ids(static_cast<size_t>(set.tokens()));
  set.read(0, ids);
  return ids;
}

std::vector<int32_t> joined(std::initializer_list<std::vector<int32_t>> parts) {
  std::vector<int32_t> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

class DataSetTest : public testing::Test {
 protected:
  DataSet prepare(const SourceFiles& source, const Tokenizer& tokenizer) {
    prepared_ = data::write_token_file(source, tokenizer, folder_ / "tokens");
    DataSet set = DataSet::open(folder_ / "tokens");
    EXPECT_EQ(set.tokens(), prepared_.tokens);
    EXPECT_EQ(set.sequences(), prepared_.sequences);
    EXPECT_EQ(set.vocab_size(), tokenizer.vocab_size());
    EXPECT_EQ(set.task(), source.task);
    set.check_tokenizer(tokenizer);
    return set;
  }

  const TemporaryFolder folder_;
  Prepared prepared_;
};

TEST_F(DataSetTest, TextIsOneRunOfIds) {
  const std::string path = folder_.put("t.txt", kText);
  for (const char* spec : {"char", "bpe:200", "byte-bpe:300"}) {
    const Tokenizer tokenizer = train(spec, {"</s>"});
    const DataSet set = prepare({.inputs = {path}}, tokenizer);
    EXPECT_EQ(ids_of(set), tokenizer.encode(kText));
    EXPECT_EQ(set.sequences(), 1);
    EXPECT_EQ(set.text_bytes(), static_cast<int64_t>(kText.size()));
  }
}

TEST_F(DataSetTest, LongTextIsStreamed) {
  std::string text;
  while (text.size() < 5'000'000) text += kText;
  const std::string path = folder_.put("t.txt", text);
  for (const char* spec : {"char", "byte-bpe:300"}) {
    const Tokenizer tokenizer = train(spec, {});
    EXPECT_EQ(ids_of(prepare({.inputs = {path}}, tokenizer)), tokenizer.encode(text)) << spec;
  }
}

TEST_F(DataSetTest, DocumentsAreApart) {
  const SourceFiles source{
      .inputs = {folder_.put("a.txt", "the owl"),
                 folder_.put("b.jsonl",
                             "{\"text\": \"the cat\"}\n\n"
                             "{\"prompt\": \"sea\", \"completion\": \" boat\"}\n"),
                 folder_.put("empty.txt", "")}};
  const Tokenizer with_end = train("char", {"</s>"});
  const std::vector<int32_t> end = {with_end.eos()};
  const auto encode = [&](const char* text) { return with_end.encode(text); };
  EXPECT_EQ(ids_of(prepare(source, with_end)),
            joined({encode("the owl"), end, encode("the cat"), end, encode("sea boat")}));
  EXPECT_EQ(prepared_.sequences, 3);
  EXPECT_EQ(prepared_.blank, 1);

  const Tokenizer without = train("char", {});
  EXPECT_EQ(ids_of(prepare(source, without)), without.encode("the owlthe catsea boat"));
}

TEST_F(DataSetTest, SpecialTokensInTextArePlainText) {
  const Tokenizer tokenizer = train("byte-bpe:300", {"</s>"});
  const DataSet set = prepare({.inputs = {folder_.put("t.txt", "a</s>b")}}, tokenizer);
  for (const int32_t id : ids_of(set)) EXPECT_FALSE(tokenizer.is_special(id));
}

TEST_F(DataSetTest, PairsHaveTagsAndAnEnd) {
  for (const char* spec : {"char", "bpe:200", "byte-bpe:300"}) {
    const Tokenizer tokenizer = train(spec, kTags);
    const SourceFiles source{.task = "translate",
                             .inputs = {folder_.put("t.en", "the owl\n\nthe cat\n"),
                                        folder_.put("t.ja", "吾輩\n猫\nは猫である。\n")}};
    const DataSet set = prepare(source, tokenizer);
    EXPECT_EQ(prepared_.blank, 1);
    const std::vector<int32_t> from = {tokenizer.id_of("<en>")}, to = {tokenizer.id_of("<ja>")},
                               end = {tokenizer.eos()};
    const auto first =
        joined({from, tokenizer.encode("the owl"), to, tokenizer.encode("吾輩"), end});
    const auto second =
        joined({from, tokenizer.encode("the cat"), to, tokenizer.encode("は猫である。"), end});
    EXPECT_EQ(ids_of(set), joined({first, second}));
    const DataSet::Pair pair = set.pair(1);
    EXPECT_EQ(pair.begin, static_cast<int64_t>(first.size()));
    EXPECT_EQ(pair.target - pair.begin,
              static_cast<int64_t>(2 + tokenizer.encode("the cat").size()));
    EXPECT_EQ(pair.end, set.tokens());
    EXPECT_EQ(set.text_bytes(), static_cast<int64_t>(std::string("吾輩は猫である。").size()));

    // The target and </s> are supervised, nothing else.
    data::Batch batch;
    int64_t cursor = 0;
    ASSERT_TRUE(data::next_in_order(set, {.context = 64, .batch_size = 1}, batch, cursor));
    std::vector<int32_t> supervised;
    for (const int32_t target : batch.targets)
      if (target != data::kIgnore) supervised.push_back(target);
    EXPECT_EQ(supervised, joined({tokenizer.encode("吾輩"), end}));
    EXPECT_EQ(batch.tokens, std::vector<int32_t>(first.begin(), first.end() - 1));
  }
}

TEST_F(DataSetTest, SplitsTextByIds) {
  const Tokenizer tokenizer = train("char", {});
  const std::string text = "the owl and the cat";  // 19 characters
  const DataSet set = prepare({.inputs = {folder_.put("t.txt", text)}}, tokenizer);
  const auto [train, valid] = set.split(0.1);
  EXPECT_EQ(tokenizer.decode(ids_of(train)), "the owl and the c");
  EXPECT_EQ(tokenizer.decode(ids_of(valid)), "at");
  EXPECT_EQ(train.sequences(), 1);
  EXPECT_EQ(train.text_bytes(), std::nullopt);
  const auto [first, second] = train.split(0.5);  // a part of a part
  EXPECT_EQ(tokenizer.decode(ids_of(first)), "the owl ");
  EXPECT_EQ(tokenizer.decode(ids_of(second)), "and the c");
  const std::string too_few = error_of([&valid = valid] { valid.split(0.6); });
  EXPECT_NE(too_few.find("of 2 ids leaves one part without any"), std::string::npos);
  for (const double fraction : {0.0, 1.0, -0.5, 2.0, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_NE(error_of([&] { set.split(fraction); }).find("between 0 and 1"), std::string::npos);
  // The whole is what it was.
  EXPECT_EQ(tokenizer.decode(ids_of(set)), text);
}

TEST_F(DataSetTest, CountsDocumentsOfAPart) {
  const Tokenizer tokenizer = train("char", {});
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += "{\"text\": \"abcde\"}\n";
  const DataSet set = prepare({.inputs = {folder_.put("t.jsonl", lines)}}, tokenizer);
  EXPECT_EQ(set.sequences(), 10);
  const auto [train, valid] = set.split(0.5);  // 25 ids: between documents
  EXPECT_EQ(train.sequences(), 5);
  EXPECT_EQ(valid.sequences(), 5);
  const auto [most, least] = set.split(0.06);  // 47 ids and 3: inside the last one
  EXPECT_EQ(most.sequences(), 10);
  EXPECT_EQ(least.sequences(), 1);
}

TEST_F(DataSetTest, SplitsPairsByPairs) {
  const Tokenizer tokenizer = train("char", kTags);
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += std::string(static_cast<size_t>(i) + 1, 'a') + "\tcat\n";
  const DataSet set =
      prepare({.task = "translate", .inputs = {folder_.put("t.tsv", lines)}}, tokenizer);
  const auto [train, valid] = set.split(0.9);
  EXPECT_EQ(train.sequences(), 1);
  EXPECT_EQ(valid.sequences(), 9);
  EXPECT_EQ(train.tokens() + valid.tokens(), set.tokens());
  const DataSet::Pair pair = valid.pair(0);
  EXPECT_EQ(pair.begin, 0);
  EXPECT_EQ(pair.target, 4);  // <en> a a <ja>
  EXPECT_EQ(valid.pair(8).end, valid.tokens());
  std::vector<int32_t> prompt(4);
  valid.read(0, prompt);
  EXPECT_EQ(prompt, tokenizer.encode("<en>aa<ja>", true));
}

TEST_F(DataSetTest, SeveralDirections) {
  const Tokenizer tokenizer = train("char", {"<en>", "<ja>", "<de>", "</s>"});
  const auto tsv = folder_.put("t.tsv", "one\ttwo\nin\tout\n");
  const SourceFiles both = {.task = "translate", .inputs = {tsv}, .both_directions = true};
  const DataSet set = prepare(both, tokenizer);
  EXPECT_EQ(tokenizer.decode(ids_of(set), true),
            "<en>one<ja>two</s><ja>two<en>one</s><en>in<ja>out</s><ja>out<en>in</s>");
  using Directions = std::vector<std::pair<int32_t, int32_t>>;
  EXPECT_EQ(set.directions(), (Directions{{0, 1}, {1, 0}}));
  EXPECT_EQ(set.split(0.25).second.directions(), (Directions{{1, 0}}));
  const auto jsonl =
      folder_.put("t.jsonl",
                  "{\"prompt\": \"cat\", \"completion\": \"owl\", \"target_tag\": \"<de>\"}\n"
                  "{\"prompt\": \"cat\", \"completion\": \"hen\"}\n"
                  "{\"prompt\": \"owl\", \"completion\": \"hen\", \"source_tag\": \"<de>\"}\n");
  const DataSet own = prepare({.task = "translate", .inputs = {jsonl}}, tokenizer);
  EXPECT_EQ(tokenizer.decode(ids_of(own), true),
            "<en>cat<de>owl</s><en>cat<ja>hen</s><de>owl<ja>hen</s>");
  EXPECT_EQ(own.directions(), (Directions{{0, 2}, {0, 1}, {2, 1}}));
  EXPECT_TRUE(prepare({.inputs = {tsv}}, tokenizer).directions().empty());
}

TEST_F(DataSetTest, KnowsItsTokenizer) {
  const Tokenizer tokenizer = train("byte-bpe:300", {"</s>"});
  const DataSet set = prepare({.inputs = {folder_.put("t.txt", kText)}}, tokenizer);
  set.check_tokenizer(Tokenizer::from_json(tokenizer.to_json(), "copy"));
  EXPECT_NE(error_of([&] {
              set.check_tokenizer(train("byte-bpe:290", {"</s>"}));
            }).find("a tokenizer of 300 tokens, found one of 290"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              set.check_tokenizer(train("byte-bpe:300", {"<s>"}));
            }).find("another tokenizer"),
            std::string::npos);
}

TEST_F(DataSetTest, SaysWhatIsWrong) {
  const auto error = [&](const SourceFiles& source, const Tokenizer& tokenizer) {
    const std::string what =
        error_of([&] { data::write_token_file(source, tokenizer, folder_ / "tokens"); });
    EXPECT_FALSE(std::filesystem::exists(folder_ / "tokens"));  // nothing half-written
    return what;
  };
  const auto contains = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nnot: " << part;
  };
  const Tokenizer tags = train("char", kTags), no_end = train("char", {"<en>", "<ja>"});
  const std::string empty = folder_.put("empty.txt", ""), a = folder_.put("a.txt", "a\n");
  contains(error({.inputs = {empty}}, tags), "empty.txt: no text found");
  contains(error({.inputs = {folder_.put("blank.jsonl", "\n{\"text\": \"\"}\n")}}, tags),
           "blank.jsonl: no text found");
  contains(error({.task = "translate", .inputs = {empty, empty}}, tags), "no text found");
  contains(error({.task = "translate", .inputs = {a, folder_.put("b", " \n")}}, tags),
           "no text found");
  contains(error({.inputs = {folder_ / "missing.txt"}}, tags), "missing.txt");
  contains(error({.inputs = {folder_.put("utf16.txt", std::string("\xFF\xFE"
                                                                  "a\0b\0",
                                                                  6))}},
                 tags),
           "line 1: expected text, found a zero byte");
  contains(error({.inputs = {folder_.put("latin.txt", "caf\xE9\n")}}, tags),
           "line 1: expected UTF-8, found byte 0xe9");
  contains(error({.task = "sing", .inputs = {a}}, tags), "expected lm, translate, probe or chat");
  contains(error({.task = "translate", .inputs = {a, a}, .source_tag = "<fr>"}, tags),
           "a.txt: line 1: the tokenizer has no token \"<fr>\"; expected the tag among");
  contains(error({.task = "translate", .inputs = {a, a}, .target_tag = "<fr>"}, tags),
           "a.txt: line 1: the tokenizer has no token \"<fr>\"");
  contains(error({.task = "translate",
                  .inputs = {folder_.put("tag.jsonl",
                                         "\n{\"prompt\": \"a\", \"completion\": \"b\", "
                                         "\"target_tag\": \"<fr>\"}\n")}},
                 tags),
           "tag.jsonl: line 2: the tokenizer has no token \"<fr>\"");
  contains(error({.task = "translate", .inputs = {a, a}}, no_end), "no end token");
  // byte-bpe takes any bytes.
  EXPECT_EQ(error_of([&] {
              data::write_token_file({.inputs = {folder_ / "latin.txt"}}, train("byte-bpe:300", {}),
                                     folder_ / "tokens");
            }),
            "(no error)");
}

}  // namespace
}  // namespace refrain

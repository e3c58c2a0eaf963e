#include "refrain/autoencoder/embeddings.h"

#include <gtest/gtest.h>

#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

TEST(Words, AreRunsOfLettersInLowerCaseAndOtherCharacters) {
  EXPECT_EQ(words_of("Don't stop, Emily!"), (Words{"don't", "stop", ",", "emily", "!"}));
  EXPECT_EQ(words_of("'T is so -- 'much' joy2"),
            (Words{"'", "t", "is", "so", "-", "-", "'", "much", "'", "joy2"}));
  EXPECT_EQ(words_of("Été\t\x01 x"), (Words{"Été", "x"}));
  EXPECT_EQ(words_of(" \n"), Words());
}

TEST(Documents, EndAtTwoBlankLinesAndAtTheFilesEnd) {
  const TemporaryFolder folder;
  const std::vector<std::string> files = {
      folder.put("a.txt", "\n\n\none two\n\nthree\n\n \nfour\n\n\n\n"), folder.put("b.txt", "five"),
      folder.put("c.txt", "")};
  EXPECT_EQ(read_documents(files),
            (std::vector<Words>{{"one", "two", "three"}, {"four"}, {"five"}}));
  const std::string bad = folder.put("bad.txt", "fine\nnot \xFF\n");
  EXPECT_EQ(error_of([&] {
              read_documents({&bad, 1});
            }),
            bad + ": line 2: expected UTF-8, found other bytes");
}

TEST(Documents, AreHeldOutWhole) {
  const std::vector<Words> all = {{"a", "b", "c", "d"}, {"e", "f", "g"}, {"h", "i", "j"}};
  const auto [train, test] = split_documents(all, 0.35);
  EXPECT_EQ(train, (std::vector<Words>{all[0]}));
  EXPECT_EQ(test, (std::vector<Words>{all[1], all[2]}));
  EXPECT_EQ(split_documents(all, 0).second.size(), 0u);
  EXPECT_EQ(split_documents(all, 0.1).second, (std::vector<Words>{all[2]}));
}

TEST(Documents, TheFirstIsLeftToLearnFrom) {
  const Words ten = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};
  using Parts = std::pair<std::vector<Words>, std::vector<Words>>;
  const auto cut = [&](ptrdiff_t at) {
    return Parts{{Words(ten.begin(), ten.begin() + at)}, {Words(ten.begin() + at, ten.end())}};
  };
  EXPECT_EQ(split_documents({ten}, 0.1), cut(9));
  EXPECT_EQ(split_documents({ten}, 0.25), cut(7));
  EXPECT_EQ(split_documents({ten}, 0.1, 4), cut(6));  // a window on both sides
  EXPECT_EQ(split_documents({ten}, 0.1, 5), cut(5));
  EXPECT_EQ(split_documents({ten}, 0.1, 6), Parts({}, {ten}));
  EXPECT_EQ(split_documents({ten}, 0), Parts({ten}, {}));
  // The last of two holds too little alone.
  const Words last = {"x"};
  Parts both = cut(8);
  both.second.push_back(last);
  EXPECT_EQ(split_documents({ten, last}, 0.25), both);
  EXPECT_EQ(split_documents({ten, last}, 0.25, 9), Parts({}, {ten, last}));
}

TEST(Vocabulary, IsByFrequencyAndThenByTheAlphabet) {
  EXPECT_EQ(vocabulary_of(std::vector<Words>{{"b", "a", "c"}, {"c", "a"}}), (Words{"a", "c", "b"}));
}

TEST(RandomEmbeddings, AreAFunctionOfSeedAndWord) {
  const Embeddings one = random_embeddings({"a", "b"}, 300, 1);
  const Embeddings other = random_embeddings({"c", "b"}, 300, 1);
  const auto row = [](const Embeddings& e, const char* word) {
    const float* from = e.table().row(e.id_of(word));
    return std::vector<float>(from, from + e.width());
  };
  EXPECT_EQ(row(one, "b"), row(other, "b"));
  EXPECT_NE(row(one, "a"), row(one, "b"));
  EXPECT_NE(row(one, "a"), row(random_embeddings({"a"}, 300, 2), "a"));
  double squares = 0;
  for (const float v : row(one, "a")) squares += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_NEAR(squares, 1, 0.3);  // 300 squares of deviation sqrt(2)/300 each
}

TEST(GloveFile, GivesTheVectorsOfTheWordsWanted) {
  const TemporaryFolder folder;
  const std::string path =
      folder.put("g.txt", "the 1 2 3\n. -0.5 1e-3 0\nfew 4 5 6 \r\n\xC3\xA9t 7 8 9");
  const Embeddings e = read_embeddings(path, {"few", "the", "absent", "\xC3\xA9t"}, 0);
  EXPECT_EQ(e.size(), 3);
  EXPECT_EQ(e.width(), 3);
  EXPECT_EQ(e.word(1), "few");
  EXPECT_EQ(std::vector<float>(e.values().begin(), e.values().end()),
            (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(e.id_of("."), Embeddings::kNoVector);
  EXPECT_EQ(e.visible({"the", "absent", "few"}), (std::vector<int32_t>{0, 1}));
}

TEST(GloveFile, MistakesNameTheirLine) {
  const TemporaryFolder folder;
  const auto says = [&](const std::string& text, const std::string& what, int64_t width = 0) {
    const std::string path = folder.put("g.txt", text);
    EXPECT_EQ(error_of([&] { read_embeddings(path, {"a", "b"}, width); }), path + what) << text;
  };
  says("a 1 2\nb 3 4 5\n", ": line 2: expected 2 numbers behind the word, found 3");
  says("a 1 2\nb 3\n", ": line 2: expected 2 numbers behind the word, found 1");
  says("a 1 2\n", ": line 1: expected 3 numbers behind the word, found 2", 3);
  says("a 1 2\nb 3 x4\n", ": line 2: expected a number, found \"x4\"");
  says("a 1 nan\n", ": line 1: expected a number, found \"nan\"");
  says("a 1 1e99\n", ": line 1: expected a number, found \"1e99\"");
  says("a 1  2\n", ": line 1: expected a number, found \"\"");
  says("a 1 2\n\n", ": line 2: expected a word and its numbers, found \"\"");
  says("a\n", ": line 1: expected a word and its numbers, found \"a\"");
  says("a 1 2\nc 3 4\na 5 6\n", ": line 3: the word \"a\" was on line 1 already");
  says("", ": expected a word on every line, found none");
  says("c 1 2\n", ": expected vectors of words of the data, found none of its 2 words");
}

TEST(Embeddings, ADirectoryHoldsThem) {
  const TemporaryFolder folder;
  random_embeddings({"a", "b", "c"}, 4, 1).save(folder.path());
  const Embeddings e = Embeddings::load(folder.path());
  EXPECT_EQ(e.size(), 3);
  const Embeddings made = random_embeddings({"a", "b", "c"}, 4, 1);
  EXPECT_TRUE(std::equal(e.values().begin(), e.values().end(), made.values().begin()));

  const std::string words = folder.put("vocab.txt", "a\nb\n");
  EXPECT_NE(error_of([&] {
              Embeddings::load(folder.path());
            }).find("expected \"embeddings\", F32 [2, width]"),
            std::string::npos);
  folder.put("vocab.txt", "a\nb\na\n");
  EXPECT_EQ(error_of([&] { Embeddings::load(folder.path()); }),
            words + ": line 3: the word \"a\" was there before");
  folder.put("vocab.txt", "");
  EXPECT_EQ(error_of([&] { Embeddings::load(folder.path()); }),
            words + ": expected a word on every line, found none");
}

}  // namespace
}  // namespace refrain

#include "refrain/eval/metrics.h"

#include <gtest/gtest.h>

#include <utility>

#include "support/error_of.h"

namespace refrain {
namespace {

using eval::Bleu;
using eval::bleu_tokens;
using eval::Chrf;

using Pairs = std::vector<std::pair<std::string, std::string>>;  // translation, reference

const Pairs kEnglish = {
    {"The cat sat on the mat.", "The cat is sitting on the mat."},
    {"It costs $1,000.50 -- don't ask!", "It cost $1,000.50; don't ask."},
    {"", "Hello there"},
    {"He said: &quot;3-4 x-rays&quot;, didn't he?", "He said \"3-4 X-rays\", did he not?"}};
const Pairs kJapanese = {{"私 は りんご が 好き です 。", "私 は 林檎 が 好き だ 。"},
                         {"昨日 東京 へ 行 っ た 。", "昨日 、 京都 へ 行 き ま し た 。"},
                         {"一九九四年三月三日", "一九九四年三月十三日"}};

Bleu bleu(const std::string& tokenize, const Pairs& pairs) {
  Bleu bleu(tokenize);
  for (const auto& [hypothesis, reference] : pairs) bleu.add(hypothesis, reference);
  return bleu;
}

double chrf(int64_t word_order, const Pairs& pairs) {
  Chrf chrf(word_order);
  for (const auto& [hypothesis, reference] : pairs) chrf.add(hypothesis, reference);
  return chrf.score();
}

// Figures of sacreBLEU 2.6.0; sums of logarithms in another order may differ in the last bits.
constexpr double kRounding = 1e-11;

TEST(Metrics, BleuOfSacrebleu) {
  EXPECT_NEAR(bleu("13a", kEnglish).score(), 25.326510677984164, kRounding);
  EXPECT_NEAR(bleu("char", kEnglish).score(), 53.02362193197692, kRounding);
  EXPECT_NEAR(bleu("none", kEnglish).score(), 12.056354739921035, kRounding);
  EXPECT_NEAR(bleu("13a", kJapanese).score(), 11.17616954959852, kRounding);
  EXPECT_NEAR(bleu("char", kJapanese).score(), 35.00746640745248, kRounding);
  EXPECT_NEAR(bleu("none", kJapanese).score(), 11.17616954959852, kRounding);

  const Bleu english = bleu("13a", kEnglish);
  const double expected[] = {75.0, 44.0, 18.181818181818183, 10.526315789473685};
  for (size_t n = 0; n < Bleu::kOrder; ++n)
    EXPECT_NEAR(english.precisions()[n], expected[n], kRounding);
  EXPECT_NEAR(english.brevity_penalty(), 0.898397321348071, kRounding);
  EXPECT_EQ(english.hypothesis_tokens(), 28);
  EXPECT_EQ(english.reference_tokens(), 31);
  EXPECT_EQ(english.signature(), "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp");
}

TEST(Metrics, ChrfOfSacrebleu) {
  EXPECT_NEAR(chrf(0, kEnglish), 45.673288894877906, kRounding);
  EXPECT_NEAR(chrf(2, kEnglish), 44.04633651893472, kRounding);
  EXPECT_NEAR(chrf(0, kJapanese), 31.810995754099036, kRounding);
  EXPECT_NEAR(chrf(2, kJapanese), 34.52916420514659, kRounding);
  EXPECT_EQ(Chrf().signature(), "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no");
  EXPECT_EQ(Chrf(2).signature(), "nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no");
  EXPECT_EQ(Chrf().name(), "chrF2");
  EXPECT_EQ(Chrf(2).name(), "chrF2++");
}

TEST(Metrics, AtTheEdges) {
  EXPECT_EQ(Bleu().score(), 0);  // nothing was added
  EXPECT_EQ(Chrf().score(), 0);
  const Pairs none = {{"", "one two"}}, unlike = {{"a b c d", "e f g h"}}, nothing = {{"", ""}};
  for (const Pairs& pairs : {none, unlike, nothing}) {
    EXPECT_EQ(bleu("13a", pairs).score(), 0);
    EXPECT_EQ(chrf(2, pairs), 0);
  }
  EXPECT_EQ(bleu("13a", none).brevity_penalty(), 0);
  // Without a single n-gram of four, BLEU is 0 by definition; chrF does without the orders.
  EXPECT_EQ(bleu("none", {{"one two three", "one two three"}}).score(), 0);
  EXPECT_NEAR(chrf(2, {{"one two three", "one two three"}}), 100, kRounding);
  EXPECT_NEAR(bleu("none", {{"a b c d", "a b c d"}}).score(), 100, kRounding);
  EXPECT_NEAR(bleu("none", {{"a b c d", "a b c d e f g h"}}).score(), 36.787944117144235,
              kRounding);
}

TEST(Metrics, TokensOfBleu) {
  using Tokens = std::vector<std::string>;
  const std::pair<std::string, Tokens> cases[] = {
      {"Hello, world.", {"Hello", ",", "world", "."}},
      {"1,000.5 and a,b .5 5. 3-4 a-b",
       {"1,000.5", "and", "a", ",", "b", ".", "5", "5", ".", "3", "-", "4", "a-b"}},
      {"don't (stop)! a/b", {"don't", "(", "stop", ")", "!", "a", "/", "b"}},
      {"&quot;x&quot; &amp;lt; &lt;skipped&gt;<skipped>",
       {"\"", "x", "\"", "<", "<", "skipped", ">"}},
      {"a..b ,,1", {"a", ".", ".", "b", ",", ",1"}},
      {"日本。1,2．３.4", {"日本。1,2．３", ".", "4"}},
      {"end-\nof line\n2-", {"endof", "line", "2", "-"}},
      {"a\u3000b\u00A0c.", {"a", "b", "c", "."}},
      {" \t\u2003", {}}};
  for (const auto& [text, tokens] : cases) EXPECT_EQ(bleu_tokens(text, "13a"), tokens) << text;
  EXPECT_EQ(bleu_tokens("a. 日本\u3000e\u0301", "char"),
            (Tokens{"a", ".", "日", "本", "e", "\u0301"}));
  EXPECT_EQ(bleu_tokens(" a.  b\u3000c ", "none"), (Tokens{"a.", "b", "c"}));
}

TEST(Metrics, RefusesWhatItDoesNotHave) {
  EXPECT_EQ(error_of([] { Bleu("zh"); }),
            "BLEU's tokenization: expected 13a, char or none, found \"zh\"");
  EXPECT_EQ(error_of([] { Chrf(1); }), "chrF's word order: expected 0, or 2 for chrF++, found 1");
}

}  // namespace
}  // namespace refrain

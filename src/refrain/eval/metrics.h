// Scores of translations against one reference each: BLEU (Papineni et al., 2002) and chrF
// (Popović, 2015). They equal sacreBLEU's (Post, 2018; tests/compat/sacrebleu_compat.py). A
// signature names the details.
//
// Both sum counts over the whole corpus, so a score is not the mean of the sentences' scores. White
// space is what Python's str.split() splits at; texts are UTF-8.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace refrain::eval {

// The number of n-grams of one order, and how many of the hypothesis are in the reference too, each
// counted as often as it is in both.
struct NgramCounts {
  int64_t hypothesis = 0, reference = 0, matches = 0;
};

// BLEU = BP * exp(mean over n = 1..4 of log(p_n)), in per cent, with p_n = matches / n-grams of the
// hypotheses, and BP = min(1, exp(1 - tokens of the references / tokens of the hypotheses)). If an
// order has no match, p_n is 1 / (2^k * n-grams) for the k-th such order (smoothing "exp" of
// mteval-v13a).
//
// Tokens, by `tokenize`:
//   13a   words, separated from punctuation as by WMT's mteval-v13a: the default of sacreBLEU
//   char  characters; for scripts that do not separate words
//   none  the text as it is, split at white space; for text that is already tokenized
class Bleu {
 public:
  static constexpr size_t kOrder = 4;

  explicit Bleu(std::string tokenize = "13a");  // Error when it is none of the three

  void add(std::string_view hypothesis, std::string_view reference);

  double score() const;                           // 0 to 100
  std::array<double, kOrder> precisions() const;  // p_n in per cent; 0 when nothing matches at all
  double brevity_penalty() const;
  int64_t hypothesis_tokens() const { return counts_[0].hypothesis; }
  int64_t reference_tokens() const { return counts_[0].reference; }
  std::string signature() const;  // "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"

 private:
  std::string tokenize_;
  std::array<NgramCounts, kOrder> counts_{};
};

// The tokens that Bleu counts.
std::vector<std::string> bleu_tokens(std::string_view text, std::string_view tokenize);

// chrF = 5 P R / (4 P + R), in per cent. P and R are the means of precision and recall over the
// orders n = 1..6 of character n-grams without white space, and, in chrF++, 1..2 of words, from
// which punctuation at one end is separated. An order counts only if both sides have an n-gram of
// it.
class Chrf {
 public:
  static constexpr size_t kCharOrder = 6;

  explicit Chrf(int64_t word_order = 0);  // 0, or 2 for chrF++; else an Error

  void add(std::string_view hypothesis, std::string_view reference);

  double score() const;           // 0 to 100
  std::string name() const;       // "chrF2" or "chrF2++": 2 is the weight of recall
  std::string signature() const;  // "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no"

 private:
  size_t word_order_;
  std::vector<NgramCounts> counts_;  // of characters by order, then of words
};

}  // namespace refrain::eval

// Generated data sets: small tasks with exactly one right answer, so that what a model has learnt
// can be scored by exact match. The same seed gives the same texts on every machine.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace refrain::cli {

struct SampleSet {
  using Pairs = std::vector<std::pair<std::string, std::string>>;  // source, target
  Pairs train, dev, test;
};

struct SampleSizes {
  int64_t train = 20'000, dev = 500, test = 500;
};

// Dates, times, durations, numbers and prices in written English with their Japanese forms:
//
//   the third of march , nineteen ninety four     一 九 九 四 年 三 月 三 日
//   quarter past seven in the evening             午後 七 時 十 五 分
//   twenty one thousand three hundred yen         二 万 一 千 三 百 円
//
// An English text stands once in the whole set and has one Japanese form; a Japanese form has many
// English wordings, and all of them fall into the same part: which one is a hash of the form alone,
// whatever the seed, so a test row is never a reworded training row.
//
// Both sides are written as corpora for translation are, words apart. English words are a closed
// list with hardly a digit in it. Japanese has no spaces of its own; here its numerals stand apart
// and its other words are whole, so that `bpe:2000` gives a token a word on both sides (about 7 + 8
// a row) and what is to be learnt is the translation and not the spelling. Without spaces `bpe`
// would make arbitrary tokens of runs of numerals; `char` takes three times as many tokens. For a
// reader, remove the spaces: 一九九四年三月三日.
//
// Error when the grammar has fewer texts than asked for.
void check_sizes(const SampleSizes& sizes);  // an Error, before any work
SampleSet calendar(uint64_t seed, const SampleSizes& sizes = {});

// train.en train.ja dev.en dev.ja test.en test.ja, a text a line, into a folder that is made if
// there is none.
void write_pairs(const SampleSet& set, const std::string& folder);

}  // namespace refrain::cli

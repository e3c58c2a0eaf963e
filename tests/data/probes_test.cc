#include "refrain/data/probes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <set>

#include "refrain/data/batches.h"
#include "refrain/data/token_file.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using data::kIgnore;
using data::ProbeSequence;

// Place -> answer, of what is asked.
std::map<size_t, int32_t> answers(const ProbeSequence& sequence) {
  std::map<size_t, int32_t> all;
  EXPECT_EQ(sequence.input.size(), sequence.target.size());
  for (size_t i = 0; i < sequence.target.size(); ++i)
    if (sequence.target[i] != kIgnore) all[i] = sequence.target[i];
  return all;
}

TEST(Probes, AssociativeRecall) {
  const data::AssociativeRecall probe;
  EXPECT_EQ(probe.ids(), 20);
  Random random(1);
  std::set<int32_t> keys, values;
  for (int i = 0; i < 500; ++i) {
    const ProbeSequence s = probe.draw(random);
    ASSERT_EQ(s.input.size(), 42u);
    std::map<int32_t, int32_t> value_of;
    for (size_t p = 0; p < 40; p += 2) {
      keys.insert(s.input[p]);
      values.insert(s.input[p + 1]);
      EXPECT_EQ(value_of.emplace(s.input[p], s.input[p + 1]).first->second, s.input[p + 1]);
    }
    EXPECT_EQ(s.input[40], 0);
    ASSERT_TRUE(value_of.contains(s.input[41]));
    EXPECT_EQ(answers(s), (std::map<size_t, int32_t>{{41, value_of[s.input[41]]}}));
  }
  EXPECT_EQ(keys.size(), 9u);
  EXPECT_EQ(*keys.begin(), 1);
  EXPECT_EQ(values.size(), 10u);
  EXPECT_EQ(*values.begin(), 10);
  EXPECT_EQ(*values.rbegin(), 19);
}

TEST(Probes, MultiQueryRecall) {
  for (const bool noise : {false, true})
    for (const auto& [length, pairs] :
         std::vector<std::pair<int64_t, int64_t>>{{64, 4}, {512, 64}, {4, 1}, {64, 16}, {65, 16}}) {
      const data::MultiQueryRecall probe{8192, length, pairs, noise};
      probe.check();
      Random random(2);
      for (int i = 0; i < 50; ++i) {
        const ProbeSequence s = probe.draw(random);
        ASSERT_EQ(std::ssize(s.input), length);
        std::map<int32_t, int32_t> value_of;
        std::set<int32_t> values;
        const auto shown = static_cast<size_t>(2 * pairs);
        for (size_t p = 0; p < shown; p += 2) {
          EXPECT_TRUE(s.input[p] >= 1 && s.input[p] < 4096);
          EXPECT_TRUE(s.input[p + 1] >= 4096 && s.input[p + 1] < 8192);
          EXPECT_TRUE(value_of.emplace(s.input[p], s.input[p + 1]).second);
          values.insert(s.input[p + 1]);
        }
        EXPECT_EQ(std::ssize(values), pairs);
        size_t zeros = 0;
        std::set<int32_t> asked;
        for (size_t p = shown; p < s.input.size(); ++p) {
          if (s.target[p] == kIgnore) {
            zeros += s.input[p] == 0;
            continue;
          }
          EXPECT_EQ((p - shown) % 2, 0u);
          EXPECT_EQ(s.target[p], value_of.at(s.input[p]));
          EXPECT_TRUE(asked.insert(s.input[p]).second);
        }
        EXPECT_EQ(std::ssize(asked), pairs);
        const size_t others = s.input.size() - shown - asked.size();
        EXPECT_EQ(std::ssize(answers(s)), pairs);
        if (!noise) {
          EXPECT_EQ(zeros, others);
        } else if (others > 10) {
          EXPECT_LT(zeros, others / 2);
        }
      }
    }
}

// The first key's slot has exactly the weights that the definition gives.
TEST(Probes, GapsFollowTheirPowerLaw) {
  const data::MultiQueryRecall probe{16, 36, 2};
  constexpr int kDraws = 20000;
  constexpr size_t kSlots = 16;
  std::vector<double> weight(kSlots), seen(kSlots);
  double total = 0;
  for (size_t i = 0; i < kSlots; ++i)
    total += weight[i] = 0.01 * std::pow(static_cast<double>(i + 1), -0.99);
  Random random(3);
  for (int n = 0; n < kDraws; ++n) {
    const ProbeSequence s = probe.draw(random);
    for (size_t i = 0; i < kSlots; ++i)
      if (s.target[4 + 2 * i] != kIgnore && s.input[4 + 2 * i] == s.input[0]) ++seen[i];
  }
  for (size_t i = 0; i < kSlots; ++i) {
    const double p = weight[i] / total, sigma = std::sqrt(p * (1 - p) / kDraws);
    EXPECT_NEAR(seen[i] / kDraws, p, 4.5 * sigma) << i;
  }
}

TEST(Probes, Induction) {
  for (const int64_t length : {3, 30}) {
    const data::Induction probe{20, length};
    Random random(4);
    std::set<size_t> places;
    for (int i = 0; i < 300; ++i) {
      const ProbeSequence s = probe.draw(random);
      ASSERT_EQ(std::ssize(s.input), length);
      EXPECT_EQ(s.input.back(), 0);
      const size_t first =
          static_cast<size_t>(std::find(s.input.begin(), s.input.end(), 0) - s.input.begin());
      ASSERT_LT(first + 2, s.input.size());
      EXPECT_EQ(std::count(s.input.begin(), s.input.end(), 0), 2);
      EXPECT_EQ(answers(s), (std::map<size_t, int32_t>{{s.input.size() - 1, s.input[first + 1]}}));
      places.insert(first);
    }
    EXPECT_EQ(std::ssize(places), length - 2);
  }
}

TEST(Probes, DelayedCopy) {
  const data::DelayedCopy probe{8, 10, 7};
  Random random(5);
  const ProbeSequence s = probe.draw(random);
  ASSERT_EQ(s.input.size(), 27u);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_TRUE(s.input[i] >= 2 && s.input[i] < 10);
    EXPECT_EQ(s.input[17 + i], 1);
    EXPECT_EQ(s.target[17 + i], s.input[i]);
  }
  for (size_t i = 10; i < 17; ++i) EXPECT_EQ(s.input[i], 0);
  EXPECT_EQ(answers(s).size(), 10u);
}

TEST(Probes, Forecast) {
  const data::Forecast probe{16, 30, 7, 0};
  EXPECT_EQ(probe.ids(), 24);
  Random random(1);
  std::set<int32_t> levels;
  for (int i = 0; i < 300; ++i) {
    const ProbeSequence s = probe.draw(random);
    ASSERT_EQ(s.input.size(), 38u);
    EXPECT_EQ(s.input[0], 23);
    const auto asked = answers(s);
    ASSERT_EQ(asked.size(), 7u);
    for (size_t t = 1; t <= 30; ++t) levels.insert(s.input[t]);
    for (size_t h = 0; h < 7; ++h) {
      EXPECT_EQ(s.input[31 + h], 16 + static_cast<int32_t>(h));
      const int32_t value = asked.at(31 + h);
      EXPECT_GE(value, 0);
      EXPECT_LT(value, 16);
    }
  }
  EXPECT_GE(levels.size(), 12u);  // all but those beyond the sum of what a series is made of
  // Without noise both oscillations are back after 60 values.
  const data::Forecast known{64, 60, 12, 0};
  for (int i = 0; i < 20; ++i) {
    const ProbeSequence s = known.draw(random);
    for (size_t h = 0; h < 12; ++h) EXPECT_NEAR(s.target[61 + h], s.input[1 + h], 1);
  }
  // The naive loss is that of changes: of two levels there are three.
  EXPECT_LT((data::Forecast{2, 8, 1, 0}.naive(1).loss), std::log(3.0));
  const auto naive = data::Forecast().naive(1);
  EXPECT_EQ(naive.loss, data::Forecast().naive(1).loss);
  EXPECT_GT(naive.loss, 2);
  EXPECT_LT(naive.loss, std::log(63.0));
  EXPECT_LT(naive.correct, 0.2);
}

TEST(Probes, RecallAfterGap) {
  for (const auto& [pairs, gap] : {std::pair{1, 0}, {3, 100}, {8, 7}}) {
    const data::RecallAfterGap probe{8, pairs, gap, 5};
    Random random(7);
    for (int i = 0; i < 20; ++i) {
      const ProbeSequence s = probe.draw(random);
      ASSERT_EQ(std::ssize(s.input), 2 * pairs + gap + 2);
      std::map<int32_t, int32_t> value;
      for (size_t p = 0; p < 2 * static_cast<size_t>(pairs); p += 2) {
        EXPECT_TRUE(s.input[p] >= 1 && s.input[p] <= 8);
        EXPECT_TRUE(s.input[p + 1] >= 9 && s.input[p + 1] <= 16);
        EXPECT_TRUE(value.emplace(s.input[p], s.input[p + 1]).second);
      }
      for (size_t p = 2 * static_cast<size_t>(pairs); p + 2 < s.input.size(); ++p)
        EXPECT_TRUE(s.input[p] > 16 && s.input[p] < probe.ids());
      EXPECT_EQ(s.input[s.input.size() - 2], 0);
      EXPECT_EQ(answers(s),
                (std::map<size_t, int32_t>{{s.input.size() - 1, value.at(s.input.back())}}));
    }
  }
}

TEST(Probes, SelectiveCopy) {
  for (const int64_t symbols : {1, 10, 39, 40}) {
    const data::SelectiveCopy probe{16, symbols, 40};
    Random random(6);
    for (int i = 0; i < 20; ++i) {
      const ProbeSequence s = probe.draw(random);
      ASSERT_EQ(std::ssize(s.input), 40 + symbols);
      std::vector<int32_t> to_copy, asked;
      for (size_t p = 0; p < 40; ++p)
        if (s.input[p] != 0) to_copy.push_back(s.input[p]);
      EXPECT_EQ(std::ssize(to_copy), symbols);
      for (size_t p = 40; p < s.input.size(); ++p) EXPECT_EQ(s.input[p], 1);
      for (const auto& [place, answer] : answers(s)) {
        EXPECT_GE(place, 40u);
        asked.push_back(answer);
      }
      EXPECT_EQ(asked, to_copy);
    }
  }
}

TEST(Probes, RefuseSettingsThatMakeNoSense) {
  EXPECT_EQ(error_of([] {
              data::MultiQueryRecall{8192, 64, 17}.check();
            }),
            "multi-query-recall: pairs: expected 1 to 16, found 17");
  EXPECT_EQ(error_of([] {
              data::MultiQueryRecall{8, 64, 4}.check();
            }),
            "multi-query-recall: pairs: expected 1 to 3, found 4");
  EXPECT_EQ(error_of([] {
              data::AssociativeRecall{3, 1}.check();
            }),
            "recall: vocab: expected 4 to 1048576, found 3");
  EXPECT_EQ(error_of([] {
              data::Induction{20, 2}.check();
            }),
            "induction: length: expected 3 to 1048576, found 2");
  EXPECT_EQ(error_of([] {
              data::DelayedCopy{8, 10, -1}.check();
            }),
            "copy: delay: expected 0 to 1048576, found -1");
  EXPECT_EQ(error_of([] {
              data::SelectiveCopy{8, 10, 9}.check();
            }),
            "selective-copy: symbols: expected 1 to 9, found 10");
  EXPECT_EQ(error_of([] {
              data::RecallAfterGap{4, 5}.check();
            }),
            "recall-after-gap: pairs: expected 1 to 4, found 5");
  EXPECT_EQ(error_of([] {
              data::RecallAfterGap{4, 2, -1}.check();
            }),
            "recall-after-gap: gap: expected 0 to 1048576, found -1");
  EXPECT_EQ(error_of([] {
              data::RecallAfterGap{4, 2, 8, 0}.check();
            }),
            "recall-after-gap: noise: expected 1 to 262144, found 0");
}

template <class Probe>
void write(const Probe& probe, uint64_t seed, const data::ProbeSizes& sizes,
           const std::string& folder) {
  data::write_probes(data::kind_of(probe), seed, sizes, folder);
}

TEST(ProbeFiles, AreAFunctionOfTheSeed) {
  const TemporaryFolder folder;
  const data::Induction probe;
  write(probe, 1, {50, 20}, folder / "a");
  write(probe, 1, {50, 20}, folder / "b");
  write(probe, 2, {50, 20}, folder / "c");
  for (const char* name : {"/train.jsonl", "/test.jsonl", "/tokenizer.json"})
    EXPECT_EQ(io::read_file(folder / "a" + name), io::read_file(folder / "b" + name));
  EXPECT_NE(io::read_file(folder / "a/train.jsonl"), io::read_file(folder / "c/train.jsonl"));
}

// What is text is learnt as text, and asked as a question.
TEST(ProbeFiles, TargetsOfTrainAndTest) {
  const TemporaryFolder folder;
  const auto read = [&](const auto& probe, const std::string& part) {
    write(probe, 1, {50, 20}, folder.path());
    std::vector<ProbeSequence> all;
    data::ProbeReader reader(folder / (part + ".jsonl"), probe.ids());
    for (ProbeSequence sequence; reader.next(sequence);) all.push_back(sequence);
    return all;
  };
  const auto expect_drawn = [&](const auto& probe, const std::string& part) {
    Random same(mix_key(1, fmt::format("{} {}", probe.kName, part)));
    for (const ProbeSequence& sequence : read(probe, part)) {
      const ProbeSequence want = probe.draw(same);
      EXPECT_EQ(sequence.input, want.input);
      EXPECT_EQ(sequence.target, want.target);
    }
  };
  expect_drawn(data::MultiQueryRecall{}, "train");
  expect_drawn(data::MultiQueryRecall{}, "test");
  expect_drawn(data::AssociativeRecall{}, "test");
  Random same(mix_key(1, "recall train"));
  const auto train = read(data::AssociativeRecall{}, "train");
  EXPECT_EQ(train.size(), 50u);
  for (const ProbeSequence& sequence : train) {
    const ProbeSequence want = data::AssociativeRecall{}.draw(same);
    EXPECT_EQ(sequence.input, want.input);
    EXPECT_TRUE(std::equal(want.input.begin() + 1, want.input.end(), sequence.target.begin()));
    EXPECT_EQ(sequence.target.back(), want.target.back());
  }
}

// A probe with few sequences: those of test are the ones that train does not have.
TEST(ProbeFiles, NoTestSequenceStandsInTrain) {
  const TemporaryFolder folder;
  write(data::Induction{5, 4}, 1, {40, 200}, folder / "out");
  const auto lines = [&](const std::string& name) {
    std::ifstream file(folder / "out/" + name);
    std::vector<std::string> all;
    for (std::string line; std::getline(file, line);) all.push_back(line);
    return all;
  };
  const auto train = lines("train.jsonl"), test = lines("test.jsonl");
  const std::set<std::string> known(train.begin(), train.end());
  EXPECT_EQ(train.size(), 40u);
  EXPECT_EQ(test.size(), 200u);
  for (const std::string& line : test) EXPECT_FALSE(known.contains(line));
  const std::string error = error_of([&] {
    write(data::Induction{3, 3}, 1, {1000, 1}, folder / "none");
  });
  EXPECT_NE(error.find("hardly a sequence that does not stand in train"), error.npos) << error;
}

TEST(ProbeFiles, TheTokenizerNamesIds) {
  const TemporaryFolder folder;
  write(data::Induction{}, 1, {2, 1}, folder.path());
  const auto tokenizer = text::Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.vocab_size(), 20);
  for (int32_t id = 0; id < 20; ++id) EXPECT_EQ(tokenizer.id_of(fmt::format("<{}>", id)), id);
  const std::vector<int32_t> ids = {3, 0, 19};
  EXPECT_EQ(tokenizer.encode("<3> <0><19>", true), ids);
  EXPECT_EQ(tokenizer.decode(ids), "<3><0><19>");
}

TEST(ProbeFiles, HostileLinesAreNamed) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& line) {
    const std::string path = folder.put("p.jsonl", "{\"input\":[1,2],\"target\":[-1,3]}\n" + line);
    const std::string what = error_of([&] {
      data::ProbeReader reader(path, 10);
      ProbeSequence sequence;
      while (reader.next(sequence)) {
      }
    });
    EXPECT_TRUE(what == "(no error)" || what.starts_with(path + ": line 2: ")) << what;
    return what.substr(std::min(what.size(), path.size() + 10));
  };
  const auto both = [](const std::string& input, const std::string& target) {
    return "{\"input\":" + input + ",\"target\":" + target + "}";
  };
  EXPECT_EQ(error(both("[0,9]", "[9,0]")), "");
  EXPECT_EQ(error(both("[0]", "[-1]")), "target: nothing is asked");
  EXPECT_EQ(error(both("[1,2]", "[1]")), "2 ids in input, 1 in target, expected as many");
  EXPECT_EQ(error(both("[]", "[]")), "input: expected a list of ids, found a list");
  EXPECT_EQ(error(both("{}", "[1]")), "input: expected a list of ids, found an object");
  EXPECT_EQ(error(both("\"1\"", "[1]")), "input: expected a list of ids, found \"1\"");
  for (const char* id :
       {"10", "-1", "1.0", "1e0", "\"1\"", "null", "true", "[1]", "18446744073709551615",
        "9223372036854775808", "4294967297", "-4294967295"})
    EXPECT_TRUE(error(both(fmt::format("[{}]", id), "[1]"))
                    .starts_with("input: expected ids of 0 to 9, found "))
        << id;
  for (const char* id : {"10", "-2", "0.5", "18446744073709551615", "null"})
    EXPECT_TRUE(error(both("[1]", fmt::format("[{}]", id)))
                    .starts_with("target: expected ids of -1 to 9, found "))
        << id;
  for (const char* line : {"", "[1,2]", "7", "{", "{\"input\":[1]}", "{\"target\":[1]}",
                           "{\"input\":[1],\"input\":[1],\"target\":[1]}", "{} {}"})
    EXPECT_NE(error(std::string(line) + "\n"), "") << line;
}

class ProbeData : public ::testing::Test {
 protected:
  data::DataSet prepare(const std::string& lines) {
    data::write_token_file({.task = "probe", .inputs = {folder_.put("p.jsonl", lines)}}, ten_,
                           folder_ / "p.tokens");
    return data::DataSet::open(folder_ / "p.tokens");
  }

  TemporaryFolder folder_;
  text::Tokenizer ten_ = data::number_tokenizer(10);
  static constexpr const char* kLines =
      "{\"input\":[1,2,3],\"target\":[-1,9,-1]}\n"
      "{\"input\":[0,5],\"target\":[0,4]}\n"
      "{\"input\":[9,8,7,6],\"target\":[-1,-1,-1,0]}\n";
};

TEST_F(ProbeData, BatchesHaveTheTargetsOfTheFile) {
  const data::DataSet set = prepare(kLines);
  EXPECT_EQ(set.task(), "probe");
  EXPECT_EQ(set.sequences(), 3);
  EXPECT_EQ(set.vocab_size(), 10);
  EXPECT_EQ(set.rows(2), 4);
  EXPECT_TRUE(set.directions().empty());
  set.check_tokenizer(ten_);
  data::Batch batch;
  int64_t cursor = 0;
  ASSERT_TRUE(data::next_in_order(set, {.context = 4}, batch, cursor));
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{1, 2, 3, 0, 5, 9, 8, 7, 6}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{-1, 9, -1, 0, 4, -1, -1, -1, 0}));
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int32_t>{0, 3, 5, 9}));
  EXPECT_EQ(batch.supervised, 4);
  EXPECT_FALSE(data::next_in_order(set, {.context = 4}, batch, cursor));

  data::Batches shuffled(set, {.context = 4, .batch_size = 2}, 1);
  std::multiset<std::vector<int32_t>> seen;
  for (int epoch = 0; epoch < 2; ++epoch)
    for (int i = 0; i < 2; ++i) {
      shuffled.next(batch);
      for (size_t b = 0; b + 1 < batch.cu_seqlens.size(); ++b)
        seen.emplace(batch.tokens.begin() + batch.cu_seqlens[b],
                     batch.tokens.begin() + batch.cu_seqlens[b + 1]);
    }
  EXPECT_EQ(seen, (std::multiset<std::vector<int32_t>>{
                      {1, 2, 3}, {1, 2, 3}, {0, 5}, {0, 5}, {9, 8, 7, 6}, {9, 8, 7, 6}}));
  EXPECT_EQ(data::too_long(set, {.context = 3}), (std::vector<int64_t>{2}));
}

TEST_F(ProbeData, SplitsAndPlaces) {
  const data::DataSet set = prepare(kLines);
  const auto [train, valid] = set.split(0.33);
  EXPECT_EQ(train.sequences(), 2);
  EXPECT_EQ(valid.sequences(), 1);
  EXPECT_EQ(valid.rows(0), 4);
  EXPECT_EQ(text::places_of({.task = "probe", .inputs = {"p.jsonl"}}, std::vector<int64_t>{0, 2}),
            (std::vector<std::string>{"p.jsonl: line 1", "p.jsonl: line 3"}));
}

TEST_F(ProbeData, RefusesFilesThatLie) {
  EXPECT_NE(error_of([&] { prepare(""); }).find("no text found"), std::string::npos);
  EXPECT_NE(
      error_of([&] {
        data::write_token_file({.task = "probe", .inputs = {"a", "b"}}, ten_, folder_ / "p.tokens");
      }).find("expected one file of sequences, found a, b"),
      std::string::npos);
  const auto write = [&](const std::vector<int32_t>& input, const std::vector<int32_t>& target) {
    data::TokenFileWriter file(folder_ / "bad", {data::TokenTask::kProbe, 10, 0});
    file.mark_boundary();
    file.add(input);
    file.mark_boundary();
    file.add(target);
    file.commit(0);
    data::Batch batch;
    int64_t cursor = 0;
    data::next_in_order(data::DataSet::open(folder_ / "bad"), {}, batch, cursor);
  };
  EXPECT_NO_THROW(write({1, 2}, {10, 9}));
  EXPECT_NE(error_of([&] {
              write({1, 2}, {10, 9, 1});
            }).find("3 targets of 2 ids"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              write({1, 10}, {10, 9});
            }).find("id 10 in a sequence"),
            std::string::npos);
}

// The label that says nothing is asked is one more than two bytes hold.
TEST_F(ProbeData, TheLargestVocabularyOfTwoBytes) {
  for (const uint64_t vocab : {65535u, 65536u}) {
    const auto nothing = static_cast<int32_t>(vocab);
    data::TokenFileWriter file(folder_ / "wide", {data::TokenTask::kProbe, vocab, 0});
    file.mark_boundary();
    file.add(nothing - 1);
    file.mark_boundary();
    file.add(nothing);
    file.commit(0);
    std::vector<int32_t> ids(2);
    data::DataSet::open(folder_ / "wide").read(0, ids);
    EXPECT_EQ(ids, (std::vector<int32_t>{nothing - 1, nothing}));
  }
}

}  // namespace
}  // namespace refrain

#include "refrain/data/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "refrain/base/random.h"
#include "refrain/data/permutation.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using data::Batch;
using data::BatchConfig;
using data::Batches;
using data::DataSet;
using data::kIgnore;

constexpr int32_t kSourceTag = 1, kTargetTag = 2, kEnd = 3, kFirstWord = 4;

// Text whose ids are 0, 1, 2, ..., so that an id says where it stands.
DataSet counting_text(const TemporaryFolder& folder, int64_t tokens) {
  data::TokenFileWriter file(folder / "text", {data::TokenTask::kLm, 1'000'000, 0});
  file.mark_boundary();
  for (int32_t id = 0; id < tokens; ++id) file.add(id);
  file.commit(tokens);
  return DataSet::open(folder / "text");
}

// Pairs of 1 to `longest` words a side; pair i has nothing but word i.
DataSet pairs(const TemporaryFolder& folder, int32_t count, uint64_t longest, uint64_t seed = 1) {
  data::TokenFileWriter file(folder / "pairs", {data::TokenTask::kTranslate, 1'000'000, 0});
  Random random(seed);
  for (int32_t i = 0; i < count; ++i) {
    file.mark_boundary();
    file.add(kSourceTag);
    for (uint64_t n = 1 + random.below(longest); n > 0; --n) file.add(kFirstWord + i);
    file.add(kTargetTag);
    file.mark_boundary();
    for (uint64_t n = 1 + random.below(longest); n > 0; --n) file.add(kFirstWord + i);
    file.add(kEnd);
  }
  file.commit(0);
  return DataSet::open(folder / "pairs");
}

void expect_consistent(const Batch& batch) {
  ASSERT_GE(batch.sequences(), 1);
  ASSERT_EQ(batch.cu_seqlens.front(), 0);
  ASSERT_EQ(static_cast<size_t>(batch.rows()), batch.tokens.size());
  ASSERT_EQ(batch.tokens.size(), batch.targets.size());
  for (size_t b = 1; b < batch.cu_seqlens.size(); ++b)
    ASSERT_GT(batch.cu_seqlens[b], batch.cu_seqlens[b - 1]);
  const auto supervised = std::count_if(batch.targets.begin(), batch.targets.end(),
                                        [](int32_t target) { return target != kIgnore; });
  ASSERT_EQ(batch.supervised, supervised);
}

bool same(const Batch& a, const Batch& b) {
  return a.tokens == b.tokens && a.targets == b.targets && a.cu_seqlens == b.cu_seqlens;
}

std::vector<Batch> take(Batches& batches, int64_t count) {
  std::vector<Batch> taken(static_cast<size_t>(count));
  for (Batch& batch : taken) {
    batches.next(batch);
    expect_consistent(batch);
  }
  return taken;
}

bool same(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Batch& x, const Batch& y) { return same(x, y); });
}

// Of pairs(): the pairs in a batch, having checked what is supervised.
std::vector<int32_t> pairs_in(const Batch& batch) {
  std::vector<int32_t> found;
  for (int64_t b = 0; b < batch.sequences(); ++b) {
    const auto begin = static_cast<size_t>(batch.cu_seqlens[static_cast<size_t>(b)]);
    const auto end = static_cast<size_t>(batch.cu_seqlens[static_cast<size_t>(b) + 1]);
    EXPECT_EQ(batch.tokens[begin], kSourceTag);
    const int32_t word = batch.tokens[begin + 1];
    bool in_target = false;
    for (size_t i = begin; i < end; ++i) {
      in_target = in_target || batch.tokens[i] == kTargetTag;
      const int32_t next = i + 1 < end ? batch.tokens[i + 1] : kEnd;
      EXPECT_EQ(batch.targets[i], in_target ? next : kIgnore);
    }
    found.push_back(word - kFirstWord);
  }
  return found;
}

TEST(Permutation, IsOne) {
  for (const uint64_t n : {1u, 2u, 3u, 4u, 5u, 16u, 17u, 100u, 1000u, 4097u}) {
    for (const uint64_t key : {0u, 1u, 77u}) {
      const data::Permutation permutation(n, key);
      std::set<uint64_t> images;
      for (uint64_t i = 0; i < n; ++i) {
        EXPECT_LT(permutation(i), n);
        images.insert(permutation(i));
      }
      EXPECT_EQ(images.size(), n);
    }
  }
  const data::Permutation large(uint64_t{1} << 63, 5);
  EXPECT_LT(large((uint64_t{1} << 63) - 1), uint64_t{1} << 63);
}

// Over many keys every element goes everywhere about as often: 3-sigma bounds of a binomial, twice
// as wide.
TEST(Permutation, FavoursNoPlace) {
  for (const uint64_t n : {3u, 6u, 10u}) {
    constexpr int kKeys = 6000;
    std::vector<int> seen(n * n);
    for (uint64_t key = 0; key < kKeys; ++key) {
      const data::Permutation permutation(n, mix_key(key, "test"));
      for (uint64_t i = 0; i < n; ++i) ++seen[i * n + permutation(i)];
    }
    const double expected = kKeys / static_cast<double>(n);
    for (const int count : seen) EXPECT_NEAR(count, expected, 6 * std::sqrt(expected));
  }
}

TEST(Batches, LmWindowsTileTheText) {
  const TemporaryFolder folder;
  const DataSet text = counting_text(folder, 1003);
  const BatchConfig config{.context = 10, .batch_size = 7};
  Batches batches(text, config, 3);
  std::set<int32_t> offsets;
  for (uint64_t epoch = 0; epoch < 20; ++epoch) {
    batches.seek({epoch, 0});
    std::vector<int32_t> starts;
    const auto taken = take(batches, batches.batches_in_epoch());
    EXPECT_EQ(batches.position(), (Batches::Position{epoch, batches.batches_in_epoch()}));
    for (size_t i = 0; i < taken.size(); ++i) {
      EXPECT_TRUE(taken[i].sequences() == 7 || i + 1 == taken.size());
      for (int64_t b = 0; b < taken[i].sequences(); ++b) {
        const auto at = static_cast<size_t>(taken[i].cu_seqlens[static_cast<size_t>(b)]);
        starts.push_back(taken[i].tokens[at]);
        for (size_t row = at; row < at + 10; ++row) {
          EXPECT_EQ(taken[i].tokens[row], starts.back() + static_cast<int32_t>(row - at));
          EXPECT_EQ(taken[i].targets[row], taken[i].tokens[row] + 1);
        }
      }
      EXPECT_EQ(taken[i].rows(), taken[i].sequences() * 10);
    }
    EXPECT_FALSE(std::is_sorted(starts.begin(), starts.end()));
    std::sort(starts.begin(), starts.end());
    for (size_t i = 1; i < starts.size(); ++i) EXPECT_EQ(starts[i], starts[i - 1] + 10);
    EXPECT_LT(starts.front(), 10);
    EXPECT_GT(starts.back() + 10 + 10, 1002);  // no further window would fit
    offsets.insert(starts.front());
  }
  EXPECT_GT(offsets.size(), 5u);
  EXPECT_EQ(batches.padding_efficiency(), 1);
  EXPECT_EQ(batches.skipped(), 0);
}

TEST(Batches, OrderIsAFunctionOfSeedAndEpoch) {
  const TemporaryFolder folder;
  const DataSet text = counting_text(folder, 500), sentences = pairs(folder, 200, 9);
  for (const auto& [set, config] :
       {std::pair(&text, BatchConfig{.context = 8, .batch_size = 4}),
        std::pair(&sentences, BatchConfig{.context = 64, .batch_size = 16}),
        std::pair(&sentences, BatchConfig{.context = 64, .max_tokens = 100})}) {
    Batches a(*set, config, 1), b(*set, config, 1), other(*set, config, 2);
    const auto first = take(a, a.batches_in_epoch());
    EXPECT_TRUE(same(first, take(b, b.batches_in_epoch())));
    EXPECT_FALSE(same(first, take(other, other.batches_in_epoch())));
    const auto second = take(a, 5);
    EXPECT_EQ(a.position(), (Batches::Position{1, 5}));
    EXPECT_FALSE(same(second, {first.begin(), first.begin() + 5}));
    b.seek({7, 3});  // whatever came before
    b.seek({1, 0});
    EXPECT_TRUE(same(second, take(b, 5)));
    b.seek({0, 0});
    EXPECT_TRUE(same(first, take(b, b.batches_in_epoch())));
  }
}

TEST(Batches, SeekResumesExactly) {
  const TemporaryFolder folder;
  const DataSet text = counting_text(folder, 333), sentences = pairs(folder, 50, 9);
  for (const auto& [set, config] :
       {std::pair(&text, BatchConfig{.context = 8, .batch_size = 4}),
        std::pair(&sentences, BatchConfig{.context = 64, .batch_size = 16}),
        std::pair(&sentences, BatchConfig{.context = 64, .max_tokens = 100})}) {
    Batches through(*set, config, 9);
    for (int step = 0; step < 40; ++step) {
      Batches resumed(*set, config, 9);
      resumed.seek(through.position());
      EXPECT_EQ(resumed.position(), through.position());
      Batch expected, found;
      through.next(expected);
      resumed.next(found);
      EXPECT_TRUE(same(expected, found));
      EXPECT_EQ(resumed.position(), through.position());
    }
    EXPECT_GT(through.position().epoch, 1u);
  }
}

TEST(Batches, StreamsAreReadSideBySide) {
  const TemporaryFolder folder;
  const DataSet data = counting_text(folder, 75);  // 3 streams of 24, two ids left over
  const BatchConfig config{.context = 50, .batch_size = 3, .stream_chunk = 7};
  Batches batches(data, config, 1);
  EXPECT_EQ(batches.batches_in_epoch(), 4);
  Batch batch;
  for (int epoch = 0; epoch < 2; ++epoch)
    for (int64_t past = 0; past < 24; past += 7) {
      batches.next(batch);
      expect_consistent(batch);
      EXPECT_EQ(batch.past_length, past);
      ASSERT_EQ(batch.sequences(), 3);
      const int64_t rows = std::min<int64_t>(7, 24 - past);
      ASSERT_EQ(batch.rows(), 3 * rows);
      for (int64_t b = 0; b < 3; ++b)
        for (int64_t t = 0; t < rows; ++t) {
          EXPECT_EQ(batch.tokens[static_cast<size_t>(b * rows + t)], 24 * b + past + t);
          EXPECT_EQ(batch.targets[static_cast<size_t>(b * rows + t)], 24 * b + past + t + 1);
        }
    }
  Batches again(data, config, 1);
  again.seek({0, 2});
  again.next(batch);
  EXPECT_EQ(batch.past_length, 14);
  EXPECT_EQ(batch.tokens[0], 14);
  EXPECT_NE(error_of([&] { Batches(counting_text(folder, 3), config, 1); }), "");
  EXPECT_NE(error_of([&] { Batches(pairs(folder, 9, 3), config, 1); }), "");
}

TEST(Batches, RefusesAPositionTheDataDoesNotHave) {
  const TemporaryFolder folder;
  Batches batches(counting_text(folder, 100), {.context = 10, .batch_size = 3}, 1);
  Batch before, after;
  batches.next(before);
  EXPECT_NE(error_of([&] {
              batches.seek({4, 5});
            }).find("batch 5 of epoch 4, which has 3"),
            std::string::npos);
  EXPECT_NE(error_of([&] { batches.seek({4, -1}); }), "(no error)");
  batches.seek({UINT64_MAX, 1});
  batches.seek({0, 0});
  batches.next(after);
  EXPECT_TRUE(same(before, after));
}

TEST(Batches, PairsComeOnceAnEpoch) {
  const TemporaryFolder folder;
  const DataSet set = pairs(folder, 301, 12);
  std::vector<int32_t> all(301);
  std::iota(all.begin(), all.end(), 0);
  for (const BatchConfig& config : {BatchConfig{.context = 64, .batch_size = 16},
                                    BatchConfig{.context = 64, .max_tokens = 120}}) {
    Batches batches(set, config, 1);
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
      batches.seek({epoch, 0});
      std::vector<int32_t> found;
      for (const Batch& batch : take(batches, batches.batches_in_epoch())) {
        const auto in_batch = pairs_in(batch);
        found.insert(found.end(), in_batch.begin(), in_batch.end());
      }
      EXPECT_FALSE(std::is_sorted(found.begin(), found.end()));
      std::sort(found.begin(), found.end());
      EXPECT_EQ(found, all);
    }
  }
}

TEST(Batches, FillsUpToMaxTokensWithLikeLengths) {
  const TemporaryFolder folder;
  const DataSet set = pairs(folder, 3000, 30);
  Batches bucketed(set, {.context = 100, .max_tokens = 600}, 1);
  int64_t used = 0, padded = 0;
  std::vector<int64_t> longest_of;
  for (const Batch& batch : take(bucketed, bucketed.batches_in_epoch())) {
    int64_t longest = 0;
    for (size_t b = 0; b + 1 < batch.cu_seqlens.size(); ++b)
      longest = std::max<int64_t>(longest, batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]);
    EXPECT_LE(longest * batch.sequences(), 600);
    used += batch.rows();
    padded += longest * batch.sequences();
    longest_of.push_back(longest);
  }
  EXPECT_DOUBLE_EQ(bucketed.padding_efficiency(),
                   static_cast<double>(used) / static_cast<double>(padded));
  EXPECT_GT(bucketed.padding_efficiency(), 0.95);
  EXPECT_GT(static_cast<double>(padded), 0.93 * 600 * static_cast<double>(longest_of.size()));
  // Shuffled: lengths do not climb from the first batch to the last.
  EXPECT_FALSE(std::is_sorted(longest_of.begin(), longest_of.begin() + 20));

  // Without buckets the order is what was drawn, and much of a batch would be padding.
  Batches mixed(set, {.context = 100, .max_tokens = 600, .buckets = false}, 1);
  std::set<int32_t> firsts;
  for (const Batch& batch : take(mixed, mixed.batches_in_epoch()))
    firsts.insert(batch.tokens[1]);  // of distinct pairs
  EXPECT_EQ(std::ssize(firsts), mixed.batches_in_epoch());
  EXPECT_LT(mixed.padding_efficiency(), 0.75);
  EXPECT_GT(mixed.batches_in_epoch(), bucketed.batches_in_epoch());

  const Batches plain(set, {.context = 100, .batch_size = 20}, 1);
  EXPECT_LT(plain.padding_efficiency(), 0.75);
  EXPECT_EQ(plain.batches_in_epoch(), 150);
}

TEST(Batches, HoldForDataSmallerThanABatch) {
  const TemporaryFolder folder;
  Batch batch;
  for (int64_t tokens = 9; tokens < 30; ++tokens) {
    Batches lm(counting_text(folder, tokens), {.context = 8, .batch_size = 100}, 1);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(lm.batches_in_epoch(), 1);
      lm.next(batch);
      expect_consistent(batch);
      EXPECT_GE(batch.sequences(), std::max<int64_t>(1, (tokens - 1) / 8 - 1));
    }
  }
  for (const BatchConfig& config : {BatchConfig{.context = 64, .batch_size = 16},
                                    BatchConfig{.context = 64, .max_tokens = 2000}}) {
    Batches one(pairs(folder, 1, 5), config, 1);
    for (int i = 0; i < 3; ++i) {
      one.next(batch);
      EXPECT_EQ(pairs_in(batch), std::vector<int32_t>{0});
    }
    EXPECT_EQ(one.position(), (Batches::Position{2, 1}));
    EXPECT_EQ(one.padding_efficiency(), 1);
  }
}

TEST(Batches, LeavesOutLongPairsOrRefusesThem) {
  const TemporaryFolder folder;
  const DataSet set = pairs(folder, 200, 20);
  BatchConfig config{.context = 24, .batch_size = 8};
  Batches batches(set, config, 1);
  EXPECT_GT(batches.skipped(), 20);
  EXPECT_EQ(batches.skipped(), std::ssize(data::too_long(set, config)));
  int64_t found = 0;
  for (const Batch& batch : take(batches, batches.batches_in_epoch())) {
    for (size_t b = 0; b + 1 < batch.cu_seqlens.size(); ++b)
      EXPECT_LE(batch.cu_seqlens[b + 1] - batch.cu_seqlens[b], 24);
    found += batch.sequences();
  }
  EXPECT_EQ(found + batches.skipped(), 200);

  // What does not fit in a batch is too long as well.
  Batches small(set, {.context = 64, .max_tokens = 24}, 1);
  EXPECT_EQ(small.skipped(), batches.skipped());

  config.skip_long = false;
  EXPECT_NE(error_of([&] { Batches refused(set, config, 1); }).find("expected at most 24"),
            std::string::npos);
  config = {.context = 3, .batch_size = 8};
  EXPECT_NE(error_of([&] { Batches refused(set, config, 1); }).find("no pair is at most 3 tokens"),
            std::string::npos);
}

TEST(Batches, RefuseWhatCannotBe) {
  const TemporaryFolder folder;
  const DataSet text = counting_text(folder, 64);
  const auto error = [&](const BatchConfig& config) {
    return error_of([&] { Batches batches(text, config, 1); });
  };
  EXPECT_NE(error({.context = 64}).find("64 ids of text, expected at least 65 for a context of 64"),
            std::string::npos);
  EXPECT_EQ(error({.context = 63}), "(no error)");
  EXPECT_EQ(error({.context = 0}), "context 0: expected at least 1");
  EXPECT_EQ(error({.context = 8, .batch_size = 0}), "batch_size 0: expected at least 1");
  EXPECT_EQ(error({.context = 8, .max_tokens = -1}), "max_tokens -1: expected at least 0");
  EXPECT_EQ(error({.context = 8, .max_tokens = 7}), "max_tokens 7: expected at least 8");
  EXPECT_NE(error({.context = 8, .max_tokens = INT64_MAX}).find("at most 2147483647"),
            std::string::npos);
  EXPECT_EQ(error({.context = 8, .batch_size = INT64_MAX}), "(no error)");
}

TEST(InOrder, EveryIdButTheFirstIsATargetOnce) {
  const TemporaryFolder folder;
  for (const int64_t tokens : {2, 3, 8, 9, 10, 16, 17, 18, 100}) {
    const DataSet text = counting_text(folder, tokens);
    for (const BatchConfig& config : {BatchConfig{.context = 8, .batch_size = 3},
                                      BatchConfig{.context = 8, .max_tokens = 17}}) {
      Batch batch;
      int64_t cursor = 0;
      int32_t last = 0;
      while (data::next_in_order(text, config, batch, cursor)) {
        expect_consistent(batch);
        EXPECT_LE(batch.sequences(), config.max_tokens ? 2 : 3);
        for (size_t i = 0; i < batch.targets.size(); ++i) {
          EXPECT_EQ(batch.tokens[i], last);
          EXPECT_EQ(batch.targets[i], ++last);
        }
      }
      EXPECT_EQ(last, tokens - 1);
      EXPECT_FALSE(data::next_in_order(text, config, batch, cursor));
    }
  }
  Batch batch;
  int64_t cursor = 0;
  const DataSet one = counting_text(folder, 1);
  EXPECT_NE(error_of([&] { data::next_in_order(one, {}, batch, cursor); }).find("at least 2"),
            std::string::npos);
}

TEST(InOrder, PairsComeInFileOrder) {
  const TemporaryFolder folder;
  const DataSet set = pairs(folder, 100, 20);
  for (const BatchConfig& config : {BatchConfig{.context = 30, .batch_size = 7},
                                    BatchConfig{.context = 30, .max_tokens = 90}}) {
    std::vector<int32_t> found;
    Batch batch;
    int64_t cursor = 0;
    while (data::next_in_order(set, config, batch, cursor)) {
      expect_consistent(batch);
      const auto in_batch = pairs_in(batch);
      found.insert(found.end(), in_batch.begin(), in_batch.end());
    }
    EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
    const std::vector<int64_t> long_ones = data::too_long(set, config);
    EXPECT_EQ(found.size() + long_ones.size(), 100u);
    EXPECT_FALSE(long_ones.empty());
    for (const int64_t i : long_ones)
      EXPECT_GT(set.pair(i).end - set.pair(i).begin - 1, data::longest(config));
  }
}

}  // namespace
}  // namespace refrain

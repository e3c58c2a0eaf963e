#include "refrain/kernels/elementwise/dropout.h"

#include "refrain/kernels/elementwise/dropout_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

constexpr uint64_t kKey = 0x0123456789abcdef;

TEST(Dropout, MatchesReference) {
  // Ids that use both halves of the counter.
  const std::vector<uint64_t> ids = {0, 1, uint64_t{7} << 32 | 3, ~uint64_t{0}};
  for (int64_t n : awkward_sizes()) {
    const int64_t misalign = n % 4;
    SCOPED_TRACE(n);
    for (float p : {1e-8f, 0.1f, 0.5f, 0.999f}) {
      ReferenceArray<double> want(Floats({4, n}, 0, 1).tensor());
      kernels::dropout_ref(want.tensor(), p, kKey, std::span<const uint64_t>(ids));
      for_each_target([&] {
        Floats x({4, n}, misalign, 1);
        kernels::dropout_apply(x, p, kKey, ids);
        expect_close(x.span(), want.values(), 2, 0);
      });
    }
  }
}

TEST(Dropout, DropsTheRightShareAndKeepsTheMean) {
  constexpr int64_t kRows = 500, n = 400;
  std::vector<uint64_t> ids;
  for (uint64_t r = 0; r < kRows; ++r) ids.push_back(r);
  Floats x({kRows, n});
  x.fill(1);
  kernels::dropout_apply(x, 0.25f, kKey, ids);
  double dropped = 0, sum = 0;
  for (float v : x.span()) {
    dropped += v == 0;
    sum += v;
  }
  // Standard deviation of the share: sqrt(0.25 * 0.75 / 200000) = 0.001.
  EXPECT_NEAR(dropped / (kRows * n), 0.25, 0.004);
  EXPECT_NEAR(sum / (kRows * n), 1, 0.006);
}

TEST(Dropout, NoRateNoChange) {
  Floats x({2, 9}, 0, 1);
  const Floats was({2, 9}, 0, 1);
  kernels::dropout_apply(x, 0, kKey, std::vector<uint64_t>{1, 2});
  EXPECT_TRUE(same_bits(x.span(), was.span()));
  EXPECT_THROW(kernels::dropout_apply(x, 1, kKey, std::vector<uint64_t>{1, 2}), std::logic_error);
  EXPECT_THROW(kernels::dropout_apply(x, 0.1f, kKey, std::vector<uint64_t>{1}), std::logic_error);
}

TEST(Dropout, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kRows = 203, n = 301;
  std::vector<uint64_t> ids;
  for (uint64_t r = 0; r < kRows; ++r) ids.push_back(r << 32 | r);
  expect_law(kRows, [&](const std::vector<int64_t>& pieces) {
    Floats x({kRows, n}, 1, 1);
    int64_t first = 0;
    for (int64_t rows : pieces) {
      kernels::dropout_apply(x.tensor().slice(first, rows), 0.3f, kKey,
                             std::span<const uint64_t>(ids).subspan(static_cast<size_t>(first),
                                                                    static_cast<size_t>(rows)));
      first += rows;
    }
    return all_of({&x});
  });
}

}  // namespace
}  // namespace refrain

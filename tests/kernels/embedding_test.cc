#include "refrain/kernels/elementwise/embedding.h"

#include "refrain/kernels/elementwise/embedding_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

const std::vector<int32_t> kTokens = {3, 0, 3,
                                      6, 3, 0};  // with repeats, first and last of the table
constexpr int64_t kVocab = 7, kRows = 6;

TEST(Embedding, CopiesRows) {
  for (int64_t n : awkward_sizes()) {
    const Floats table({kVocab, n}, n % 4, 1);
    Floats out({kRows, n}, n % 3);
    kernels::embedding_forward(kTokens, table, out);
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t i = 0; i < n; ++i)
        ASSERT_EQ(out[r * n + i], table[kTokens[static_cast<size_t>(r)] * n + i]);
  }
}

TEST(Embedding, BackwardIsTheComplexStep) {
  for (int64_t n : {1, 3, 8, 16, 17, 33}) {
    SCOPED_TRACE(n);
    const Floats table({kVocab, n}, 0, 1), dout({kRows, n}, n % 4, 2);
    ReferenceArray<Complex> ttable(table), tout({kRows, n});
    std::vector<double> want = complex_step(ttable.values(), [&] {
      kernels::embedding_ref(kTokens, ttable.tensor(), tout.tensor());
      return dot(dout.span(), tout.values());
    });
    for (double& v : want) v += 0.5;
    for_each_target([&] {
      Floats dtable({kVocab, n}, n % 3);
      dtable.fill(0.5f);
      kernels::embedding_backward(kTokens, dout, dtable);
      expect_close(dtable.span(), want, 8, 4);
    });
  }
}

TEST(Embedding, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kMany = 401, n = 150;
  const Floats dout({kMany, n}, 1, 1);
  std::vector<int32_t> tokens;
  for (int32_t r = 0; r < kMany; ++r) tokens.push_back(r * r % kVocab);
  expect_law(kMany, [&](const std::vector<int64_t>& pieces) {
    Floats dtable({kVocab, n}, 0, 2), out({kMany, n});
    int64_t first = 0;
    for (int64_t rows : pieces) {
      const auto some = std::span<const int32_t>(tokens).subspan(static_cast<size_t>(first),
                                                                 static_cast<size_t>(rows));
      kernels::embedding_backward(some, dout.tensor().slice(first, rows), dtable);
      first += rows;
    }
    kernels::embedding_forward(tokens, dtable, out);
    return all_of({&dtable, &out});
  });
}

TEST(Embedding, RefusesTokensOutsideTheTable) {
  const Floats table({kVocab, 4}, 0, 1);
  Floats out({1, 4});
  for (int32_t token : {-1, 7, INT32_MIN, INT32_MAX})
    EXPECT_THROW(kernels::embedding_forward(std::vector<int32_t>{token}, table, out),
                 std::logic_error);
}

}  // namespace
}  // namespace refrain

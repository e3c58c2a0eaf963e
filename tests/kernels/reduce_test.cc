#include "refrain/kernels/elementwise/reduce.h"

#include "refrain/kernels/elementwise/reduce_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

TEST(Reduce, AddScaleAndCopyAreWhatTheySay) {
  for (int64_t n : awkward_sizes()) {
    SCOPED_TRACE(n);
    const Floats a({n}, n % 4, 1), b({n}, n % 3, 2);
    for_each_target([&] {
      Floats out({n}, 1), in_place({n}, 2), copied({n}, 3);
      kernels::copy(a, in_place);
      EXPECT_TRUE(same_bits(in_place.span(), a.span()));
      kernels::add(a, b, out);
      kernels::add(in_place, b, in_place);
      kernels::copy(out, copied);
      kernels::scale(copied, 0.3f);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(out[i], a[i] + b[i]);
        ASSERT_EQ(in_place[i], out[i]);
        ASSERT_EQ(copied[i], out[i] * 0.3f);
      }
    });
  }
  Floats three({3}), four({4});
  EXPECT_THROW(kernels::add(three, three, four), std::logic_error);
  EXPECT_THROW(kernels::copy(three, four), std::logic_error);
}

TEST(Reduce, ARowIsAddedToEveryRow) {
  for (int64_t n : awkward_sizes()) {
    SCOPED_TRACE(n);
    const Floats b({n}, n % 4, 1), start({5, n}, 0, 2);
    for_each_target([&] {
      Floats y({5, n}, 0, 2);
      kernels::add_row(y, b);
      for (int64_t i = 0; i < 5 * n; ++i) ASSERT_EQ(y[i], start[i] + b[i % n]);
    });
  }
  Floats rows({2, 3}), four({4});
  EXPECT_THROW(kernels::add_row(rows, four), std::logic_error);
}

TEST(Reduce, RowsAreCentred) {
  for (int64_t n : awkward_sizes()) {
    SCOPED_TRACE(n);
    Floats x({3, n}, n % 4, 1);
    for (int64_t i = 0; i < n; ++i) x[i] += 100;  // of one row
    ReferenceArray<double> tx(x), want({3, n});
    kernels::center_rows_ref(tx.tensor(), want.tensor());
    for_each_target([&] {
      Floats y({3, n}, n % 3), in_place({3, n}, 1);
      kernels::copy(x, in_place);
      kernels::center_rows(x, y);
      kernels::center_rows(in_place, in_place);
      EXPECT_TRUE(same_bits(in_place.span(), y.span()));
      for (int64_t i = 0; i < 3 * n; ++i)
        ASSERT_NEAR(y[i], want.values()[static_cast<size_t>(i)], i < n ? 2e-5 : 1e-6);
    });
  }
}

TEST(Reduce, ColumnSumIsAddedToWhatIsThere) {
  for (int64_t n : awkward_sizes()) {
    for (int64_t rows : {1, 4, 7}) {
      SCOPED_TRACE(n);
      const Floats dy({rows, n}, n % 4, 1);
      ReferenceArray<double> tdy(dy), want(Floats({n}, 0, 2).tensor());
      kernels::column_sum_ref(tdy.tensor(), want.tensor());
      for_each_target([&] {
        Floats db({n}, n % 3, 2);
        kernels::column_sum_add(dy, db);
        expect_close(db.span(), want.values(), 8, 4);
      });
    }
  }
}

// The order itself: one chain of additions down the rows.
TEST(Reduce, ColumnSumIsOneChainInRowOrder) {
  constexpr int64_t kRows = 11, n = 37;
  const Floats dy({kRows, n}, 0, 1);
  for_each_target([&] {
    Floats db({n}, 0, 2);
    std::vector<float> want(db.span().begin(), db.span().end());
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t j = 0; j < n; ++j) want[static_cast<size_t>(j)] += dy[r * n + j];
    kernels::column_sum_add(dy, db);
    EXPECT_TRUE(same_bits(db.span(), want));
  });
}

TEST(Reduce, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kRows = 401, n = 250;
  const Floats dy({kRows, n}, 1, 1);
  expect_law(kRows, [&](const std::vector<int64_t>& pieces) {
    Floats db({n}, 0, 2), sum({kRows, n});
    int64_t first = 0;
    for (int64_t rows : pieces) {
      const Tensor part = dy.tensor().slice(first, rows), out = sum.tensor().slice(first, rows);
      kernels::column_sum_add(part, db);
      kernels::add(part, part, out);
      kernels::scale(out, 0.7f);
      first += rows;
    }
    return all_of({&db, &sum});
  });
}

}  // namespace
}  // namespace refrain

#include "refrain/kernels/elementwise/rms_norm.h"

#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/elementwise/rms_norm_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

constexpr float kEps = 1e-5f;
constexpr int64_t kRows = 5;
// A row's sum is off by a few roundings of its terms, and every output is a few operations on it.
constexpr double kUlps = 16;

TEST(RmsNorm, ForwardMatchesReference) {
  for (int64_t n : awkward_sizes()) {
    for (int64_t misalign : {0, 1, 3}) {
      SCOPED_TRACE(testing::Message() << n << " misaligned by " << misalign);
      const Floats x({kRows, n}, misalign, 1), w({n}, misalign, 2), delta({kRows, n}, misalign, 3);
      ReferenceArray<double> tx(x), tw(w), ty({kRows, n}), tr({kRows});
      kernels::rms_norm_ref(tx.tensor(), tw.tensor(), kEps, ty.tensor(), tr.tensor());
      for_each_target([&] {
        Floats y({kRows, n}, misalign), r({kRows}, misalign), again({kRows, n}, misalign);
        kernels::rms_norm_forward(x, {w, kEps}, y, r);
        expect_close(y.span(), ty.values(), kUlps, 0);
        expect_close(r.span(), tr.values(), kUlps, 0);
        kernels::rms_norm_apply(x, w, r, again);
        EXPECT_TRUE(same_bits(again.span(), y.span()));

        // The fused form is an addition, then the norm; into its own input, too.
        Floats sum({kRows, n}, misalign), fused_sum({kRows, n}, misalign, 1);
        Floats fused_y({kRows, n}, misalign), fused_r({kRows}, misalign);
        kernels::add(x, delta, sum);
        kernels::rms_norm_forward(sum, {w, kEps}, y, r);
        kernels::residual_rms_norm_forward(fused_sum, delta, {w, kEps}, fused_sum, fused_y,
                                           fused_r);
        EXPECT_TRUE(same_bits(fused_sum.span(), sum.span()));
        EXPECT_TRUE(same_bits(fused_y.span(), y.span()));
        EXPECT_TRUE(same_bits(fused_r.span(), r.span()));
      });
    }
  }
}

TEST(RmsNorm, BackwardIsTheComplexStep) {
  for (int64_t n : awkward_sizes()) {
    const int64_t misalign = n % 4;
    SCOPED_TRACE(n);
    const Floats x({kRows, n}, misalign, 1), w({n}, misalign, 2), dy({kRows, n}, misalign, 3);
    ReferenceArray<Complex> tx(x), tw(w), ty({kRows, n}), tr({kRows});
    const auto loss = [&] {
      kernels::rms_norm_ref(tx.tensor(), tw.tensor(), kEps, ty.tensor(), tr.tensor());
      return dot(dy.span(), ty.values());
    };
    std::vector<double> dx = complex_step(tx.values(), loss), dw = complex_step(tw.values(), loss);
    std::vector<double> dx_added = dx;
    for (double& d : dx_added) d += 0.25;
    for (double& d : dw) d += 0.5;
    // Both gradients are differences of terms of this size.
    double size = 0;
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t i = 0; i < n; ++i)
        size = std::max(size, std::abs(tr[row].real() * w[i] * dy[row * n + i]));

    for_each_target([&] {
      Floats y({kRows, n}, misalign), r({kRows}, misalign);
      kernels::rms_norm_forward(x, {w, kEps}, y, r);
      Floats got_dx({kRows, n}, misalign), got_dw({n}, misalign);
      got_dw.fill(0.5f);
      kernels::rms_norm_backward(x, w, r, dy, {got_dx, got_dw, false});
      expect_close(got_dx.span(), dx, kUlps, size);
      expect_close(got_dw.span(), dw, kUlps, 4);

      got_dx.fill(0.25f);
      kernels::rms_norm_backward(x, w, r, dy, {got_dx, got_dw, true});
      expect_close(got_dx.span(), dx_added, kUlps, size);
    });
  }
}

TEST(RmsNorm, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kMany = 203, n = 301;
  const Floats x({kMany, n}, 1, 1), w({n}, 0, 2), dy({kMany, n}, 2, 3);
  expect_law(kMany, [&](const std::vector<int64_t>& pieces) {
    Floats y({kMany, n}), r({kMany}), sum({kMany, n}), dx({kMany, n}, 0, 4), dw({n}, 3, 5);
    int64_t first = 0;
    for (int64_t rows : pieces) {
      const auto part = [&](const Floats& f) { return f.tensor().slice(first, rows); };
      const Tensor part_r{r.tensor().data + first, {rows}};
      kernels::residual_rms_norm_forward(part(x), part(dy), {w, kEps}, part(sum), part(y), part_r);
      kernels::rms_norm_backward(part(sum), w, part_r, part(dy), {part(dx), dw, true});
      first += rows;
    }
    return all_of({&y, &r, &sum, &dx, &dw});
  });
}

// Without eps, a row 2^k as large has the same norm, and 2^-k the gradient: also where its squares
// are not in float32's range.
TEST(RmsNorm, RowsOfAnySize) {
  constexpr int64_t n = 37;
  const Floats x({kRows, n}, 0, 1), w({n}, 0, 2), dy({kRows, n}, 0, 3);
  Floats delta({kRows, n});
  delta.fill(0);
  ReferenceArray<Complex> tx(x), tw(w), ty({kRows, n}), tr({kRows});
  const std::vector<double> dx = complex_step(tx.values(), [&] {
    kernels::rms_norm_ref(tx.tensor(), tw.tensor(), 0, ty.tensor(), tr.tensor());
    return dot(dy.span(), ty.values());
  });
  std::vector<double> want;
  for (const Complex& value : ty.values()) want.push_back(value.real());
  for_each_target([&] {
    for (const int k : {-110, -75, -50, 50, 75, 110}) {
      SCOPED_TRACE(k);
      Floats far({kRows, n}), sum({kRows, n}), y({kRows, n}), r({kRows}), fused({kRows, n});
      Floats got({kRows, n}), dw({n});
      for (int64_t i = 0; i < kRows * n; ++i) far[i] = std::ldexp(x[i], k);
      kernels::rms_norm_forward(far, {w, 0}, y, r);
      expect_close(y.span(), want, kUlps, 0);
      kernels::residual_rms_norm_forward(far, delta, {w, 0}, sum, fused, r);
      EXPECT_TRUE(same_bits(fused.span(), y.span()));
      dw.fill(0);
      for (const bool add : {false, true}) {
        got.fill(0);
        kernels::rms_norm_backward(far, w, r, dy, {got, dw, add});
        for (float& v : got.span()) v = std::ldexp(v, k);
        expect_close(got.span(), dx, kUlps, 8);
      }
    }
    Floats zeros({1, n}), y({1, n}), r({1});
    zeros.fill(0);
    kernels::rms_norm_forward(zeros, {w, 0}, y, r);
    for (const float v : y.span()) EXPECT_EQ(v, 0);
  });
}

TEST(RmsNorm, KeepsNanInItsRow) {
  const int64_t n = 21;
  for_each_target([&] {
    Floats x({3, n}, 0, 1), w({n}, 0, 2), y({3, n}), r({3});
    x[n + 20] = std::numeric_limits<float>::quiet_NaN();
    kernels::rms_norm_forward(x, {w, kEps}, y, r);
    for (int64_t i = 0; i < 3 * n; ++i) EXPECT_EQ(std::isnan(y[i]), i / n == 1) << i;
  });
}

TEST(RmsNorm, RefusesShapesThatDoNotFit) {
  Floats x({2, 8}, 0, 1), w({7}, 0, 2), y({2, 8}), r({2});
  EXPECT_THROW(kernels::rms_norm_forward(x, {w, kEps}, y, r), std::logic_error);
}

}  // namespace
}  // namespace refrain

#include "refrain/mixers/attention/head_norm_kernel.h"

#include "refrain/kernels/elementwise/rms_norm_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

constexpr float kEps = 1e-5f;
constexpr int64_t kRows = 5, kHeads = 3;
// As in rms_norm_test.cc: a few roundings.
constexpr double kUlps = 16;

// The heads of `row_stride` wide rows from the second column on.
MatrixView<float> heads_of(const Floats& x, int64_t d) {
  return {&x[1], kRows, kHeads * d, kHeads * d + 4};
}
// The same, one head a row.
template <class T>
std::vector<T> dense(const Floats& x, int64_t d) {
  std::vector<T> all;
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t i = 0; i < kHeads * d; ++i) all.push_back(heads_of(x, d).row(row)[i]);
  return all;
}
template <class T>
TensorOf<T> rows_of(std::vector<T>& values, int64_t d) {
  return {values.data(), {std::ssize(values) / d, d}};
}

TEST(HeadNorm, IsTheNormOfEachHead) {
  for (int64_t d : awkward_sizes()) {
    SCOPED_TRACE(d);
    const Floats w({d}, d % 3, 2), dy({kRows, kHeads * d + 4}, 0, 3);
    const Floats x({kRows, kHeads * d + 4}, d % 4, 1);
    std::vector<Complex> tx = dense<Complex>(x, d), ty(tx.size()), tr(kRows * kHeads);
    ReferenceArray<Complex> tw(w);
    const std::vector<float> weights = dense<float>(dy, d);
    const auto loss = [&] {
      kernels::rms_norm_ref(rows_of(tx, d), tw.tensor(), kEps, rows_of(ty, d), rows_of(tr, 1));
      return dot(weights, ty);
    };
    std::vector<double> dx = complex_step(tx, loss), dw = complex_step(tw.values(), loss);
    for (double& value : dw) value += 0.5;
    std::vector<double> want, reciprocals;
    double size = 0;
    for (const Complex& value : ty) want.push_back(value.real());
    for (const Complex& value : tr) reciprocals.push_back(value.real());
    for (size_t i = 0; i < weights.size(); ++i)
      size = std::max(size, std::abs(reciprocals[i / static_cast<size_t>(d)] * weights[i] *
                                     w[static_cast<int64_t>(i) % d]));
    for_each_target([&] {
      Floats y({kRows, kHeads * d + 4}, d % 4, 1), r({kRows, kHeads});  // in place
      kernels::head_norm_forward(heads_of(y, d), {w, kEps}, heads_of(y, d), r);
      expect_close(dense<float>(y, d), want, kUlps, 0);
      expect_close(r.span(), reciprocals, kUlps, 0);
      EXPECT_EQ(y[0], x[0]);  // the columns of others
      EXPECT_EQ(y[kHeads * d + 1], x[kHeads * d + 1]);

      Floats g({kRows, kHeads * d + 4}, 0, 3), got_dw({d}, d % 4);
      got_dw.fill(0.5f);
      kernels::head_norm_backward(heads_of(x, d), w, r, heads_of(g, d), got_dw);
      expect_close(dense<float>(g, d), dx, kUlps, size);
      expect_close(got_dw.span(), dw, kUlps, 8);
      Floats frozen({kRows, kHeads * d + 4}, 0, 3);
      kernels::head_norm_backward(heads_of(x, d), w, r, heads_of(frozen, d), {});
      EXPECT_TRUE(same_bits(frozen.span(), g.span()));
    });
  }
}

TEST(HeadNorm, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kMany = 203, kWide = 7, d = 44;
  const Floats x({kMany, kWide * d}, 1, 1), w({d}, 0, 2), dy({kMany, kWide * d}, 2, 3);
  expect_law(kMany, [&](const std::vector<int64_t>& pieces) {
    Floats y({kMany, kWide * d}), r({kMany, kWide}), g({kMany, kWide * d}, 2, 3), dw({d}, 3, 5);
    int64_t first = 0;
    for (int64_t rows : pieces) {
      const auto part = [&](const Floats& f) { return f.tensor().slice(first, rows); };
      kernels::head_norm_forward(part(x), {w, kEps}, part(y), part(r));
      kernels::head_norm_backward(part(x), w, part(r), part(g), dw);
      first += rows;
    }
    return all_of({&y, &r, &g, &dw});
  });
}

}  // namespace
}  // namespace refrain

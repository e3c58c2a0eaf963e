#include "refrain/kernels/elementwise/reduce.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/reduce.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void add(ConstTensor a, ConstTensor b, Tensor out) {
  parallel_ranges(out.size(), kTaskElements, [&](int64_t begin, int64_t end) HWY_ATTR {
    each(end - begin, [&](auto at, int64_t k) HWY_ATTR {
      const int64_t i = begin + k;
      at.store(hn::Add(at.load(a.data + i), at.load(b.data + i)), out.data + i);
    });
  });
}

void scale(Tensor x, float by) {
  const auto factor = hn::Set(FloatTag(), by);
  parallel_ranges(x.size(), kTaskElements, [&](int64_t begin, int64_t end) HWY_ATTR {
    each(end - begin, [&](auto at, int64_t k) HWY_ATTR {
      const int64_t i = begin + k;
      at.store(hn::Mul(at.load(x.data + i), factor), x.data + i);
    });
  });
}

void add_row(MatrixView<float> y, ConstTensor b) {
  parallel_rows(y.rows, y.cols, [&](int64_t r) HWY_ATTR {
    float* row = y.row(r);
    each(y.cols, [&](auto at, int64_t i) HWY_ATTR {
      at.store(hn::Add(at.load(row + i), at.load(b.data + i)), row + i);
    });
  });
}

void center_rows(ConstTensor x, Tensor y) {
  const int64_t n = x.cols();
  parallel_rows(x.rows(), n, [&](int64_t r) HWY_ATTR {
    const float* from = x.row(r);
    float* to = y.row(r);
    const double sum = sum_each(n, [&](auto at, int64_t i, FloatVec acc)
                                       HWY_ATTR { return hn::Add(acc, at.load(from + i)); });
    const auto mean = constant(static_cast<float>(sum / static_cast<double>(n)));
    each(n,
         [&](auto at, int64_t i) HWY_ATTR { at.store(hn::Sub(at.load(from + i), mean), to + i); });
  });
}

void column_sum_add(MatrixView<const float> dy, Tensor db) {
  parallel_columns(dy.rows, dy.cols, [&](int64_t begin, int64_t end) HWY_ATTR {
    chain_rows(0, dy.rows, begin, end, db.data,
               [&](auto at, int64_t row, int64_t j, FloatVec acc)
                   HWY_ATTR { return hn::Add(acc, at.load(dy.row(row) + j)); });
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(add);
HWY_EXPORT(scale);
HWY_EXPORT(add_row);
HWY_EXPORT(center_rows);
HWY_EXPORT(column_sum_add);

void add(ConstTensor a, ConstTensor b, Tensor out) {
  REFRAIN_CHECK(a.size() == out.size() && b.size() == out.size());
  HWY_DYNAMIC_DISPATCH(add)(a, b, out);
}
void scale(Tensor x, float by) { HWY_DYNAMIC_DISPATCH(scale)(x, by); }
void copy(ConstTensor from, Tensor to) {
  REFRAIN_CHECK(from.size() == to.size());
  parallel_ranges(to.size(), 1 << 16, [&](int64_t begin, int64_t end) {
    std::copy_n(from.data + begin, end - begin, to.data + begin);
  });
}
void add_row(MatrixView<float> y, ConstTensor b) {
  REFRAIN_CHECK(b.size() == y.cols);
  HWY_DYNAMIC_DISPATCH(add_row)(y, b);
}
void center_rows(ConstTensor x, Tensor y) {
  REFRAIN_CHECK(x.size() == y.size() && x.cols() == y.cols());
  HWY_DYNAMIC_DISPATCH(center_rows)(x, y);
}
void column_sum_add(MatrixView<const float> dy, Tensor db) {
  if (!db) return;
  REFRAIN_CHECK(db.size() == dy.cols);
  HWY_DYNAMIC_DISPATCH(column_sum_add)(dy, db);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE

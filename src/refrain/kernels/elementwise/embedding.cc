#include "refrain/kernels/elementwise/embedding.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/embedding.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void embedding_backward(std::span<const int32_t> tokens, ConstTensor dout, Tensor dtable) {
  parallel_columns(dout.rows(), dout.cols(), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = 0; row < dout.rows(); ++row) {
      const float* from = dout.row(row) + begin;
      float* to = dtable.row(tokens[static_cast<size_t>(row)]) + begin;
      each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
        at.store(hn::Add(at.load(to + i), at.load(from + i)), to + i);
      });
    }
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(embedding_backward);

namespace {
void check(std::span<const int32_t> tokens, ConstTensor table, ConstTensor rows) {
  REFRAIN_CHECK(static_cast<int64_t>(tokens.size()) == rows.rows());
  REFRAIN_CHECK(table.cols() == rows.cols());
  for (int32_t t : tokens) REFRAIN_CHECK(t >= 0 && t < table.rows());
}
}  // namespace

void embedding_forward(std::span<const int32_t> tokens, ConstTensor table, Tensor out) {
  check(tokens, table, out);
  parallel_ranges(out.rows(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      std::copy_n(table.row(tokens[static_cast<size_t>(row)]), out.cols(), out.row(row));
  });
}
void embedding_backward(std::span<const int32_t> tokens, ConstTensor dout, Tensor dtable) {
  if (!dtable) return;
  check(tokens, dtable, dout);
  HWY_DYNAMIC_DISPATCH(embedding_backward)(tokens, dout, dtable);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE

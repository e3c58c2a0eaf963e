#include "refrain/kernels/loss/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/loss/cross_entropy.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

HWY_INLINE float row_maximum(const float* x, int64_t n) {
  const FloatTag d;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto top = lowest;
  each(n,
       [&](auto at, int64_t i) HWY_ATTR { top = hn::Max(top, at.fill(at.load(x + i), lowest)); });
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

// sum of e^((x - top) * factor), leaving the terms in `terms` unless it is null.
HWY_INLINE double exp_sum(const float* x, float top, float factor, int64_t n, float* terms) {
  const FloatTag d;
  const auto shift = hn::Set(d, top), by = hn::Set(d, factor), zero = hn::Zero(d);
  return sum_each(n, [&](auto at, int64_t i, FloatVec acc) HWY_ATTR {
    const auto e = vector_exp(hn::Mul(hn::Sub(at.load(x + i), shift), by));
    if (terms) at.store(e, terms + i);
    return hn::Add(acc, at.fill(e, zero));
  });
}

// x = a x + b
HWY_INLINE void affine(float* x, int64_t n, float a, float b) {
  const FloatTag d;
  const auto scale = hn::Set(d, a), shift = hn::Set(d, b);
  each(n, [&](auto at, int64_t i)
              HWY_ATTR { at.store(hn::MulAdd(at.load(x + i), scale, shift), x + i); });
}

void cross_entropy_forward(ConstTensor logits, std::span<const int32_t> targets, Tensor losses) {
  const int64_t n = logits.cols();
  parallel_rows(logits.rows(), n, [&](int64_t row) HWY_ATTR {
    const float* x = logits.row(row);
    const int32_t target = targets[static_cast<size_t>(row)];
    losses.data[row] = 0;
    if (target == kIgnored) return;
    const float top = row_maximum(x, n);
    const double log_sum = std::log(exp_sum(x, top, 1, n, nullptr));
    losses.data[row] = static_cast<float>(log_sum + (double{top} - x[target]));
  });
}

void softmax_cross_entropy(Tensor logits, std::span<const int32_t> targets, float scale,
                           float label_smoothing, Tensor losses) {
  const int64_t n = logits.cols();
  const double off = double{label_smoothing} / static_cast<double>(n);  // every class's share
  parallel_rows(logits.rows(), n, [&](int64_t row) HWY_ATTR {
    float* x = logits.row(row);
    const int32_t target = targets[static_cast<size_t>(row)];
    if (target == kIgnored) {
      losses.data[row] = 0;
      std::fill_n(x, n, 0.0f);
      return;
    }
    const float top = row_maximum(x, n);
    const double below = double{top} - x[target];
    double all_below = 0;  // sum of top - x_j
    if (label_smoothing > 0) {
      const auto shift = hn::Set(FloatTag(), top), zero = hn::Zero(FloatTag());
      all_below = sum_each(n, [&](auto at, int64_t i, FloatVec acc) HWY_ATTR {
        return hn::Add(acc, at.fill(hn::Sub(shift, at.load(x + i)), zero));
      });
      // Not in float32's range.
      if (all_below > double{std::numeric_limits<float>::max()}) {
        all_below = 0;
        for (int64_t i = 0; i < n; ++i) all_below += double{top} - double{x[i]};
      }
    }
    const double sum = exp_sum(x, top, 1, n, x);
    losses.data[row] =
        static_cast<float>(std::log(sum) + (1 - double{label_smoothing}) * below + off * all_below);
    affine(x, n, static_cast<float>(scale / sum), static_cast<float>(-scale * off));
    x[target] -= scale * (1 - label_smoothing);
  });
}

void softmax_rows(Tensor logits, float temperature) {
  const int64_t n = logits.cols();
  // Finite, so that the maximum stays at 0.
  const float factor = std::min(1 / temperature, std::numeric_limits<float>::max());
  parallel_rows(logits.rows(), n, [&](int64_t row) HWY_ATTR {
    float* x = logits.row(row);
    const double sum = exp_sum(x, row_maximum(x, n), factor, n, x);
    affine(x, n, static_cast<float>(1 / sum), 0);
  });
}

void log_softmax_rows(Tensor logits) {
  const int64_t n = logits.cols();
  parallel_rows(logits.rows(), n, [&](int64_t row) HWY_ATTR {
    float* x = logits.row(row);
    const float top = row_maximum(x, n);
    const double log_sum = std::log(exp_sum(x, top, 1, n, nullptr));
    const auto shift = hn::Set(FloatTag(), top);
    const auto rest = hn::Set(FloatTag(), static_cast<float>(log_sum));
    each(n, [&](auto at, int64_t i)
                HWY_ATTR { at.store(hn::Sub(hn::Sub(at.load(x + i), shift), rest), x + i); });
  });
}

LargestLogit largest_logit(const float* x, int64_t n) {
  const FloatTag d;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto most = hn::Set(d, std::numeric_limits<float>::max());
  auto wrong = hn::Zero(d), top = lowest;
  each(n, [&](auto at, int64_t i) HWY_ATTR {
    const auto v = at.load(x + i);
    wrong = hn::Or(wrong, hn::IfThenZeroElse(hn::Le(v, most), hn::Set(d, 1)));
    top = hn::Max(top, at.fill(v, lowest));
  });
  if (hn::GetLane(hn::MaxOfLanes(d, wrong)) != 0) return {0, 0, false};
  const float largest = hn::GetLane(hn::MaxOfLanes(d, top));
  return {largest, std::find(x, x + n, largest) - x, true};
}

double exp_sum_of(std::span<const float> logits, float top) {
  return exp_sum(logits.data(), top, 1, std::ssize(logits), nullptr);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(cross_entropy_forward);
HWY_EXPORT(softmax_cross_entropy);
HWY_EXPORT(softmax_rows);
HWY_EXPORT(log_softmax_rows);
HWY_EXPORT(largest_logit);
HWY_EXPORT(exp_sum_of);

namespace {
void check(ConstTensor logits, std::span<const int32_t> targets, ConstTensor losses) {
  REFRAIN_CHECK(static_cast<int64_t>(targets.size()) == logits.rows());
  REFRAIN_CHECK(losses.size() == logits.rows());
  for (int32_t t : targets) REFRAIN_CHECK(t == kIgnored || (t >= 0 && t < logits.cols()));
}
}  // namespace

void cross_entropy_forward(ConstTensor logits, std::span<const int32_t> targets, Tensor losses) {
  check(logits, targets, losses);
  HWY_DYNAMIC_DISPATCH(cross_entropy_forward)(logits, targets, losses);
}
void softmax_cross_entropy(Tensor logits, std::span<const int32_t> targets, float scale,
                           float label_smoothing, Tensor losses) {
  check(logits, targets, losses);
  REFRAIN_CHECK(label_smoothing >= 0 && label_smoothing < 1);
  HWY_DYNAMIC_DISPATCH(softmax_cross_entropy)(logits, targets, scale, label_smoothing, losses);
}
void softmax_rows(Tensor logits, float temperature) {
  REFRAIN_CHECK(temperature > 0);
  HWY_DYNAMIC_DISPATCH(softmax_rows)(logits, temperature);
}
void log_softmax_rows(Tensor logits) { HWY_DYNAMIC_DISPATCH(log_softmax_rows)(logits); }
LargestLogit largest_logit(std::span<const float> logits) {
  return HWY_DYNAMIC_DISPATCH(largest_logit)(logits.data(), std::ssize(logits));
}
double exp_sum(std::span<const float> logits, float top) {
  return HWY_DYNAMIC_DISPATCH(exp_sum_of)(logits, top);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE

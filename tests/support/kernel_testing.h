// What every kernel test needs: each SIMD target in turn, arrays that catch what is written beside
// them, comparison with a reference implementation in float64, gradients by the complex step, and
// the law that no result depends on threads or on how rows are cut into calls.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "hwy/highway.h"
#include "hwy/targets.h"
#include "refrain/base/matrix_view.h"
#include "refrain/base/random.h"
#include "support/threads.h"

namespace refrain {

using Complex = std::complex<double>;

// f() once for every instruction set that was compiled and that this machine has.
template <class F>
void for_each_target(F&& f) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    f();
    hwy::SetSupportedTargetsForTest(0);
  }
}

// The instruction set that it chose rounds products and sums together.
inline bool fuses() { return (hwy::SupportedTargets() & (HWY_NEON | ((HWY_AVX2 << 1) - 1))) != 0; }

// Every length up to two of the longest vectors and one more, and some that fill several.
inline std::vector<int64_t> awkward_sizes() {
  std::vector<int64_t> sizes;
  for (int64_t n = 1; n <= 33; ++n) sizes.push_back(n);
  sizes.insert(sizes.end(), {47, 64, 100, 257});
  return sizes;
}

// Floats at a chosen misalignment, NaN until they are written, between guards that its end checks.
// Under the address sanitizer nothing lies behind them, so that it sees reads past the end too.
class Floats {
 public:
  explicit Floats(std::initializer_list<int64_t> shape, int64_t misalign = 0)
      : misalign_(misalign), view_(nullptr, shape) {
    size_ = view_.size();
    memory_.assign(static_cast<size_t>(kAlign + misalign_ + size_ + kBehind), kGuard);
    memory_.shrink_to_fit();
    const auto address = reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float);
    first_ = kAlign - static_cast<int64_t>(address % kAlign) + misalign_;
    view_.data = memory_.data() + first_;
    fill(std::numeric_limits<float>::quiet_NaN());
  }
  // Normally distributed values of the stream `key`.
  Floats(std::initializer_list<int64_t> shape, int64_t misalign, uint64_t key, double scale = 1)
      : Floats(shape, misalign) {
    Random random(key);
    for (float& v : view_) v = static_cast<float>(scale * random.normal());
  }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  ~Floats() {
    for (int64_t i = 0; i < static_cast<int64_t>(memory_.size()); ++i)
      if ((i < first_ || i >= first_ + size_) && memory_[static_cast<size_t>(i)] != kGuard) {
        ADD_FAILURE() << "written beside an array of " << size_ << ", at " << i - first_;
        return;
      }
  }

  void fill(float value) { std::fill(view_.begin(), view_.end(), value); }
  operator Tensor() const { return view_; }
  operator ConstTensor() const { return view_; }
  operator MatrixView<float>() const { return view_; }
  operator MatrixView<const float>() const { return view_; }
  Tensor tensor() const { return view_; }
  std::span<float> span() const { return {view_.data, static_cast<size_t>(size_)}; }
  float& operator[](int64_t i) const { return view_.data[i]; }

 private:
  static constexpr int64_t kAlign = 16;  // floats: 64 bytes
  static constexpr float kGuard = 12345.5f;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kBehind = 0;
#else
  static constexpr int64_t kBehind = 48;
#endif

  int64_t misalign_, size_ = 0, first_ = 0;
  Tensor view_;
  std::vector<float> memory_;
};

// The same array for a reference, in another number type.
template <class T>
class ReferenceArray {
 public:
  explicit ReferenceArray(std::initializer_list<int64_t> shape) : view_(nullptr, shape) {
    values_.resize(static_cast<size_t>(view_.size()));
    view_.data = values_.data();
  }
  explicit ReferenceArray(ConstTensor from) {
    values_.assign(from.begin(), from.end());
    view_.data = values_.data();
    view_.dim = from.dim;
    view_.rank = from.rank;
  }
  ReferenceArray(const ReferenceArray&) = delete;
  ReferenceArray& operator=(const ReferenceArray&) = delete;

  operator TensorOf<T>() const { return view_; }
  TensorOf<T> tensor() const { return view_; }
  T& operator[](int64_t i) { return values_[static_cast<size_t>(i)]; }
  std::vector<T>& values() { return values_; }

 private:
  std::vector<T> values_;
  TensorOf<T> view_;
};

// |got - want| <= ulps * 2^-24 * max(|want|, magnitude) for every element; `magnitude` is the size
// of the terms that were added up to give a `want` that may be smaller.
inline void expect_close(std::span<const float> got, std::span<const double> want, double ulps,
                         double magnitude) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double bound = ulps * 0x1p-24 * std::max(std::abs(want[i]), magnitude);
    ASSERT_TRUE(std::abs(got[i] - want[i]) <= bound)
        << "element " << i << " of " << got.size() << ": " << got[i] << ", expected " << want[i]
        << " within " << bound;
  }
}

// The derivative of loss() by every element of `by`, which loss() reads: exact to rounding in
// float64, because nothing is subtracted.
template <class Loss>
std::vector<double> complex_step(std::vector<Complex>& by, Loss&& loss) {
  constexpr double kStep = 1e-30;
  std::vector<double> gradient;
  for (Complex& v : by) {
    v += Complex(0, kStep);
    gradient.push_back(loss().imag() / kStep);
    v = v.real();
  }
  return gradient;
}

// sum of weights * values: a loss whose gradient by `values` is `weights`.
inline Complex dot(std::span<const float> weights, std::span<const Complex> values) {
  Complex sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += static_cast<double>(weights[i]) * values[i];
  return sum;
}

// Every number of several arrays, one array after another.
inline std::vector<float> all_of(std::initializer_list<const Floats*> arrays) {
  std::vector<float> all;
  for (const Floats* a : arrays) all.insert(all.end(), a->span().begin(), a->span().end());
  return all;
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// The law. compute(pieces) works through `rows` rows in calls of pieces[0], pieces[1], ... rows and
// returns every number it made; they must be the same to the bit with 1, 2 and 3 threads and
// however the rows are cut. Enough rows for several tasks make the test mean something.
template <class F>
void expect_law(int64_t rows, F&& compute) {
  for_each_target([&] {
    set_threads(1);
    const std::vector<float> want = compute(std::vector<int64_t>{rows});
    const std::pair<int, std::vector<int64_t>> ways[] = {
        {1, {rows / 2, rows - rows / 2}}, {2, {rows}}, {2, {1, rows - 7, 6}}, {3, {rows}}};
    for (const auto& [n, pieces] : ways) {
      set_threads(n);
      EXPECT_TRUE(same_bits(compute(pieces), want))
          << n << " threads, " << pieces.size() << " calls";
    }
    set_threads(0);
  });
}

}  // namespace refrain

// The reference implementation of recurrent.h: one sequence, step by step, for double and
// std::complex<double>; and its plain backward, for sequences too long for the complex step.
#pragma once
#include <cmath>
#include <vector>

#include "refrain/kernels/elementwise/activation_ref.h"
#include "refrain/kernels/sequence/recurrent.h"

namespace refrain::kernels {

// One step. a [G H] becomes the gates; p [G H] is the product of w_hh and the state's h, with b_hh;
// the state [S H] is advanced.
template <class T>
void recurrent_step_ref(Cell cell, int64_t H, T* a, const T* p, T* state,
                        ActivationPrecision precision = {}) {
  const auto sigmoid = [&](T x) { return sigmoid_ref(x, precision); };
  const auto tanh = [&](T x) { return tanh_ref(x, precision); };
  for (int64_t j = 0; j < H; ++j) {
    T& h = state[j];
    if (cell == Cell::kRnn) {
      h = a[j] = tanh(a[j] + p[j]);
    } else if (cell == Cell::kLstm) {
      T &i = a[j], &f = a[H + j], &g = a[2 * H + j], &o = a[3 * H + j], &c = state[H + j];
      i = sigmoid(i + p[j]);
      f = sigmoid(f + p[H + j]);
      g = tanh(g + p[2 * H + j]);
      o = sigmoid(o + p[3 * H + j]);
      c = f * c + i * g;
      h = o * tanh(c);
    } else {
      T &r = a[j], &z = a[H + j], &n = a[2 * H + j];
      r = sigmoid(r + p[j]);
      z = sigmoid(z + p[H + j]);
      n = tanh(n + r * p[2 * H + j]);
      h = (1.0 - z) * n + z * h;
    }
  }
}

// What backward needs of a step: its gates, p, and the state before it.
template <class T>
struct RecurrentStepRef {
  std::vector<T> gates, p, before;
};

// A cell with its weights, [G H, H] and [G H].
template <class T>
struct RecurrentCellRef {
  Cell cell;
  int64_t H;
  const T *w_hh, *b_hh;
  ActivationPrecision precision = ActivationPrecision::kAccurate;

  // rows of a [tokens, G H] -> h [tokens, H]; the state [S H] is initial, then final. `steps`, if
  // given, takes what backward reads.
  void forward(int64_t tokens, const T* a, T* h, T* state,
               std::vector<RecurrentStepRef<T>>* steps = nullptr) const {
    const int64_t G = gates_of(cell), S = states_of(cell);
    for (int64_t t = 0; t < tokens; ++t) {
      RecurrentStepRef<T> s{{a + t * G * H, a + (t + 1) * G * H}, {b_hh, b_hh + G * H}, {}};
      s.before.assign(state, state + S * H);
      for (int64_t r = 0; r < G * H; ++r)
        for (int64_t j = 0; j < H; ++j) s.p[static_cast<size_t>(r)] += w_hh[r * H + j] * state[j];
      recurrent_step_ref(cell, H, s.gates.data(), s.p.data(), state, precision);
      for (int64_t j = 0; j < H; ++j) h[t * H + j] = state[j];
      if (steps) steps->push_back(std::move(s));
    }
  }

  // Derivatives as the equations have them, last step first. dh [tokens, H]; dstate [S H]: of the
  // final state, in; of the initial state, out. da, dp [tokens, G H] overwritten.
  void backward(const std::vector<RecurrentStepRef<T>>& steps, const T* dh, T* dstate, T* da,
                T* dp) const {
    const int64_t G = gates_of(cell);
    for (auto t = static_cast<int64_t>(steps.size()) - 1; t >= 0; --t) {
      const RecurrentStepRef<T>& s = steps[static_cast<size_t>(t)];
      const T *a = s.gates.data(), *before = s.before.data();
      T *da_t = da + t * G * H, *dp_t = dp + t * G * H;
      std::vector<T> dh_before(static_cast<size_t>(H), T(0));
      for (int64_t j = 0; j < H; ++j) {
        const T d = dh[t * H + j] + dstate[j];
        if (cell == Cell::kRnn) {
          da_t[j] = d * tanh_slope_ref(a[j], precision);
        } else if (cell == Cell::kLstm) {
          const T i = a[j], f = a[H + j], g = a[2 * H + j], o = a[3 * H + j];
          const T tanh_c = tanh_ref(f * before[H + j] + i * g, precision);
          const T dc = dstate[H + j] + d * o * tanh_slope_ref(tanh_c, precision);
          da_t[j] = dc * g * i * (1.0 - i);
          da_t[H + j] = dc * before[H + j] * f * (1.0 - f);
          da_t[2 * H + j] = dc * i * tanh_slope_ref(g, precision);
          da_t[3 * H + j] = d * tanh_c * o * (1.0 - o);
          dstate[H + j] = dc * f;
        } else {
          const T r = a[j], z = a[H + j], n = a[2 * H + j],
                  p_n = s.p[static_cast<size_t>(2 * H + j)];
          const T dn = d * (1.0 - z) * tanh_slope_ref(n, precision);
          da_t[j] = dn * p_n * r * (1.0 - r);
          da_t[H + j] = d * (before[j] - n) * z * (1.0 - z);
          da_t[2 * H + j] = dn;
          dh_before[static_cast<size_t>(j)] = d * z;
        }
      }
      for (int64_t r = 0; r < G * H; ++r) {
        const bool scaled = cell == Cell::kGru && r >= 2 * H;
        dp_t[r] = scaled ? da_t[r] * a[r - 2 * H] : da_t[r];
        for (int64_t j = 0; j < H; ++j)
          dh_before[static_cast<size_t>(j)] += dp_t[r] * w_hh[r * H + j];
      }
      for (int64_t j = 0; j < H; ++j) dstate[j] = dh_before[static_cast<size_t>(j)];
    }
  }
};

}  // namespace refrain::kernels

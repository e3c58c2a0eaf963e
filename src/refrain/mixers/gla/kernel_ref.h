// The reference implementation of kernel.h: the recurrence step by step. Forward is for any number
// type. A plain backward for real numbers gives exact gradients of long sequences for comparison.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "refrain/kernels/ref_math.h"

namespace refrain::kernels {

// log σ(z), from the logit, without the rounding of σ near 1 or 0.
template <class T>
T log_sigmoid_ref(T z) {
  return real_part(z) < 0 ? z - std::log(1.0 + std::exp(z)) : -std::log(1.0 + std::exp(-z));
}

// One head, rows dense.
template <class T>
struct GlaRowsRef {
  const T *q, *k, *v, *z;  // [tokens, K]; v [tokens, V]
};

struct GlaGradientsRef {
  const double* d_o;          // [tokens, V]
  double *dq, *dk, *dv, *dz;  // like what they are of
  double* dstate;             // [K, V]: of the final state, then of the initial state
};

struct GlaHeadRef {
  int64_t tokens, K, V;
  double scale, gate_divisor;

  // state [K, V]: initial, then final. o [tokens, V].
  template <class T>
  void forward(const GlaRowsRef<T>& rows, T* state, T* o) const {
    const auto& [q, k, v, z] = rows;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t j = 0; j < V; ++j) o[t * V + j] = 0;
      for (int64_t i = 0; i < K; ++i) {
        const T g = std::exp(log_sigmoid_ref(z[t * K + i]) / gate_divisor);
        for (int64_t j = 0; j < V; ++j) {
          T& c = state[i * V + j];
          c = g * c + k[t * K + i] * v[t * V + j];
          o[t * V + j] += scale * q[t * K + i] * c;
        }
      }
    }
  }

  // dC[t] = scale q[t]ᵀ do[t] + diag(g[t+1]) dC[t+1];  dq = scale do Cᵀ, dk = v dCᵀ, dv = k dC,
  // dlog g = g rowsum(dC ⊙ C[t-1]), dz = dlog g σ(-z) / divisor. `state`: the initial one.
  void backward(const GlaRowsRef<double>& rows, const double* state,
                const GlaGradientsRef& gradients) const {
    const auto& [q, k, v, z] = rows;
    const auto& [d_o, dq, dk, dv, dz, dstate] = gradients;
    const auto KV = static_cast<size_t>(K * V), n = static_cast<size_t>(tokens);
    std::vector<double> all(state, state + KV), gate;  // states before every token and the last
    for (size_t t = 0; t < n; ++t)
      for (int64_t i = 0; i < K; ++i) {
        const int64_t at = static_cast<int64_t>(t) * K + i;
        gate.push_back(std::exp(log_sigmoid_ref(z[at]) / gate_divisor));
        for (int64_t j = 0; j < V; ++j)
          all.push_back(gate.back() * all[all.size() - KV] +
                        k[at] * v[static_cast<int64_t>(t) * V + j]);
      }
    for (int64_t t = tokens - 1; t >= 0; --t) {
      const double* before = &all[static_cast<size_t>(t) * KV];
      const double* after = before + KV;
      for (int64_t j = 0; j < V; ++j) dv[t * V + j] = 0;
      for (int64_t i = 0; i < K; ++i) {
        const int64_t at = t * K + i;
        const double g = gate[static_cast<size_t>(at)];
        double dlog = 0;
        dq[at] = dk[at] = 0;
        for (int64_t j = 0; j < V; ++j) {
          const double d = d_o[t * V + j];
          double& dc = dstate[i * V + j];
          dc += scale * q[at] * d;
          dq[at] += scale * d * after[i * V + j];
          dk[at] += v[t * V + j] * dc;
          dv[t * V + j] += k[at] * dc;
          dlog += g * dc * before[i * V + j];
          dc *= g;
        }
        dz[at] = dlog * std::exp(log_sigmoid_ref(-z[at])) / gate_divisor;
      }
    }
  }
};

}  // namespace refrain::kernels

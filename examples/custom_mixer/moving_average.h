// A mixer that is not part of the library: an exponential moving average with a learned decay for
// each channel. It shows everything that a mixer must have (refrain/mixers/mixer.h).
//
//   v = x W_vᵀ,   s[t] = a ⊙ s[t-1] + (1 - a) ⊙ v[t],   a = σ(p),   y = s W_oᵀ
//
// Shapes: x, y [R, D]; v, s [R, D]; p [D]. The state is s [D], of the same size after any number of
// tokens. Backward, with ds the sum of the gradients from y and from the next token:
//
//   ds[t] = (dy[t] W_o) + a ⊙ ds[t+1],   dv[t] = (1 - a) ⊙ ds[t],
//   dp = a (1 - a) ⊙ Σ_t ds[t] ⊙ (s[t-1] - v[t])
#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "refrain/base/parallel.h"
#include "refrain/layers/linear.h"
#include "refrain/mixers/registry.h"

namespace example {

struct MovingAverageConfig {
  double half_life = 8;

  template <class V>
  void visit(V&& v) {
    v("half_life", half_life, "tokens after which an input has lost half of its weight, at first");
  }
};

inline double first_decay(const MovingAverageConfig& config) {
  if (!(config.half_life > 0 && config.half_life <= 1e6))
    refrain::throw_error("moving_average.half_life: expected more than 0, up to 1000000, found {}",
                         config.half_life);
  return std::exp2(-1 / config.half_life);
}

class MovingAverage final : public refrain::Mixer {
 public:
  static constexpr refrain::MixerTraits kTraits{};

  MovingAverage(const refrain::MixerDims& shape, const MovingAverageConfig& config)
      : D_(shape.d_model), blocks_(shape.blocks), v_{D_, D_}, o_{D_, D_} {
    const double a = first_decay(config);
    first_p_ = static_cast<float>(std::log(a / (1 - a)));
  }

  const refrain::MixerTraits& traits() const override { return kTraits; }

  void visit(const refrain::ParamVisitor& visit) override {
    v_.visit(visit, "v_proj.weight", refrain::Init::matrix(D_));
    visit({"decay", {D_}, refrain::Init::constant(first_p_), false}, p_);
    o_.visit(visit, "o_proj.weight", refrain::Init::output(D_, blocks_));
  }

  void forward(refrain::ExecutionContext& ctx, const refrain::RaggedBatch& w,
               refrain::ConstTensor x, refrain::Tensor y, const refrain::State* state,
               refrain::Arena* saved) const override {
    refrain::Arena::Frame frame(ctx.scratch);
    const Rows rows = lay_out(saved ? *saved : ctx.scratch, w);
    v_.forward(ctx, x, rows.v);
    if (!ctx.planning()) each_channel([&](int64_t j) { average(w, rows, state, j); });
    o_.forward(ctx, rows.s, y);
  }

  void backward(refrain::ExecutionContext& ctx, const refrain::RaggedBatch& w,
                refrain::ConstTensor x, const refrain::State*, const refrain::MixerGradients& given,
                refrain::Arena& saved) const override {
    refrain::Arena::Frame frame(ctx.scratch);
    const Rows rows = lay_out(saved, w);
    const refrain::Tensor ds = ctx.scratch.take({w.rows(), D_});
    o_.backward(ctx, rows.s, given.dy, ds);
    if (!ctx.planning())
      each_channel([&](int64_t j) { average_backward(w, rows, ds, given.dstate, j); });
    v_.backward(ctx, x, ds, given.dx);
  }

  size_t state_bytes(int64_t) const override { return static_cast<size_t>(D_) * sizeof(float); }

 private:
  struct Rows {
    refrain::Tensor v, s;   // [R, D]
    refrain::Tensor found;  // [B, D]: the states that the window began with
  };
  Rows lay_out(refrain::Arena& arena, const refrain::RaggedBatch& w) const {
    return {arena.take({w.rows(), D_}), arena.take({w.rows(), D_}),
            arena.take({w.sequences(), D_})};
  }

  // Channels are independent, so threads change no sum.
  template <class F>
  void each_channel(F&& f) const {
    refrain::parallel_ranges(D_, 8, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) f(j);
    });
  }
  float decay(int64_t j) const { return 1 / (1 + std::exp(-p_.w.data[j])); }

  void average(const refrain::RaggedBatch& w, const Rows& rows, const refrain::State* state,
               int64_t j) const {
    const float a = decay(j);
    for (int64_t b = 0; b < w.sequences(); ++b) {
      float s = state ? state->row(b)[j] : 0;
      rows.found.row(b)[j] = s;
      for (int64_t i = w.first(b), end = i + w.length(b); i < end; ++i)
        rows.s.row(i)[j] = s = a * s + (1 - a) * rows.v.row(i)[j];
      if (state) state->row(b)[j] = s;
    }
  }

  // ds: in, the gradient of s from y; out, dL/dv.
  void average_backward(const refrain::RaggedBatch& w, const Rows& rows, refrain::Tensor ds,
                        const refrain::State* dstate, int64_t j) const {
    const float a = decay(j), slope = a * (1 - a);
    for (int64_t b = 0; b < w.sequences(); ++b) {
      const int64_t first = w.first(b), n = w.length(b);
      float later = dstate ? dstate->row(b)[j] : 0;
      for (int64_t i = first + n - 1; i >= first; --i) {
        ds.row(i)[j] += later;
        later = a * ds.row(i)[j];
      }
      if (dstate) dstate->row(b)[j] = later;
      // Row after row: the order of this sum must not depend on how the batch is split.
      float s = rows.found.row(b)[j];
      for (int64_t i = first; i < first + n; ++i) {
        if (p_.g) p_.g.data[j] += slope * ds.row(i)[j] * (s - rows.v.row(i)[j]);
        s = rows.s.row(i)[j];
        ds.row(i)[j] *= 1 - a;
      }
    }
  }

  int64_t D_, blocks_;
  float first_p_;
  refrain::Linear v_, o_;
  refrain::Param p_;
};

// The reference implementation, in plain loops, for any number type.
template <class T>
struct MovingAverageRef {
  refrain::MixerDims shape;
  MovingAverageConfig config;

  void forward(std::span<const std::vector<T>> weights, int64_t /*start*/, int64_t tokens,
               const T* x, T* y, T* state) const {
    using std::exp;
    const auto D = static_cast<size_t>(shape.d_model);
    const std::vector<T>&v = weights[0], &p = weights[1], &o = weights[2];
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
      for (size_t j = 0; j < D; ++j) {
        T input = 0;
        for (size_t i = 0; i < D; ++i) input += v[j * D + i] * x[t * D + i];
        const T a = T(1) / (T(1) + exp(-p[j]));
        state[j] = a * state[j] + (T(1) - a) * input;
      }
      for (size_t j = 0; j < D; ++j) {
        y[t * D + j] = 0;
        for (size_t i = 0; i < D; ++i) y[t * D + j] += o[j * D + i] * state[i];
      }
    }
  }
};

inline void register_moving_average() {
  refrain::register_mixer(
      "moving_average",
      refrain::mixer_kind<MovingAverage, MovingAverageConfig, MovingAverageRef>());
}

}  // namespace example

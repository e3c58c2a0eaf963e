// What every mixer must satisfy (mixers/mixer.h). A mixer and its plain reference go in as a pair:
//
//   contract<Mixer, Ref>(shape, config);
//
// In float32 against the reference in float64 and its complex step, on every instruction set:
// outputs, final states, gradients of inputs, weights and the initial state; whole, chunked and
// stepped forms; sequences of different lengths in one window; weight gradients that are added to;
// no bit that depends on threads or micro-batches, or on which weights are frozen; a dry run that
// takes what the real one takes.
#pragma once
#include <gtest/gtest.h>

#include <complex>
#include <limits>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/base/random.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/mixer.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {

// A mixer with weights and gradients of its own, and memory to run it in.
template <class M>
class MixerUnderTest {
 public:
  template <class Config>
  MixerUnderTest(const MixerDims& shape, const Config& config) : mixer(shape, config) {
    uint64_t key = 100;
    mixer.visit([&](const ParamSpec& spec, Param& p) {
      Random random(++key);
      auto& w = weights.emplace_back(static_cast<size_t>(spec.size()));
      // Large enough that gates and softmaxes leave their linear range.
      for (float& v : w)
        v = static_cast<float>(random.normal() / std::sqrt(static_cast<double>(shape.d_model)));
      gradients.emplace_back(w.size(), kGradientStart);
      p.w.rank = static_cast<int>(spec.shape.size());
      std::copy(spec.shape.begin(), spec.shape.end(), p.w.dim.begin());
      p.g = p.w;
    });
    size_t i = 0;
    mixer.visit([&](const ParamSpec&, Param& p) {
      p.w.data = weights[i].data();
      p.g.data = gradients[i++].data();
    });
  }

  // Weight i has a gradient, or is frozen and has none.
  template <class F>
  void freeze(F&& is_frozen) {
    size_t i = 0;
    mixer.visit([&](const ParamSpec&, Param& p) {
      p.g = is_frozen(i) ? Tensor() : p.w;
      if (p.g) p.g.data = gradients[i].data();
      ++i;
    });
  }

  void clear() {
    for (auto& g : gradients) std::fill(g.begin(), g.end(), kGradientStart);
  }

  // Runs dry and then for real; the second must take what the first did.
  void forward(const RaggedBatch& w, ConstTensor x, Tensor y, const State* state, bool keep) {
    Arena count, count_saved;
    ExecutionContext dry = context(count);
    mixer.forward(dry, w, x, y, state, keep ? &count_saved : nullptr);
    scratch_ = Buffer<std::byte>(count.peak() + 64);
    if (keep) {
      saved_ = Buffer<std::byte>(count_saved.peak() + 64);
      saved_bytes_ = count_saved.peak();
    }
    Arena scratch(scratch_.data(), scratch_.size()), saved(saved_.data(), saved_.size());
    ExecutionContext ctx = context(scratch);
    mixer.forward(ctx, w, x, y, state, keep ? &saved : nullptr);
    EXPECT_EQ(scratch.peak(), count.peak());
    EXPECT_EQ(saved.peak(), keep ? count_saved.peak() : 0);
  }
  void backward(const RaggedBatch& w, ConstTensor x, ConstTensor dy, Tensor dx, const State* state,
                const State* dstate) {
    Arena count, count_saved;
    ExecutionContext dry = context(count);
    mixer.backward(dry, w, x, state, {dy, dx, dstate}, count_saved);
    scratch_ = Buffer<std::byte>(count.peak() + 64);
    Arena scratch(scratch_.data(), scratch_.size()), saved(saved_.data(), saved_.size());
    ExecutionContext ctx = context(scratch);
    mixer.backward(ctx, w, x, state, {dy, dx, dstate}, saved);
    EXPECT_EQ(scratch.peak(), count.peak());
  }

  size_t saved_bytes() const { return saved_bytes_; }  // by the last forward that kept

  int64_t checkpoint_interval = 0;
  std::vector<std::string> recompute{};  // parts (RecomputePart)
  kernels::ComputeType compute_type = kernels::ComputeType::kFloat32;

  static constexpr float kGradientStart = 0.25f;  // not zero: gradients must be added to
  M mixer;
  std::vector<std::vector<float>> weights, gradients;

 private:
  ExecutionContext context(Arena& scratch) const {
    ExecutionContext ctx{scratch, {}, checkpoint_interval};
    ctx.recompute = recompute;
    ctx.compute_type = compute_type;
    return ctx;
  }

  Buffer<std::byte> scratch_, saved_;
  size_t saved_bytes_ = 0;
};

// Rows of floats with a State over them.
class StateRows {
 public:
  StateRows(int64_t sequences, size_t bytes) : floats_(bytes / sizeof(float)) {
    for (int64_t b = 0; b < sequences; ++b) rows_.emplace_back(floats_ + 1, 0.0f);
    for (auto& r : rows_) pointers_.push_back(reinterpret_cast<std::byte*>(r.data()));
  }
  State state() const { return {pointers_}; }
  std::vector<float>& row(int64_t b) { return rows_[static_cast<size_t>(b)]; }
  const std::vector<float>& floats(int64_t b) const { return rows_[static_cast<size_t>(b)]; }
  void copy_from(const StateRows& other) {
    for (size_t b = 0; b < rows_.size(); ++b)
      std::copy(other.rows_[b].begin(), other.rows_[b].end(), rows_[b].begin());
  }
  void fill_normal(uint64_t key, double size) {
    Random random(key);
    for (auto& r : rows_)
      for (float& v : r) v = static_cast<float>(size * random.normal());
  }

 private:
  size_t floats_;
  std::vector<std::vector<float>> rows_;
  std::vector<std::byte*> pointers_;
};

inline void expect_near(const char* what, double got, double want, double tolerance) {
  ASSERT_LE(std::abs(got - want), tolerance * std::max(1.0, std::abs(want)))
      << what << ": got " << got << ", want " << want;
}

template <class M, template <class> class Ref, class Config>
void contract(const MixerDims& shape, const Config& config, int64_t found) {
  constexpr double kForward = 1e-5, kBackward = 1e-4;  // float32 chains of some tens of terms
  const int64_t D = shape.d_model, B = 3;
  const std::vector<int32_t> lengths = {7, 1, 4}, start(B, static_cast<int32_t>(found));
  std::vector<int32_t> offset = {0};
  for (int32_t n : lengths) offset.push_back(offset.back() + n);
  const int64_t R = offset.back(), longest = found + 7;
  MixerUnderTest<M> m(shape, config);
  const size_t state_bytes = m.mixer.state_bytes(longest);
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);

  RaggedBatchBuilder window_data;
  const RaggedBatch w = window_data.set(offset, start);
  StateRows state_found(B, state_bytes), gradient_left(B, state_bytes);
  state_found.fill_normal(3, found > 0 ? 0.5 : 0.0);
  gradient_left.fill_normal(4, 0.5);

  // The reference, and its loss sum(dy y) + sum(dstate . final state) by sequence.
  std::vector<std::vector<Complex>> cw;
  for (const auto& v : m.weights) cw.emplace_back(v.begin(), v.end());
  std::vector<Complex> cx(x.tensor().begin(), x.tensor().end());
  std::vector<std::vector<Complex>> cs;
  for (int64_t b = 0; b < B; ++b)
    cs.emplace_back(state_found.row(b).begin(), state_found.row(b).end());
  const auto run_ref = [&](int64_t b, std::vector<Complex>& y, std::vector<Complex>& left) {
    const int64_t n = lengths[static_cast<size_t>(b)];
    y.assign(static_cast<size_t>(n * D), 0);
    left = cs[static_cast<size_t>(b)];
    Ref<Complex>{shape, config}.forward(
        cw, found, n, &cx[static_cast<size_t>(offset[static_cast<size_t>(b)] * D)], y.data(),
        left.data());
  };
  const auto loss = [&](int64_t b) {
    std::vector<Complex> y, left;
    run_ref(b, y, left);
    Complex l = 0;
    for (size_t i = 0; i < y.size(); ++i)
      l += y[i] * static_cast<double>(dy.tensor().row(w.first(b))[i]);
    const size_t used =
        m.mixer.state_bytes(found + lengths[static_cast<size_t>(b)]) / sizeof(float);
    for (size_t i = 0; i < used; ++i) l += left[i] * static_cast<double>(gradient_left.row(b)[i]);
    return l;
  };

  for_each_target([&] {
    // Forward with a state, all at once.
    StateRows live(B, state_bytes);
    live.copy_from(state_found);
    const State live_state = live.state();
    Floats y({R, D});
    m.forward(w, x, y, &live_state, true);
    for (int64_t b = 0; b < B; ++b) {
      std::vector<Complex> want, left;
      run_ref(b, want, left);
      for (size_t i = 0; i < want.size(); ++i)
        expect_near("y", static_cast<double>(y.tensor().row(w.first(b))[i]), want[i].real(),
                    kForward);
      const size_t used =
          m.mixer.state_bytes(found + lengths[static_cast<size_t>(b)]) / sizeof(float);
      for (size_t i = 0; i < used; ++i)
        expect_near("state left", static_cast<double>(live.row(b)[i]), left[i].real(), kForward);
    }

    // Backward against the complex step.
    m.clear();
    StateRows dlive(B, state_bytes);
    dlive.copy_from(gradient_left);
    const State dlive_state = dlive.state();
    Floats dx({R, D});
    m.backward(w, x, dy, dx, &live_state, &dlive_state);
    m.mixer.finish_gradients();
    const auto exact = [&](Complex& v, int64_t only) {
      const Complex keep = v;
      v = Complex(keep.real(), 1e-30);
      double d = 0;
      for (int64_t b = 0; b < B; ++b)
        if (only < 0 || only == b) d += loss(b).imag() / 1e-30;
      v = keep;
      return d;
    };
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t i = w.first(b) * D; i < (w.first(b) + w.length(b)) * D; ++i)
        expect_near("dx", static_cast<double>(dx.tensor().data[i]),
                    exact(cx[static_cast<size_t>(i)], b), kBackward);
      const size_t used = m.mixer.state_bytes(found) / sizeof(float);
      for (size_t i = 0; i < used; ++i)
        expect_near("gradient of the state found", static_cast<double>(dlive.row(b)[i]),
                    exact(cs[static_cast<size_t>(b)][i], b), kBackward);
    }
    for (size_t p = 0; p < cw.size(); ++p)
      for (size_t i = 0; i < cw[p].size(); i += 3)
        expect_near("dw (added to)", static_cast<double>(m.gradients[p][i]),
                    MixerUnderTest<M>::kGradientStart + exact(cw[p][i], -1), kBackward);

    // The same window one token at a time, and in two pieces.
    for (const std::vector<int32_t>& cuts :
         {std::vector<int32_t>{1, 1, 1, 1, 1, 1, 1}, std::vector<int32_t>{3, 4}}) {
      StateRows cut(B, state_bytes);
      cut.copy_from(state_found);
      const State cut_state = cut.state();
      int32_t done = 0;
      for (int32_t piece : cuts) {
        std::vector<int32_t> piece_offset = {0}, piece_start;
        std::vector<int64_t> from;
        for (int64_t b = 0; b < B; ++b) {
          const int32_t n = std::clamp(lengths[static_cast<size_t>(b)] - done, 0, piece);
          piece_offset.push_back(piece_offset.back() + n);
          piece_start.push_back(static_cast<int32_t>(found) + done);
          for (int32_t i = 0; i < n; ++i) from.push_back(w.first(b) + done + i);
        }
        RaggedBatchBuilder data;
        const RaggedBatch pw = data.set(piece_offset, piece_start);
        Floats px({pw.rows(), D}), py({pw.rows(), D});
        for (size_t i = 0; i < from.size(); ++i)
          std::copy_n(x.tensor().row(from[i]), D, px.tensor().row(static_cast<int64_t>(i)));
        m.forward(pw, px, py, &cut_state, false);
        for (size_t i = 0; i < from.size(); ++i)
          for (int64_t j = 0; j < D; ++j)
            expect_near("cut == whole",
                        static_cast<double>(py.tensor().row(static_cast<int64_t>(i))[j]),
                        static_cast<double>(y.tensor().row(from[i])[j]), kForward);
        done += piece;
      }
      for (int64_t b = 0; b < B; ++b) {
        const size_t used =
            m.mixer.state_bytes(found + lengths[static_cast<size_t>(b)]) / sizeof(float);
        for (size_t i = 0; i < used; ++i)
          expect_near("state of the cut form", static_cast<double>(cut.row(b)[i]),
                      static_cast<double>(live.row(b)[i]), kForward);
      }
    }
  });
}

// A weight without a gradient, frozen, changes no bit of the others' gradients and of dx.
template <class M, class Config>
void frozen_contract(const MixerDims& shape, const Config& config) {
  const int64_t D = shape.d_model, R = 33;
  MixerUnderTest<M> m(shape, config);
  RaggedBatchBuilder data;
  const RaggedBatch w = data.set(std::vector<int32_t>{0, 20, 21, 33}, std::vector<int32_t>(3, 0));
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
  const auto run = [&] {
    Floats y({R, D}), dx({R, D});
    m.clear();
    m.forward(w, x, y, nullptr, true);
    m.backward(w, x, dy, dx, nullptr, nullptr);
    m.mixer.finish_gradients();
    return std::vector<float>(dx.span().begin(), dx.span().end());
  };
  const std::vector<float> dx = run();
  const auto gradients = m.gradients;
  for (size_t frozen = 0; frozen <= gradients.size(); ++frozen) {  // each alone; then all
    const auto is_frozen = [&](size_t i) { return frozen == gradients.size() || i == frozen; };
    m.freeze(is_frozen);
    EXPECT_EQ(run(), dx) << frozen;
    for (size_t i = 0; i < gradients.size(); ++i)
      EXPECT_EQ(m.gradients[i], is_frozen(i)
                                    ? std::vector<float>(gradients[i].size(), m.kGradientStart)
                                    : gradients[i])
          << frozen << " " << i;
  }
}

// Whole sequences without a state: the training form. Its numbers are those of the form with an
// empty state, and no bit depends on threads or on which sequences share a window.
template <class M, class Config>
void training_contract(const MixerDims& shape, const Config& config) {
  frozen_contract<M>(shape, config);
  const int64_t D = shape.d_model;
  const std::vector<int32_t> offset = {0, 70, 71, 90, 150};
  const int64_t B = 4, R = offset.back();
  const std::vector<int32_t> start(B, 0);
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
  MixerUnderTest<M> m(shape, config);
  RaggedBatchBuilder data;
  const RaggedBatch w = data.set(offset, start);
  for_each_target([&] {
    set_threads(1);
    Floats y({R, D}), dx({R, D}), with_state({R, D});
    m.clear();
    m.forward(w, x, y, nullptr, true);
    m.backward(w, x, dy, dx, nullptr, nullptr);
    m.mixer.finish_gradients();
    const auto gradients = m.gradients;

    StateRows states(B, m.mixer.state_bytes(70));
    const State state = states.state();
    m.forward(w, x, with_state, &state, false);
    for (int64_t i = 0; i < R * D; ++i)
      expect_near("empty state == no state", static_cast<double>(with_state.tensor().data[i]),
                  static_cast<double>(y.tensor().data[i]), 1e-5);

    for (int threads : {2, 3}) {
      set_threads(threads);
      for (const std::vector<int64_t>& split : {std::vector<int64_t>{4}, {1, 3}, {1, 1, 1, 1}}) {
        Floats y2({R, D}), dx2({R, D});
        m.clear();
        int64_t first = 0;
        for (int64_t count : split) {
          std::vector<int32_t> part_offset;
          for (int64_t b = first; b <= first + count; ++b)
            part_offset.push_back(offset[static_cast<size_t>(b)] -
                                  offset[static_cast<size_t>(first)]);
          RaggedBatchBuilder part_data;
          const RaggedBatch part =
              part_data.set(part_offset, std::span(start).first(static_cast<size_t>(count)), first);
          const int64_t row = offset[static_cast<size_t>(first)];
          m.forward(part, x.tensor().slice(row, part.rows()), y2.tensor().slice(row, part.rows()),
                    nullptr, true);
          m.backward(part, x.tensor().slice(row, part.rows()), dy.tensor().slice(row, part.rows()),
                     dx2.tensor().slice(row, part.rows()), nullptr, nullptr);
          first += count;
        }
        m.mixer.finish_gradients();
        EXPECT_EQ(0, std::memcmp(y.span().data(), y2.span().data(), y.span().size_bytes()));
        EXPECT_EQ(0, std::memcmp(dx.span().data(), dx2.span().data(), dx.span().size_bytes()));
        EXPECT_EQ(gradients, m.gradients);
      }
    }
    set_threads(0);
  });
}

// K-step recomputation changes no bit, of sequences with a state and without, and keeps less.
template <class M, class Config>
void recompute_contract(const MixerDims& shape, const Config& config,
                        const std::vector<int64_t>& spacings) {
  const int64_t D = shape.d_model, B = 3;
  const std::vector<int32_t> offset = {0, 200, 201, 331}, start(3, 64);
  const int64_t R = offset.back();
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
  MixerUnderTest<M> m(shape, config);
  const size_t state_bytes = m.mixer.state_bytes(64 + 200);
  RaggedBatchBuilder with_past, from_nothing;
  const RaggedBatch continued = with_past.set(offset, start);
  const RaggedBatch whole = from_nothing.set(offset, std::vector<int32_t>(3, 0));
  const auto run = [&](bool with_state) {
    const RaggedBatch& w = with_state ? continued : whole;
    StateRows found(B, state_bytes), gradient(B, state_bytes);
    found.fill_normal(3, 0.5);
    gradient.fill_normal(4, 0.5);
    const State state = found.state(), dstate = gradient.state();
    Floats y({R, D}), dx({R, D});
    m.clear();
    m.forward(w, x, y, with_state ? &state : nullptr, true);
    m.backward(w, x, dy, dx, with_state ? &state : nullptr, with_state ? &dstate : nullptr);
    m.mixer.finish_gradients();
    std::vector<float> all(y.span().begin(), y.span().end());
    all.insert(all.end(), dx.span().begin(), dx.span().end());
    for (const auto& g : m.gradients) all.insert(all.end(), g.begin(), g.end());
    for (int64_t b = 0; b < B && with_state; ++b)
      for (const StateRows* rows : {&found, &gradient})
        all.insert(all.end(), rows->floats(b).begin(), rows->floats(b).end());
    return all;
  };
  for (const bool with_state : {false, true}) {
    m.checkpoint_interval = 0;
    const std::vector<float> want = run(with_state);
    const size_t kept = m.saved_bytes();
    for (const int64_t every : spacings) {
      SCOPED_TRACE(every);
      m.checkpoint_interval = every;
      const std::vector<float> got = run(with_state);
      ASSERT_EQ(got.size(), want.size());
      EXPECT_EQ(0, std::memcmp(got.data(), want.data(), want.size() * sizeof(float)));
      EXPECT_LT(m.saved_bytes(), kept);
    }
  }
}

// Pieces without rows leave their states, and the gradients of them, alone.
template <class M, class Config>
void empty_chunks_contract(const MixerDims& shape, const Config& config) {
  const int64_t D = shape.d_model;
  MixerUnderTest<M> m(shape, config);
  RaggedBatchBuilder data;
  const RaggedBatch w = data.set(std::vector<int32_t>{0, 0, 5, 5}, std::vector<int32_t>{2, 0, 7});
  const Floats x({5, D}, 0, 1), dy({5, D}, 0, 2);
  for (const int64_t every : {0, 64}) {
    m.checkpoint_interval = every;
    StateRows live(3, m.mixer.state_bytes(7)), gradient(3, m.mixer.state_bytes(7));
    live.fill_normal(3, 1);
    gradient.fill_normal(4, 1);
    const StateRows live_before = live, gradient_before = gradient;
    const State state = live.state(), dstate = gradient.state();
    Floats y({5, D}), dx({5, D});
    m.forward(w, x, y, &state, true);
    m.backward(w, x, dy, dx, &state, &dstate);
    m.mixer.finish_gradients();
    for (int64_t b : {0, 2}) {
      EXPECT_EQ(live.row(b), live_before.floats(b));
      EXPECT_EQ(gradient.row(b), gradient_before.floats(b));
    }
    EXPECT_NE(live.row(1), live_before.floats(1));
  }
}

// Everything that a sequence gives: outputs, the final state, gradients of inputs, weights and of
// the initial state.
struct SequenceOutcome {
  std::vector<float> y, state, dx, dweights, dstate;
};

// One sequence in pieces, with a initial state and a gradient coming in by the final state.
// Backward takes the pieces last to first, the gradient of the state going from one to the one
// before.
template <class M>
SequenceOutcome run_in_pieces(MixerUnderTest<M>& m, const std::vector<int32_t>& pieces,
                              const Floats& x, const Floats& dy, const StateRows& found,
                              const StateRows& gradient_left) {
  const int64_t D = x.tensor().cols(), T = x.tensor().rows();
  const size_t bytes = m.mixer.state_bytes(T);
  Floats y({T, D}), dx({T, D});
  StateRows live(1, bytes), gradient(1, bytes);
  live.copy_from(found);
  gradient.copy_from(gradient_left);
  const State state = live.state(), dstate = gradient.state();
  RaggedBatchBuilder data;
  const auto window = [&](size_t piece, int32_t first) {
    return data.set(std::vector<int32_t>{0, pieces[piece]}, std::vector<int32_t>{first});
  };
  std::vector<std::vector<float>> before(pieces.size());
  int32_t at = 0;
  for (size_t i = 0; i < pieces.size(); at += pieces[i++]) {
    before[i] = live.row(0);
    m.forward(window(i, at), x.tensor().slice(at, pieces[i]), y.tensor().slice(at, pieces[i]),
              &state, pieces.size() == 1);
  }
  SequenceOutcome all;
  all.state = live.row(0);
  m.clear();
  for (size_t i = pieces.size(); i-- > 0;) {
    at -= pieces[i];
    const RaggedBatch w = window(i, at);
    const ConstTensor from = x.tensor().slice(at, pieces[i]);
    if (pieces.size() > 1) {
      std::copy(before[i].begin(), before[i].end(), live.row(0).begin());
      Floats again({pieces[i], D});
      m.forward(w, from, again, &state, true);
    }
    m.backward(w, from, dy.tensor().slice(at, pieces[i]), dx.tensor().slice(at, pieces[i]), &state,
               &dstate);
  }
  m.mixer.finish_gradients();
  all.y.assign(y.span().begin(), y.span().end());
  all.dx.assign(dx.span().begin(), dx.span().end());
  all.dstate = gradient.row(0);
  for (const auto& g : m.gradients)
    for (const float v : g) all.dweights.push_back(v - MixerUnderTest<M>::kGradientStart);
  return all;
}

template <class A, class B>
double rms_ratio(const A& got, const B& want) {
  double error = 0, size = 0;
  EXPECT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const double a = static_cast<double>(got[i]), b = static_cast<double>(want[i]);
    error += (a - b) * (a - b);
    size += b * b;
  }
  return std::sqrt(error / size);
}

// A long sequence: whole, cut at random and token by token give the same in float32, and so does
// the reference in float64, each in its precision.
template <class M, template <class> class Ref, class Config>
void long_contract(const MixerDims& shape, const Config& config, int32_t T = 4096) {
  const int64_t D = shape.d_model;
  MixerUnderTest<M> m(shape, config);
  const size_t bytes = m.mixer.state_bytes(T), past = m.mixer.state_bytes(0);
  const Floats x({T, D}, 0, 1), dy({T, D}, 0, 2);
  StateRows found(1, bytes), gradient_left(1, bytes);
  if (past > 0) found.fill_normal(3, 0.5);
  gradient_left.fill_normal(4, 0.5);
  Random random(5);
  std::vector<int32_t> cuts;
  for (int32_t left = T; left > 0; left -= cuts.back())
    cuts.push_back(std::min(left, 1 + static_cast<int32_t>(random.below(200))));

  const auto whole = run_in_pieces(m, {T}, x, dy, found, gradient_left);
  for (const auto& pieces : {cuts, std::vector<int32_t>(static_cast<size_t>(T), 1)}) {
    SCOPED_TRACE(pieces.size());
    const auto got = run_in_pieces(m, pieces, x, dy, found, gradient_left);
    EXPECT_LE(rms_ratio(got.y, whole.y), 1e-5);
    EXPECT_LE(rms_ratio(got.state, whole.state), 1e-5);
    EXPECT_LE(rms_ratio(got.dx, whole.dx), 1e-5);
    EXPECT_LE(rms_ratio(got.dweights, whole.dweights), 1e-5);
    if (past > 0) {
      EXPECT_LE(rms_ratio(got.dstate, whole.dstate), 1e-5);
    }
  }

  std::vector<std::vector<double>> weights;
  for (const auto& w : m.weights) weights.emplace_back(w.begin(), w.end());
  const std::vector<double> input(x.tensor().begin(), x.tensor().end());
  const auto reference = [&](const std::vector<int32_t>& pieces) {
    std::vector<double> y(input.size());
    const std::vector<float>& from = found.floats(0);
    std::vector<double> state(from.begin(), from.end());
    int32_t at = 0;
    for (const int32_t n : pieces) {
      Ref<double>{shape, config}.forward(weights, at, n, input.data() + at * D, y.data() + at * D,
                                         state.data());
      at += n;
    }
    y.insert(y.end(), state.begin(), state.end());
    return y;
  };
  const std::vector<double> exact = reference({T});
  EXPECT_LE(rms_ratio(reference(cuts), exact), 1e-12);
  std::vector<float> both = whole.y;
  both.insert(both.end(), whole.state.begin(),
              whole.state.begin() + static_cast<int64_t>(bytes / 4));
  EXPECT_LE(rms_ratio(both, std::vector<double>(exact.begin(),
                                                exact.begin() + static_cast<int64_t>(both.size()))),
            1e-5);
}

}  // namespace refrain

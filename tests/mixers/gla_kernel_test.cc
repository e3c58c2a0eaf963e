#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/mixers/gla/kernel.h"
#include "refrain/mixers/gla/kernel_ref.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using kernels::GlaActivation;

struct Case {
  int64_t tokens, start, heads, K, V;
  float divisor = 1;
  double logit_std = 1;
};

// A sequence as the mixer lays it out, q | k | z | v in a row, with everything forward and backward
// leave. Gradients take the place of what they are of.
class Gla {
 public:
  explicit Gla(const Case& c, GlaActivation key_act = GlaActivation::kIdentity,
               GlaActivation value_act = GlaActivation::kIdentity)
      : c_(c),
        keys_(c.heads * c.K),
        values_(c.heads * c.V),
        shape_{c.heads, c.K, c.V, 0.25f, c.divisor, key_act, value_act, row(), row(), values_},
        x({c.tokens, row()}, 0, 1, 0.5),
        d_o({c.tokens, values_}, 0, 2),
        initial_state({c.heads, c.K, c.V}, 0, 3),
        o({c.tokens, values_}),
        state({c.heads, c.K, c.V}),
        dstate({c.heads, c.K, c.V}, 0, 4) {
    for (int64_t t = 0; t < c.tokens; ++t)
      for (int64_t i = 0; i < keys_; ++i)
        x.tensor().row(t)[2 * keys_ + i] *= static_cast<float>(2 * c.logit_std);
    std::copy(initial_state.span().begin(), initial_state.span().end(), state.span().begin());
  }

  // The sequence in chunks of these lengths, one after another, and back; or forward only.
  void run(const std::vector<int64_t>& chunks, int64_t every = 64, bool back = true) {
    const size_t size = static_cast<size_t>(shape_.state_size());
    std::vector<std::vector<float>> states, kept;
    int64_t at = 0;
    for (int64_t n : chunks) {
      states.emplace_back(state.span().begin(), state.span().end());
      kept.emplace_back(size *
                        static_cast<size_t>(kernels::gla_kept_states(c_.start + at, n, every)));
      const kernels::GlaSequence s = sequence(at, n, states.back().data());
      const kernels::GlaOutputs to{o.tensor().row(at), state.tensor().data, kept.back().data()};
      with_scratch([&](Arena& a) { kernels::gla_forward(shape_, {&s, 1}, {&to, 1}, every, a); });
      at += n;
    }
    for (size_t i = chunks.size(); back && i-- > 0;) {
      at -= chunks[i];
      const kernels::GlaSequence s = sequence(at, chunks[i], states[i].data());
      float* r = x.tensor().row(at);
      const kernels::GlaGradients g{
          d_o.tensor().row(at), r, r + keys_, r + 3 * keys_, r + 2 * keys_, kept[i].data(),
          dstate.tensor().data};
      with_scratch([&](Arena& a) { kernels::gla_backward(shape_, {&s, 1}, {&g, 1}, every, a); });
    }
  }

  // Columns of one head.
  template <class T>
  std::vector<T> columns(ConstTensor from, int64_t first, int64_t count) const {
    std::vector<T> part;
    for (int64_t t = 0; t < from.rows(); ++t)
      for (int64_t i = 0; i < count; ++i) part.push_back(T(from.row(t)[first + i]));
    return part;
  }
  std::vector<float> everything() const { return all_of({&o, &state, &x, &dstate}); }

  int64_t row() const { return 3 * keys_ + values_; }
  Case c_;
  int64_t keys_, values_;
  kernels::GlaShape shape_;
  Floats x, d_o, initial_state, o, state, dstate;

 private:
  kernels::GlaSequence sequence(int64_t at, int64_t n, const float* from) const {
    const float* r = x.tensor().row(at);
    return {c_.start + at, n, r, r + keys_, r + 3 * keys_, r + 2 * keys_, from};
  }
  // Counts what a call takes and then makes it with exactly that.
  template <class F>
  static void with_scratch(F&& call) {
    Arena count;
    call(count);
    Buffer<std::byte> memory(count.peak() + 64);
    Arena arena(memory.data(), count.peak());
    call(arena);
  }
};

// One head in float64.
struct Exact {
  std::vector<double> q, k, z, v, d_o, o, state, dstate, dq, dk, dz, dv;

  Exact(const Gla& g, int64_t h)
      : q(g.columns<double>(g.x, h * g.c_.K, g.c_.K)),
        k(g.columns<double>(g.x, g.keys_ + h * g.c_.K, g.c_.K)),
        z(g.columns<double>(g.x, 2 * g.keys_ + h * g.c_.K, g.c_.K)),
        v(g.columns<double>(g.x, 3 * g.keys_ + h * g.c_.V, g.c_.V)),
        d_o(g.columns<double>(g.d_o, h * g.c_.V, g.c_.V)),
        o(v.size()),
        dq(q.size()),
        dk(q.size()),
        dz(q.size()),
        dv(v.size()) {
    const Tensor initial_state = g.initial_state.tensor().slice(h, 1),
                 left = g.dstate.tensor().slice(h, 1);
    state.assign(initial_state.begin(), initial_state.end());
    dstate.assign(left.begin(), left.end());
    const std::vector<double> start = state;
    const kernels::GlaHeadRef ref{g.c_.tokens, g.c_.K, g.c_.V, 0.25,
                                  static_cast<double>(g.c_.divisor)};
    const kernels::GlaRowsRef<double> rows{q.data(), k.data(), v.data(), z.data()};
    ref.forward(rows, state.data(), o.data());
    ref.backward(rows, start.data(),
                 {d_o.data(), dq.data(), dk.data(), dv.data(), dz.data(), dstate.data()});
    through(g.shape_.key_act, k, dk);
    through(g.shape_.value_act, v, dv);
  }
  static void through(GlaActivation f, const std::vector<double>& y, std::vector<double>& d) {
    for (size_t i = 0; i < y.size(); ++i) {
      if (f == GlaActivation::kTanh) d[i] *= 1 - y[i] * y[i];
      if (f == GlaActivation::kSigmoid) d[i] *= y[i] * (1 - y[i]);
    }
  }
};

// Root mean square of the difference over that of what is right.
double rms_ratio(const std::vector<float>& got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(difference / size);
}

void expect_right(const Gla& g, const std::vector<Exact>& exact, double limit) {
  for (int64_t h = 0; h < g.c_.heads; ++h) {
    const Exact& e = exact[static_cast<size_t>(h)];
    const int64_t K = g.c_.K, V = g.c_.V;
    const Tensor state = g.state.tensor().slice(h, 1), dstate = g.dstate.tensor().slice(h, 1);
    EXPECT_LE(rms_ratio(g.columns<float>(g.o, h * V, V), e.o), limit) << "o";
    EXPECT_LE(rms_ratio({state.begin(), state.end()}, e.state), limit) << "state";
    EXPECT_LE(rms_ratio(g.columns<float>(g.x, h * K, K), e.dq), limit) << "dq";
    EXPECT_LE(rms_ratio(g.columns<float>(g.x, g.keys_ + h * K, K), e.dk), limit) << "dk";
    EXPECT_LE(rms_ratio(g.columns<float>(g.x, 2 * g.keys_ + h * K, K), e.dz), limit) << "dz";
    EXPECT_LE(rms_ratio(g.columns<float>(g.x, 3 * g.keys_ + h * V, V), e.dv), limit) << "dv";
    EXPECT_LE(rms_ratio({dstate.begin(), dstate.end()}, e.dstate), limit) << "dstate";
  }
}

std::vector<Exact> exact_heads(const Gla& g) {
  std::vector<Exact> all;
  for (int64_t h = 0; h < g.c_.heads; ++h) all.emplace_back(g, h);
  return all;
}

// Lengths at random that add up to `tokens`, some of them one.
std::vector<int64_t> random_cuts(int64_t tokens, uint64_t key) {
  Random random(key);
  std::vector<int64_t> chunks;
  for (int64_t left = tokens; left > 0; left -= chunks.back())
    chunks.push_back(
        std::min(left, random.below(4) == 0 ? 1 : 1 + static_cast<int64_t>(random.below(150))));
  return chunks;
}

TEST(Gla, TheReferencesBackwardIsTheComplexStepOfItsForward) {
  constexpr int64_t T = 5, K = 3, V = 2;
  const kernels::GlaHeadRef ref{T, K, V, 0.3, 2};
  Random random(9);
  const auto normal = [&](int64_t n) {
    std::vector<double> v(static_cast<size_t>(n));
    for (double& x : v) x = random.normal();
    return v;
  };
  const auto q = normal(T * K), k = normal(T * K), z = normal(T * K), v = normal(T * V);
  const auto initial_state = normal(K * V), d_o = normal(T * V), left = normal(K * V);
  auto dstate = left;
  std::vector<double> dq(q.size()), dk(q.size()), dz(q.size()), dv(v.size());
  ref.backward({q.data(), k.data(), v.data(), z.data()}, initial_state.data(),
               {d_o.data(), dq.data(), dk.data(), dv.data(), dz.data(), dstate.data()});
  std::vector<Complex> in[] = {{q.begin(), q.end()},
                               {k.begin(), k.end()},
                               {v.begin(), v.end()},
                               {z.begin(), z.end()},
                               {initial_state.begin(), initial_state.end()}};
  const auto loss = [&] {
    std::vector<Complex> o(v.size()), state = in[4];
    ref.forward({in[0].data(), in[1].data(), in[2].data(), in[3].data()}, state.data(), o.data());
    Complex sum = 0;
    for (size_t i = 0; i < o.size(); ++i) sum += d_o[i] * o[i];
    for (size_t i = 0; i < state.size(); ++i) sum += left[i] * state[i];
    return sum;
  };
  const std::vector<double>* got[] = {&dq, &dk, &dv, &dz, &dstate};
  for (size_t p = 0; p < 5; ++p) {
    const std::vector<double> want = complex_step(in[p], loss);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR((*got[p])[i], want[i], 1e-13) << p;
  }
}

TEST(Gla, ForwardAndBackwardAreTheReferences) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{1, 0, 1, 1, 1},
                                           {1, 31, 2, 4, 8, 16},
                                           {7, 0, 2, 4, 8},
                                           {8, 0, 1, 16, 16},
                                           {9, 7, 1, 3, 5, 16},
                                           {16, 0, 1, 16, 32},
                                           {40, 5, 3, 6, 10, 16},
                                           {100, 3, 2, 20, 33},
                                           {130, 64, 2, 32, 64, 16},
                                           {150, 1, 1, 48, 40, 4},
                                           {70, 63, 1, 33, 100}}) {
      SCOPED_TRACE(testing::Message() << c.tokens << " tokens, K " << c.K << ", V " << c.V);
      Gla g(c);
      const auto exact = exact_heads(g);
      g.run({c.tokens});
      expect_right(g, exact, 2e-6);  // some ten roundings of 6e-8
    }
  });
}

TEST(Gla, GradientsGoThroughTheActivations) {
  for_each_target([] {
    for (const auto key_act : {GlaActivation::kTanh, GlaActivation::kSigmoid}) {
      Gla g({30, 0, 2, 5, 6}, key_act, GlaActivation::kTanh);
      for (float& v : g.x.span()) v = std::tanh(v);  // whatever is in range serves as f(x)
      const auto exact = exact_heads(g);
      g.run({30});
      expect_right(g, exact, 2e-6);
    }
  });
}

TEST(Gla, WithoutAStateItBeginsWithNothing) {
  for_each_target([] {
    Gla with({50, 0, 2, 8, 12}), without({50, 0, 2, 8, 12});
    for (const Floats* zero : {&with.state, &with.dstate})
      std::fill(zero->span().begin(), zero->span().end(), 0.0f);
    with.run({50});
    const float* r = without.x.tensor().data;
    const kernels::GlaSequence s{0, 50, r, r + 16, r + 48, r + 32, nullptr};
    const kernels::GlaOutputs to{without.o.tensor().data, nullptr, nullptr};
    float* w = without.x.tensor().data;
    const kernels::GlaGradients g{
        without.d_o.tensor().data, w, w + 16, w + 48, w + 32, nullptr, nullptr};
    Buffer<std::byte> memory(size_t{4} << 20);
    Arena arena(memory.data(), memory.size());
    kernels::gla_forward(without.shape_, {&s, 1}, {&to, 1}, 64, arena);
    kernels::gla_backward(without.shape_, {&s, 1}, {&g, 1}, 64, arena);
    EXPECT_TRUE(same_bits(with.o.span(), without.o.span()));
    EXPECT_TRUE(same_bits(with.x.span(), without.x.span()));
  });
}

// Whole, cut anywhere and stepped are the same function to the bit, and so are gradients where the
// cuts stand between chunks; nothing depends on threads or on how many states are kept.
TEST(Gla, NoBitDependsOnCutsThreadsOrKeptStates) {
  const Case c{200, 16, 4, 24, 40, 16};
  for_each_target([&] {
    set_threads(1);
    Gla whole(c);
    whole.run({200});
    const std::vector<float> want = whole.everything();
    for (int threads : {1, 3}) {
      set_threads(threads);
      for (int64_t every : {16, 48, 64, 1024}) {
        Gla g(c);
        g.run({200}, every);
        EXPECT_TRUE(same_bits(g.everything(), want)) << every;
      }
      Gla cut(c);
      cut.run({48, 16, 112, 24});
      EXPECT_TRUE(same_bits(cut.everything(), want));
      for (const auto& chunks : {std::vector<int64_t>(200, 1), random_cuts(200, 5)}) {
        Gla g(c);
        g.run(chunks, 64, false);
        EXPECT_TRUE(same_bits(g.o.span(), whole.o.span()));
        EXPECT_TRUE(same_bits(g.state.span(), whole.state.span()));
      }
    }
    set_threads(0);
  });
}

// Whole, at random cuts and stepped, forward and back through the states between the chunks, in
// float32 against float64.
TEST(Gla, LongSequencesAreRightHoweverTheyAreCut) {
  const Case c{4096, 0, 1, 32, 64, 16, 2};
  const auto exact = exact_heads(Gla(c));
  for_each_target([&] {
    for (const auto& chunks :
         {std::vector<int64_t>{4096}, random_cuts(4096, 3), std::vector<int64_t>(4096, 1)}) {
      Gla g(c);
      g.run(chunks);
      expect_right(g, exact, 1e-5);
    }
  });
}

// The popular form C_t = P_t ⊙ Σ_j k_j v_j / P_j with P the running product of the gates, for one
// value channel: the step at which it is wrong by more than 1 % or not a number.
int64_t first_wrong_step(const Exact& e, int64_t K, int64_t V) {
  std::vector<float> P(static_cast<size_t>(K), 1), S(P.size(), 0);
  std::vector<double> C(P.size(), 0);
  const auto tokens = static_cast<int64_t>(e.v.size()) / V;
  for (int64_t t = 0; t < tokens; ++t) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < P.size(); ++i) {
      const size_t at = static_cast<size_t>(t * K) + i;
      const double g = 1 / (1 + std::exp(-e.z[at])), kv = e.k[at] * e.v[static_cast<size_t>(t * V)];
      P[i] *= static_cast<float>(g);
      S[i] += static_cast<float>(kv) / P[i];
      C[i] = g * C[i] + kv;
      const double d = static_cast<double>(P[i] * S[i]) - C[i];
      difference += d * d;
      size += C[i] * C[i];
    }
    if (!(difference <= 1e-4 * size)) return t;
  }
  return tokens;
}

TEST(Gla, IsStableAtAnyLengthWhereDividingByProductsOfGatesFails) {
  const Case c{65536, 0, 1, 8, 8, 1, 2};
  const Gla begin(c);
  const auto exact = exact_heads(begin);
  EXPECT_LT(first_wrong_step(exact[0], c.K, c.V), 200);
  Gla g(c);
  g.run({c.tokens});
  expect_right(g, exact, 1e-5);
}

// Gates that are all but shut, or open for good: products of gates leave float's range.
TEST(Gla, ExtremeGatesAreRight) {
  for_each_target([] {
    for (const float divisor : {1.0f, 16.0f}) {
      Gla g({300, 0, 1, 8, 8, divisor, 40});
      const auto exact = exact_heads(g);
      g.run({300});
      expect_right(g, exact, 2e-6);
    }
  });
}

TEST(Gla, WhatIsNotANumberIsSeen) {
  for_each_target([] {
    Gla g({40, 0, 1, 4, 4});
    g.x[20 * g.row() + 2 * 4 + 1] = std::numeric_limits<float>::quiet_NaN();  // a gate's logit
    g.run({40});
    EXPECT_TRUE(std::isnan(g.o[39 * 4]));
    EXPECT_TRUE(std::isnan(g.dstate[4]));
  });
}

}  // namespace
}  // namespace refrain

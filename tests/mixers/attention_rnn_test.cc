// What is special to attention_rnn, beside the contract: long sequences however they are cut, a
// state that does not grow, the published number of parameters.
#include <map>
#include <string>

#include "refrain/mixers/attention_rnn/ref.h"
#include "support/error_of.h"
#include "support/mixer_contract.h"

namespace refrain {
namespace {

MixerDims shape(int64_t d_model, int64_t heads) {
  return {d_model, heads, heads, d_model / heads, 64, 2};
}

// RMS of the difference over RMS of what it should be.
void expect_rms(const char* what, std::span<const float> got, std::span<const double> want) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    error += d * d;
    size += want[i] * want[i];
  }
  EXPECT_LE(std::sqrt(error / size), 1e-5) << what;
}

std::vector<double> wide(std::span<const float> v) { return {v.begin(), v.end()}; }

// Outputs, the final state and all gradients in float64, by the recurrences of the paper run
// forward and then backward: not by the complex step, which would take a run for every number.
struct Exact {
  static constexpr int64_t T = 4096, D = 16, H = 2, d = D / H;

  std::vector<double> y, left, dx, dfound;
  std::vector<std::vector<double>> dw;  // token, q, k, v, o

  Exact(std::vector<std::vector<double>> w, const std::vector<double>& x,
        const std::vector<double>& dy, std::vector<double> state, std::vector<double> dleft)
      : y(x.size()), dx(x.size()) {
    for (const auto& v : w) dw.emplace_back(v.size());
    const auto at = [](int64_t row, int64_t i) { return static_cast<size_t>(row * D + i); };
    const auto times = [&](const std::vector<double>& m, const std::vector<double>& from) {
      std::vector<double> to(from.size());
      for (int64_t r = 0; r < static_cast<int64_t>(from.size()) / D; ++r)
        for (int64_t i = 0; i < D; ++i)
          for (int64_t j = 0; j < D; ++j) to[at(r, i)] += m[at(i, j)] * from[at(r, j)];
      return to;
    };
    // dfrom += dto m,  dm += dtoᵀ from
    const auto back = [&](const std::vector<double>& m, const std::vector<double>& from,
                          const std::vector<double>& dto, std::vector<double>& dfrom,
                          std::vector<double>& dm) {
      for (int64_t r = 0; r < static_cast<int64_t>(from.size()) / D; ++r)
        for (int64_t i = 0; i < D; ++i)
          for (int64_t j = 0; j < D; ++j) {
            dfrom[at(r, j)] += m[at(i, j)] * dto[at(r, i)];
            dm[at(i, j)] += dto[at(r, i)] * from[at(r, j)];
          }
    };
    const std::vector<double> q = times(w[1], w[0]), k = times(w[2], x), v = times(w[3], x);
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    std::vector<double> o(x.size()), d_o(x.size()), dq(D), dk(x.size()), dv(x.size());
    std::vector<std::vector<double>> s(H), m(H), c(H);  // m[h][0], c[h][0]: what was found
    const std::vector<double> found = state;
    for (int64_t h = 0; h < H; ++h) {
      auto &sh = s[static_cast<size_t>(h)], &mh = m[static_cast<size_t>(h)];
      auto& ch = c[static_cast<size_t>(h)];
      ch.push_back(found[static_cast<size_t>(D + h)]);
      mh.push_back(found[static_cast<size_t>(D + H + h)]);
      for (int64_t t = 0; t < T; ++t) {
        double score = 0;
        for (int64_t i = h * d; i < (h + 1) * d; ++i)
          score += scale * q[static_cast<size_t>(i)] * k[at(t, i)];
        const double top = std::max(mh.back(), score);
        const double fade = std::exp(mh.back() - top), weight = std::exp(score - top);
        ch.push_back(ch.back() * fade + weight);
        mh.push_back(top);
        sh.push_back(score);
        for (int64_t i = h * d; i < (h + 1) * d; ++i) {
          double& a = state[static_cast<size_t>(i)];
          a = a * fade + weight * v[at(t, i)];
          o[at(t, i)] = a / ch.back();
        }
      }
      state[static_cast<size_t>(D + h)] = ch.back();
      state[static_cast<size_t>(D + H + h)] = mh.back();
    }
    left = state;
    y = times(w[4], o);
    back(w[4], o, dy, d_o, dw[4]);
    dfound.resize(found.size());
    for (int64_t h = 0; h < H; ++h) {
      const auto &sh = s[static_cast<size_t>(h)], &mh = m[static_cast<size_t>(h)];
      const auto& ch = c[static_cast<size_t>(h)];
      const auto ih = static_cast<size_t>(h);
      std::vector<double> G(dleft.begin() + h * d, dleft.begin() + (h + 1) * d);
      double Hc = -dleft[static_cast<size_t>(D) + ih];
      double of_maximum = dleft[static_cast<size_t>(D + H) + ih] + Hc * ch.back();
      for (int64_t j = 0; j < d; ++j)
        of_maximum -= G[static_cast<size_t>(j)] * left[static_cast<size_t>(h * d + j)];
      bool pending = true;
      for (int64_t t = T - 1; t >= -1; --t) {
        const auto it = static_cast<size_t>(t + 1);
        if (t + 1 < T) {
          const double fade = std::exp(mh[it] - mh[it + 1]);
          for (double& g : G) g *= fade;
          Hc *= fade;
        }
        if (t < 0) break;
        double ds = 0, dot = 0;
        const double weight = std::exp(sh[it - 1] - mh[it]);
        for (int64_t j = 0; j < d; ++j) {
          const size_t i = at(t, h * d + j);
          G[static_cast<size_t>(j)] += d_o[i] / ch[it];
          dot += d_o[i] * o[i];
          dv[i] = weight * G[static_cast<size_t>(j)];
          ds += weight * v[i] * G[static_cast<size_t>(j)];
        }
        Hc += dot / ch[it];
        ds -= weight * Hc;
        if (pending && sh[it - 1] == mh.back()) {
          ds += of_maximum;
          pending = false;
        }
        for (int64_t j = h * d; j < (h + 1) * d; ++j) {
          dq[static_cast<size_t>(j)] += scale * ds * k[at(t, j)];
          dk[at(t, j)] = scale * ds * q[static_cast<size_t>(j)];
        }
      }
      double dm = -Hc * ch.front() + (pending ? of_maximum : 0);
      for (int64_t j = 0; j < d; ++j) {
        dfound[static_cast<size_t>(h * d + j)] = G[static_cast<size_t>(j)];
        dm += G[static_cast<size_t>(j)] * found[static_cast<size_t>(h * d + j)];
      }
      dfound[static_cast<size_t>(D) + ih] = -Hc;
      dfound[static_cast<size_t>(D + H) + ih] = dm;
    }
    back(w[2], x, dk, dx, dw[2]);
    back(w[3], x, dv, dx, dw[3]);
    back(w[1], w[0], dq, dw[0], dw[1]);
  }
};

// 4,096 tokens at once, cut at random places and token by token, each with its gradients.
TEST(AttentionRnnMixer, LongSequencesHoweverTheyAreCut) {
  constexpr int64_t T = Exact::T, D = Exact::D, H = Exact::H, F = D + 2 * H;
  const Floats x({T, D}, 0, 1), dy({T, D}, 0, 2), dleft({F}, 0, 3), found({F}, 0, 4);
  for (int64_t h = 0; h < H; ++h) found[D + h] = 2;
  MixerUnderTest<AttentionRnn> m(shape(D, H), AttentionRnnConfig{});
  std::vector<std::vector<double>> w;
  for (const auto& v : m.weights) w.push_back(wide(v));
  const Exact exact(w, wide(x.span()), wide(dy.span()), wide(found.span()), wide(dleft.span()));

  Random random(5);
  std::vector<int64_t> whole = {0, T}, random_cuts = {0, T}, single;
  for (int i = 0; i < 20; ++i) random_cuts.push_back(static_cast<int64_t>(random.below(T)));
  std::sort(random_cuts.begin(), random_cuts.end());
  for (int64_t t = 0; t <= T; ++t) single.push_back(t);
  for (const auto& cuts : {whole, random_cuts, single}) {
    SCOPED_TRACE(cuts.size());
    Floats y({T, D}), dx({T, D});
    StateRows live(1, m.mixer.state_bytes(T)), gradient(1, m.mixer.state_bytes(T));
    std::copy(found.span().begin(), found.span().end(), live.row(0).begin());
    std::copy(dleft.span().begin(), dleft.span().end(), gradient.row(0).begin());
    const State state = live.state(), dstate = gradient.state();
    for (auto& g : m.gradients) std::fill(g.begin(), g.end(), 0.0f);
    const auto run = [&](size_t i, bool backward) {
      const int64_t first = cuts[i], n = cuts[i + 1] - first;
      const std::vector<int32_t> offset = {0, static_cast<int32_t>(n)};
      RaggedBatchBuilder data;
      const RaggedBatch chunk = data.set(offset, std::vector<int32_t>{static_cast<int32_t>(first)});
      m.forward(chunk, x.tensor().slice(first, n), y.tensor().slice(first, n), &state, backward);
      if (backward)
        m.backward(chunk, x.tensor().slice(first, n), dy.tensor().slice(first, n),
                   dx.tensor().slice(first, n), &state, &dstate);
    };
    std::vector<std::vector<float>> before;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      before.push_back(live.row(0));
      run(i, false);
    }
    expect_rms("y", y.span(), exact.y);
    expect_rms("state left", std::span(live.row(0)).first(F), exact.left);
    for (size_t i = before.size(); i-- > 0;) {
      live.row(0) = before[i];
      run(i, true);
    }
    m.mixer.finish_gradients();
    expect_rms("dx", dx.span(), exact.dx);
    expect_rms("gradient of the state found", std::span(gradient.row(0)).first(F), exact.dfound);
    for (size_t i = 0; i < exact.dw.size(); ++i) expect_rms("dw", m.gradients[i], exact.dw[i]);
  }
}

TEST(AttentionRnnMixer, AMillionTokensInAStateThatDoesNotGrow) {
  constexpr int64_t T = 1'000'000, D = 8, H = 2, kChunk = 8192;
  MixerUnderTest<AttentionRnn> m(shape(D, H), AttentionRnnConfig{});
  for (int64_t t : {int64_t{1}, int64_t{1000}, T})
    EXPECT_EQ(m.mixer.state_bytes(t), (D + 2 * H) * sizeof(float));
  std::vector<std::vector<double>> w;
  for (const auto& v : m.weights) w.push_back(wide(v));
  StateRows live(1, m.mixer.state_bytes(T));
  const State state = live.state();
  std::vector<double> exact(D + 2 * H), exact_y(kChunk * D);
  for (int64_t first = 0; first < T; first += kChunk) {
    const int64_t n = std::min(kChunk, T - first);
    const Floats x({n, D}, 0, static_cast<uint64_t>(first) + 7);
    Floats y({n, D});
    RaggedBatchBuilder data;
    m.forward(data.set(std::vector<int32_t>{0, static_cast<int32_t>(n)},
                       std::vector<int32_t>{static_cast<int32_t>(first)}),
              x, y, &state, false);
    const std::vector<double> wide_x = wide(x.span());
    AttentionRnnRef<double>{shape(D, H), {}}.forward(w, first, n, wide_x.data(), exact_y.data(),
                                                     exact.data());
    for (float v : y.span()) ASSERT_TRUE(std::isfinite(v));
    if (first + n < T) continue;
    expect_rms("y", y.span(), std::span(exact_y).first(static_cast<size_t>(n * D)));
    expect_rms("state", std::span(live.row(0)).first(D + 2 * H), exact);
  }
}

// Feed-forward width 2048 with biases and two layer norms make 3,152,384 of a transformer's block
// and 3,152,896 of this one: 512 more, the query token.
TEST(AttentionRnnMixer, HasTheQueryTokenMoreThanAttention) {
  constexpr int64_t D = 512, F = 2048;
  AttentionRnn mixer(shape(D, 8), {true, true, true});
  std::map<std::string, int64_t> sizes;
  int64_t total = 0;
  mixer.visit([&](const ParamSpec& spec, Param&) {
    sizes[spec.name] = spec.size();
    total += spec.size();
  });
  EXPECT_EQ(sizes.size(), 9u);
  EXPECT_EQ(sizes.at("query_token"), D);
  EXPECT_EQ(total, 4 * (D * D + D) + D);
  EXPECT_EQ(total + (D * F + F) + (F * D + D) + 2 * 2 * D, 3'152'896);
}

TEST(AttentionRnnMixer, RecomputationKeepsNothingThatGrows) {
  MixerUnderTest<AttentionRnn> m(shape(16, 2), AttentionRnnConfig{});
  m.checkpoint_interval = 64;
  std::vector<size_t> bytes;
  for (int64_t T : {64, 640}) {
    const Floats x({T, 16}, 0, 1);
    Floats y({T, 16});
    StateRows live(1, m.mixer.state_bytes(T));
    const State state = live.state();
    RaggedBatchBuilder data;
    m.forward(data.whole(1, T), x, y, &state, true);
    bytes.push_back(m.saved_bytes());
  }
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST(AttentionRnnMixer, AStepsSumsEndWithIt) {
  MixerUnderTest<AttentionRnn> m(shape(6, 2), AttentionRnnConfig{true, true, true});
  RaggedBatchBuilder data;
  const RaggedBatch w = data.whole(1, 5);
  const Floats x({5, 6}, 0, 1), dy({5, 6}, 0, 2);
  const auto step = [&] {
    Floats y({5, 6}), dx({5, 6});
    m.clear();
    m.forward(w, x, y, nullptr, true);
    m.backward(w, x, dy, dx, nullptr, nullptr);
    m.mixer.finish_gradients();
    return m.gradients;
  };
  EXPECT_EQ(step(), step());
}

AttentionRnnConfig token_query(bool bias = false, bool scaled = true) {
  return {.bias = bias, .scaled = scaled, .query = "token"};
}

// Self-attention over whole sequences of several lengths: outputs, and all gradients by the complex
// step, against every token's own run of the cell.
TEST(AttentionRnnMixer, TokenQueriesReadTheWholeSequence) {
  constexpr int64_t D = 8;
  const std::vector<int32_t> offset = {0, 7, 8, 12};
  for (const bool bias : {false, true}) {
    SCOPED_TRACE(bias);
    const MixerDims dims = shape(D, 2);
    MixerUnderTest<AttentionRnn> m(dims, token_query(bias, !bias));
    const int64_t R = offset.back();
    const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
    RaggedBatchBuilder data;
    const RaggedBatch w = data.set(offset, std::vector<int32_t>(3, 0));
    std::vector<std::vector<Complex>> cw;
    for (const auto& v : m.weights) cw.emplace_back(v.begin(), v.end());
    std::vector<Complex> cx(x.span().begin(), x.span().end()), cy(cx.size());
    const auto run = [&] {
      Complex loss = 0;
      for (int64_t b = 0; b < w.sequences(); ++b)
        AttentionRnnRef<Complex>{dims, token_query(bias, !bias)}.forward(
            cw, 0, w.length(b), &cx[static_cast<size_t>(w.first(b) * D)],
            &cy[static_cast<size_t>(w.first(b) * D)], nullptr);
      for (size_t i = 0; i < cy.size(); ++i) loss += cy[i] * static_cast<double>(dy.span()[i]);
      return loss;
    };
    const auto exact = [&](Complex& v) {
      v += Complex(0, 1e-30);
      const double d = run().imag() / 1e-30;
      v = v.real();
      return d;
    };
    run();
    const std::vector<Complex> want = cy;
    for_each_target([&] {
      Floats y({R, D}), dx({R, D});
      m.clear();
      m.forward(w, x, y, nullptr, true);
      m.backward(w, x, dy, dx, nullptr, nullptr);
      m.mixer.finish_gradients();
      for (size_t i = 0; i < want.size(); ++i) {
        expect_near("y", static_cast<double>(y.span()[i]), want[i].real(), 1e-5);
        expect_near("dx", static_cast<double>(dx.span()[i]), exact(cx[i]), 1e-4);
      }
      for (size_t p = 0; p < cw.size(); ++p)
        for (size_t i = 0; i < cw[p].size(); ++i)
          expect_near("dw (added to)", static_cast<double>(m.gradients[p][i]),
                      m.kGradientStart + exact(cw[p][i]), 1e-4);
    });
    EXPECT_FALSE(m.mixer.causal());
  }
}

// No bit depends on threads, or on which sequences share a batch.
TEST(AttentionRnnMixer, TokenQueriesDoNotKnowTheirBatch) {
  constexpr int64_t D = 32;
  MixerUnderTest<AttentionRnn> m(shape(D, 4), token_query(true));
  const std::vector<int32_t> lengths = {70, 1, 0, 33};
  std::vector<int32_t> offset = {0};
  for (const int32_t n : lengths) offset.push_back(offset.back() + n);
  const int64_t R = offset.back();
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
  const auto run = [&](int threads, bool together) {
    set_threads(threads);
    Floats y({R, D}), dx({R, D});
    m.clear();
    for (size_t b = 0; b < (together ? 1 : lengths.size()); ++b) {
      std::vector<int32_t> cut = offset;
      if (!together) cut = {0, lengths[b]};
      const int64_t first = together ? 0 : offset[b], n = cut.back();
      RaggedBatchBuilder data;
      const RaggedBatch w = data.set(cut, std::vector<int32_t>(cut.size() - 1, 0));
      const auto part = [&](const Floats& f) { return f.tensor().slice(first, n); };
      m.forward(w, part(x), part(y), nullptr, true);
      m.backward(w, part(x), part(dy), part(dx), nullptr, nullptr);
    }
    std::vector<float> all(y.span().begin(), y.span().end());
    all.insert(all.end(), dx.span().begin(), dx.span().end());
    return all;
  };
  const std::vector<float> one = run(1, true);
  for (const int threads : {1, 2, 5})
    for (const bool together : {true, false}) EXPECT_TRUE(same_bits(run(threads, together), one));
}

// The published parameters of a transformer's block, to which Aaren adds the query token.
TEST(AttentionRnnMixer, TokenQueriesNeedNoQueryToken) {
  constexpr int64_t D = 512, F = 2048;
  AttentionRnn mixer(shape(D, 8), token_query(true));
  int64_t total = 0;
  mixer.visit([&](const ParamSpec& spec, Param&) { total += spec.size(); });
  EXPECT_EQ(total + (D * F + F) + (F * D + D) + 2 * 2 * D, 3'152'384);
}

TEST(AttentionRnnMixer, TokenQueriesHaveNoSteps) {
  MixerUnderTest<AttentionRnn> m(shape(8, 2), token_query());
  const Floats x({1, 8}, 0, 1);
  Floats y({1, 8});
  StateRows live(1, m.mixer.state_bytes(1));
  const State state = live.state();
  RaggedBatchBuilder data;
  EXPECT_EQ(error_of([&] { m.forward(data.whole(1, 1), x, y, &state, false); }),
            "attention_rnn.query: token reads a sequence whole: expected learned where a state "
            "goes from chunk to chunk or token to token");
}

TEST(AttentionRnnMixer, RefusesWhatItCannotBe) {
  EXPECT_EQ(error_of([] {
              AttentionRnn({8, 2, 2, 4, 64, 2}, {.query = "both"});
            }),
            "attention_rnn.query: expected learned or token, found 'both'");
  EXPECT_EQ(error_of([] {
              AttentionRnn({9, 3, 3, 3, 64, 2}, {.query = "token"});
            }),
            "head_dim: expected an even number for rotary positions, found 3");
  EXPECT_EQ(error_of([] {
              AttentionRnn({8, 0, 1, 8, 64, 2}, {});
            }),
            "heads: expected 1 or more, found 0");
  EXPECT_EQ(error_of([] {
              AttentionRnn({8, 1, 1, 0, 64, 2}, {});
            }),
            "head_dim: expected 1 or more, found 0");
}

}  // namespace
}  // namespace refrain

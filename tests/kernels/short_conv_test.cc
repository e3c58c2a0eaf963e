#include "refrain/kernels/sequence/short_conv.h"

#include <optional>

#include "refrain/base/buffer.h"
#include "refrain/kernels/sequence/short_conv_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

constexpr int64_t kBeside = 3;  // columns of p and y that are none of the kernel's business

// Chunks of the given lengths, and everything a pass over them reads and writes.
struct Pass {
  Pass(int64_t channels, int64_t taps, std::vector<int64_t> lengths_, bool with_state = true)
      : C(channels), N(taps), lengths(std::move(lengths_)), with_state(with_state) {
    for (int64_t n : lengths) R += n;
    const auto B = static_cast<int64_t>(lengths.size());
    w.emplace(std::initializer_list<int64_t>{C, N}, C % 4, 1);
    p.emplace(std::initializer_list<int64_t>{R, C + kBeside}, C % 3, 2);
    dy.emplace(std::initializer_list<int64_t>{R, C + kBeside}, 1, 3);
    initial_state.emplace(std::initializer_list<int64_t>{B, (N - 1) * C}, 2, 4);
    dstate.emplace(std::initializer_list<int64_t>{B, (N - 1) * C}, 1, 5);
    dw.emplace(std::initializer_list<int64_t>{C, N}, 1, 6);
    y.emplace(std::initializer_list<int64_t>{R, C + kBeside}, 3);
    final_state.emplace(std::initializer_list<int64_t>{B, (N - 1) * C}, 3);
  }

  // Both ways. In `calls` of so many chunks.
  void operator()(std::vector<int64_t> calls = {}) {
    if (calls.empty()) calls = {static_cast<int64_t>(lengths.size())};
    int64_t b = 0, row = 0;
    for (int64_t count : calls) {
      std::vector<kernels::ShortConvChunk> chunks;
      int64_t first = 0;
      for (int64_t end = b + count; b < end; ++b) {
        const int64_t n = lengths[static_cast<size_t>(b)];
        chunks.push_back({first, n});
        if (with_state) {
          chunks.back().initial_state = initial_state->tensor().row(b);
          chunks.back().final_state = final_state->tensor().row(b);
          chunks.back().dstate = dstate->tensor().row(b);
        }
        first += n;
      }
      const auto columns = [&](const std::optional<Floats>& all) {
        return MatrixView<float>(*all).row_range(row, R - row).col_range(0, C);
      };
      Arena count_only;
      kernels::short_conv_forward({*w}, chunks, columns(p), columns(y), count_only);
      kernels::short_conv_backward({*w}, *dw, chunks, columns(p), columns(dy), count_only);
      Buffer<std::byte> memory(count_only.peak() + 64);
      Arena scratch(memory.data(), memory.size());
      kernels::short_conv_forward({*w}, chunks, columns(p), columns(y), scratch);
      kernels::short_conv_backward({*w}, *dw, chunks, columns(p), columns(dy), scratch);
      EXPECT_EQ(scratch.peak(), count_only.peak());
      row += first;
    }
  }

  // The first C columns of rows [first, first + count).
  std::vector<float> columns(const std::optional<Floats>& all, int64_t first, int64_t count) const {
    std::vector<float> part;
    for (int64_t r = first; r < first + count; ++r)
      part.insert(part.end(), all->tensor().row(r), all->tensor().row(r) + C);
    return part;
  }
  std::vector<float> beside() const {
    std::vector<float> all;
    for (const auto* rows : {&p, &dy})
      for (int64_t r = 0; r < R; ++r)
        all.insert(all.end(), (*rows)->tensor().row(r) + C, (*rows)->tensor().row(r) + C + kBeside);
    return all;
  }
  std::vector<float> results() const {
    std::vector<float> all = columns(y, 0, R);
    for (const float v : columns(p, 0, R)) all.push_back(v);
    for (const auto* array : {&final_state, &dstate, &dw})
      all.insert(all.end(), (*array)->span().begin(), (*array)->span().end());
    return all;
  }

  int64_t C, N, R = 0;
  std::vector<int64_t> lengths;
  bool with_state;
  std::optional<Floats> w, p, dy, initial_state, dstate, dw, y, final_state;
};

// What the reference makes of a pass that has not been made, gradients by the complex step.
struct Reference {
  explicit Reference(const Pass& pass) : dw(pass.dw->span().begin(), pass.dw->span().end()) {
    std::vector<Complex> w(pass.w->span().begin(), pass.w->span().end());
    int64_t first = 0;
    for (size_t b = 0; b < pass.lengths.size(); ++b) {
      const int64_t n = pass.lengths[b], past = (pass.N - 1) * pass.C;
      const auto rows = pass.columns(pass.p, first, n), grads = pass.columns(pass.dy, first, n);
      const auto row = static_cast<size_t>(past) * b;
      const auto dleft = pass.dstate->span().subspan(row, static_cast<size_t>(past));
      const auto from = pass.initial_state->span().subspan(row, static_cast<size_t>(past));
      std::vector<Complex> p(rows.begin(), rows.end()), initial_state(from.begin(), from.end());
      if (!pass.with_state) std::fill(initial_state.begin(), initial_state.end(), 0);
      std::vector<Complex> out, state;
      const auto loss = [&] {
        out.resize(p.size());
        state = initial_state;
        kernels::ShortConvRef{pass.C, pass.N, n}.forward(w.data(), p.data(), state.data(),
                                                         out.data());
        return dot(grads, out) + (pass.with_state ? dot(dleft, state) : 0);
      };
      const auto add = [](std::vector<double>& to, const std::vector<double>& more) {
        to.insert(to.end(), more.begin(), more.end());
      };
      add(dp, complex_step(p, loss));
      add(dfound, complex_step(initial_state, loss));
      const std::vector<double> more = complex_step(w, loss);
      for (size_t i = 0; i < dw.size(); ++i) dw[i] += more[i];
      for (const Complex& v : out) y.push_back(v.real());
      for (const Complex& v : state) final_state.push_back(v.real());
      first += n;
    }
  }
  std::vector<double> y, final_state, dp, dfound, dw;
};

TEST(ShortConv, MatchesReferenceAndItsComplexStep) {
  for (int64_t C : awkward_sizes()) {
    if (C > 50) continue;  // the complex step takes the square of it
    for (int64_t N : {2, 3, 4, 16}) {
      if (N == 16 && C > 3 && C != 17) continue;
      for (const bool with_state : {false, true}) {
        SCOPED_TRACE(testing::Message() << C << " channels, " << N << " taps");
        // Longer and shorter than the taps reach, and of nothing.
        const std::vector<int64_t> lengths = {0, 5, 1, 0, 2, 3, 0};
        const Reference want(Pass(C, N, lengths, with_state));
        for_each_target([&] {
          Pass pass(C, N, lengths, with_state);
          const std::vector<float> beside = pass.beside();
          pass();
          const double terms = 8;  // what sums of some ten terms of size 1 and 2 add up
          expect_close(pass.columns(pass.y, 0, pass.R), want.y, 16, terms);
          expect_close(pass.columns(pass.p, 0, pass.R), want.dp, 16, terms);
          expect_close(pass.dw->span(), want.dw, 32, terms);
          if (with_state) {
            expect_close(pass.final_state->span(), want.final_state, 0, 0);
            expect_close(pass.dstate->span(), want.dfound, 16, terms);
          }
          EXPECT_TRUE(same_bits(pass.beside(), beside));
        });
      }
    }
  }
}

// A sequence in chunks, forward and, from the last chunk to the first, back: the bits of y, dp, the
// rows of the final state and the gradient of the initial one are those of the sequence whole. A
// state is advanced and its gradient goes back in place.
TEST(ShortConv, GivesTheSameBitsHoweverASequenceIsCut) {
  constexpr int64_t C = 37, R = 40;
  for (int64_t N : {2, 4, 16})
    for_each_target([&] {
      Pass whole(C, N, {R});
      whole();
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>(R, 1), std::vector<int64_t>{2, 0, 17, 1, 20},
            std::vector<int64_t>{R - 1, 1}}) {
        Pass cut(C, N, {R});
        Buffer<std::byte> memory(1 << 16);
        Arena scratch(memory.data(), memory.size());
        const auto chunk = [&](int64_t rows) {
          kernels::ShortConvChunk one{0, rows};
          one.final_state = cut.initial_state->tensor().data;
          one.dstate = cut.dstate->tensor().data;
          return one;
        };
        const auto columns = [&](const std::optional<Floats>& all, int64_t first) {
          return MatrixView<float>(*all).row_range(first, R - first).col_range(0, C);
        };
        std::vector<std::vector<float>> initial_state;
        int64_t at = 0;
        for (int64_t n : cuts) {
          initial_state.emplace_back(cut.initial_state->span().begin(),
                                     cut.initial_state->span().end());
          kernels::ShortConvChunk one = chunk(n);
          one.initial_state = one.final_state;
          kernels::short_conv_forward({*cut.w}, {&one, 1}, columns(cut.p, at), columns(cut.y, at),
                                      scratch);
          at += n;
        }
        for (size_t i = cuts.size(); i-- > 0;) {
          at -= cuts[i];
          kernels::ShortConvChunk one = chunk(cuts[i]);
          one.initial_state = initial_state[i].data();
          kernels::short_conv_backward({*cut.w}, *cut.dw, {&one, 1}, columns(cut.p, at),
                                       columns(cut.dy, at), scratch);
        }
        EXPECT_TRUE(same_bits(cut.columns(cut.y, 0, R), whole.columns(whole.y, 0, R)));
        EXPECT_TRUE(same_bits(cut.columns(cut.p, 0, R), whole.columns(whole.p, 0, R)));
        EXPECT_TRUE(same_bits(cut.initial_state->span(), whole.final_state->span()));
        EXPECT_TRUE(same_bits(cut.dstate->span(), whole.dstate->span()));
      }
    });
}

TEST(ShortConv, NoStateIsAStateOfZeros) {
  for_each_target([&] {
    Pass with(21, 4, {5, 1, 9}), without(21, 4, {5, 1, 9}, false);
    with.initial_state->fill(0);
    with.dstate->fill(0);
    with();
    without();
    EXPECT_TRUE(same_bits(with.columns(with.y, 0, 15), without.columns(without.y, 0, 15)));
    EXPECT_TRUE(same_bits(with.columns(with.p, 0, 15), without.columns(without.p, 0, 15)));
    EXPECT_TRUE(same_bits(with.dw->span(), without.dw->span()));
  });
}

TEST(ShortConv, ThreadsAndCallsDoNotChangeABit) {
  std::vector<int64_t> lengths = {300, 1, 0, 130};
  for (int i = 0; i < 60; ++i) lengths.push_back(i % 7);
  const auto results = [&](const std::vector<int64_t>& calls) {
    Pass pass(150, 4, lengths);
    pass(calls);
    return pass.results();
  };
  expect_law(static_cast<int64_t>(lengths.size()), results);
}

TEST(ShortConv, RefusesOtherNumbersOfTaps) {
  Arena scratch;
  for (int64_t taps : {1, 17}) {
    const Floats w({3, taps});
    EXPECT_THROW(kernels::short_conv_forward({w}, {}, {}, {}, scratch), std::logic_error);
  }
}

}  // namespace
}  // namespace refrain

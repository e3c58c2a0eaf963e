#include "refrain/base/buffer.h"
#include "refrain/mixers/attention_rnn/kernel.h"
#include "refrain/mixers/attention_rnn/kernel_ref.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using kernels::ScanChunk;
using kernels::ScanShape;

// Tensors for `rows` rows in blocks of at most `blocks`, and what a call needs beside them.
struct Scan {
  ScanShape shape;
  Floats s, v, o, keep, share, carries, d_o, ds, dv;
  Buffer<std::byte> memory{1 << 22};

  Scan(ScanShape shape_, int64_t rows, int64_t blocks, int64_t misalign = 0, double spread = 2)
      : shape(shape_),
        s({rows, shape.heads}, misalign, 1, spread),
        v({rows, shape.width()}, misalign, 2),
        o({rows, shape.width()}, misalign),
        keep({rows, shape.heads}, misalign),
        share({rows, shape.heads}, misalign),
        carries({blocks, shape.state_size()}, misalign),
        d_o({rows, shape.width()}, misalign, 3),
        ds({rows, shape.heads}, misalign),
        dv({rows, shape.width()}, misalign) {}

  kernels::ScanRows rows(std::span<const ScanChunk> chunks) const {
    int64_t blocks = 0;
    for (const ScanChunk& p : chunks) blocks += kernels::scan_blocks(p.start, p.tokens);
    return {s, v, o, keep, share, carries.tensor().slice(0, blocks)};
  }
  void forward(std::span<const ScanChunk> chunks) {
    Arena count, scratch(memory.data(), memory.size());
    kernels::attention_scan_forward(shape, chunks, rows(chunks), count);
    kernels::attention_scan_forward(shape, chunks, rows(chunks), scratch);
    EXPECT_EQ(scratch.peak(), count.peak());
  }
  void backward(std::span<const ScanChunk> chunks) {
    Arena count, scratch(memory.data(), memory.size());
    kernels::attention_scan_backward(shape, chunks, rows(chunks), {d_o, ds, dv}, count);
    kernels::attention_scan_backward(shape, chunks, rows(chunks), {d_o, ds, dv}, scratch);
    EXPECT_EQ(scratch.peak(), count.peak());
  }
  // A state as some tokens leave it.
  std::vector<float> some_state(uint64_t key) const {
    Random random(key);
    std::vector<float> state;
    for (int64_t i = 0; i < shape.state_size(); ++i)
      state.push_back(static_cast<float>(random.normal()));
    for (int64_t h = 0; h < shape.heads; ++h)
      state[static_cast<size_t>(shape.width() + h)] = 1 + static_cast<float>(random.uniform());
    return state;
  }
};

// Lengths and positions that begin, end and lie inside of blocks.
struct Span {
  int64_t start, tokens;
};
const std::vector<Span> kSpans = {{0, 1},  {0, 63}, {0, 64},  {0, 65},   {7, 30},
                                  {63, 1}, {63, 2}, {64, 64}, {50, 100}, {3, 259}};

TEST(AttentionScan, ForwardMatchesReference) {
  const std::vector<ScanShape> shapes = {{1, 1},  {1, 3},  {3, 5}, {2, 16},
                                         {17, 7}, {4, 33}, {8, 64}};
  for (const ScanShape& shape : shapes)
    for (const bool continued : {false, true})
      for (const Span& span : kSpans) {
        const int64_t tokens = span.tokens, width = shape.width();
        SCOPED_TRACE(testing::Message() << shape.heads << " heads of " << shape.head_dim << ", "
                                        << tokens << " tokens from " << span.start);
        Scan scan(shape, tokens + 2, 6, tokens % 4);
        const std::vector<float> found = scan.some_state(4);
        std::vector<double> left(found.begin(), found.end());
        if (!continued) std::fill(left.begin(), left.end(), 0.0);
        ReferenceArray<double> s(scan.s.tensor().slice(1, tokens)),
            v(scan.v.tensor().slice(1, tokens));
        std::vector<double> o(v.values().size());
        kernels::attention_scan_ref(shape, tokens, s.values().data(), v.values().data(),
                                    left.data(), o.data());
        for_each_target([&] {
          std::vector<float> state = found;
          scan.o.fill(-1);
          const ScanChunk chunk{1, tokens, span.start, continued ? state.data() : nullptr,
                                state.data()};
          scan.forward({&chunk, 1});
          // A few roundings for every doubling of the terms in a sum; o is of the values' size.
          expect_close(scan.o.span().subspan(static_cast<size_t>(width), o.size()), o, 64, 4);
          expect_close(state, left, 64, 4);
          for (int64_t j = 0; j < width; ++j) EXPECT_EQ(scan.o[j], -1);
        });
      }
}

// Scores are given, so nothing that is done with them grows with their size.
TEST(AttentionScan, LargeScoresGiveTheOutputsAndGradientsOfFloat64) {
  const ScanShape shape{3, 5};
  const int64_t tokens = 90;
  for (const double size : {1e3, 1e6, 1e10, 1e20, 1e37}) {
    SCOPED_TRACE(size);
    Scan scan(shape, tokens, 6);
    // Steps of about the size, and some of a few units if float32 has them; ties, too.
    Random random(9);
    for (float& s : scan.s.span())
      s = static_cast<float>(size * std::floor(4 * random.uniform() - 2)) +
          static_cast<float>(std::floor(3 * random.uniform()));
    ReferenceArray<Complex> s(scan.s), v(scan.v);
    std::vector<Complex> o(v.values().size());
    const auto run = [&] {
      std::vector<Complex> state(static_cast<size_t>(shape.state_size()));
      kernels::attention_scan_ref(shape, tokens, s.values().data(), v.values().data(), state.data(),
                                  o.data());
      return dot(scan.d_o.span(), o);
    };
    run();
    std::vector<double> want;
    for (const Complex& value : o) want.push_back(value.real());
    const std::vector<double> ds = complex_step(s.values(), run);
    const std::vector<double> dv = complex_step(v.values(), run);
    for_each_target([&] {
      const ScanChunk chunk{0, tokens, 0};
      scan.forward({&chunk, 1});
      expect_close(scan.o.span(), want, 32, 1);
      scan.backward({&chunk, 1});
      expect_close(scan.ds.span(), ds, 64, 64);
      expect_close(scan.dv.span(), dv, 64, 64);
    });
  }
}

TEST(AttentionScan, BackwardIsTheComplexStep) {
  const ScanShape shape{2, 3};
  for (const bool continued : {false, true})
    for (const Span& span : kSpans) {
      const int64_t start = span.start, tokens = span.tokens;
      SCOPED_TRACE(testing::Message() << tokens << " tokens from " << start);
      Scan scan(shape, tokens, 6, tokens % 4);
      std::vector<float> found = scan.some_state(4), dleft = scan.some_state(5);
      if (!continued) std::fill(found.begin(), found.end(), 0.0f);
      // In the second head nothing is higher than what was found.
      if (continued) found.back() = 50;
      ReferenceArray<Complex> s(scan.s), v(scan.v);
      std::vector<Complex> state(found.begin(), found.end());
      const auto loss = [&] {
        std::vector<Complex> left = state, o(v.values().size());
        kernels::attention_scan_ref(shape, tokens, s.values().data(), v.values().data(),
                                    left.data(), o.data());
        return dot(scan.d_o.span(), o) + dot(dleft, left);
      };
      const auto ds = complex_step(s.values(), loss), dv = complex_step(v.values(), loss);
      const auto dfound = complex_step(state, loss);
      for_each_target([&] {
        std::vector<float> live = found, dstate = dleft;
        const ScanChunk chunk{0, tokens, start, live.data(), live.data(), dstate.data()};
        scan.forward({&chunk, 1});
        scan.backward({&chunk, 1});
        // Gradients add up over all later tokens.
        expect_close(scan.ds.span(), ds, 256, 4);
        expect_close(scan.dv.span(), dv, 256, 4);
        expect_close(dstate, dfound, 256, 4);
      });
    }
}

// Everything forward and backward make of a sequence that is cut into these chunks.
std::vector<float> cut_sequence(Scan& scan, const std::vector<int64_t>& cuts) {
  std::vector<float> state(static_cast<size_t>(scan.shape.state_size())), first_state = state;
  std::vector<float> dstate = scan.some_state(5), all;
  std::vector<std::vector<float>> found;
  const int64_t W = scan.shape.width(), H = scan.shape.heads;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    found.push_back(state);
    const ScanChunk chunk{cuts[i], cuts[i + 1] - cuts[i], cuts[i], state.data(), state.data()};
    scan.forward({&chunk, 1});
  }
  all = state;
  all.insert(all.end(), scan.o.span().begin(), scan.o.span().end());
  for (size_t i = found.size(); i-- > 0;) {
    state = found[i];
    const ScanChunk chunk{cuts[i],      cuts[i + 1] - cuts[i], cuts[i],
                          state.data(), state.data(),          dstate.data()};
    scan.forward({&chunk, 1});
    scan.backward({&chunk, 1});
  }
  EXPECT_EQ(scan.ds.tensor().size() / H, scan.dv.tensor().size() / W);
  for (const Floats* a : {&scan.ds, &scan.dv})
    all.insert(all.end(), a->span().begin(), a->span().end());
  all.insert(all.end(), dstate.begin(), dstate.end());
  return all;
}

TEST(AttentionScan, ThreadsAndCutsAtBlocksDoNotChangeABit) {
  constexpr int64_t T = 1000;
  Scan scan({3, 40}, T, T / 64 + 2);
  for_each_target([&] {
    set_threads(1);
    const auto want = cut_sequence(scan, {0, T});
    for (int n : {1, 2, 3}) {
      set_threads(n);
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{0, T}, {0, 64, T}, {0, 320, 384, 960, T}})
        EXPECT_TRUE(same_bits(cut_sequence(scan, cuts), want)) << n << " threads";
    }
    set_threads(0);
  });
}

// Token by token, with blocks, and by two orders of combination in float64.
TEST(AttentionScan, IterativeAndParallelAgree) {
  constexpr int64_t T = 100, d = 3;
  Scan scan({1, d}, T, T);
  ReferenceArray<double> s(scan.s), v(scan.v);
  std::vector<double> state(d + 2), o(T * d);
  kernels::attention_scan_ref({1, d}, T, s.values().data(), v.values().data(), state.data(),
                              o.data());
  const auto prefixes = kernels::prefix_scan_ref(d, T, s.values().data(), v.values().data());
  for (size_t i = 0; i < T * d; ++i)
    EXPECT_NEAR(prefixes[i / d].a[i % d] / prefixes[i / d].c, o[i], 1e-12);
  for_each_target([&] {
    cut_sequence(scan, {0, T});
    const std::vector<float> whole(scan.o.span().begin(), scan.o.span().end());
    std::vector<int64_t> steps;
    for (int64_t t = 0; t <= T; ++t) steps.push_back(t);
    cut_sequence(scan, steps);
    for (size_t i = 0; i < T * d; ++i) {
      EXPECT_NEAR(scan.o.span()[i], whole[i], 1e-6);
      EXPECT_NEAR(whole[i], o[i], 1e-6);
    }
  });
}

TEST(AttentionScan, ScoresFarFromZero) {
  constexpr int64_t T = 150, d = 4;
  for (const std::vector<float>& offsets : std::vector<std::vector<float>>{
           {-150}, {10000}, {-1e30f}, {-150, 10000}, {10000, -150}, {0, 80, -80, 200}}) {
    Scan scan({1, d}, T, 3, 0, 1);
    for (int64_t t = 0; t < T; ++t) scan.s[t] += offsets[static_cast<size_t>(t) % offsets.size()];
    ReferenceArray<double> s(scan.s), v(scan.v);
    std::vector<double> left(d + 2), o(T * d);
    kernels::attention_scan_ref({1, d}, T, s.values().data(), v.values().data(), left.data(),
                                o.data());
    for_each_target([&] {
      std::vector<float> state(d + 2), dstate(d + 2);
      const ScanChunk chunk{0, T, 0, state.data(), state.data(), dstate.data()};
      scan.forward({&chunk, 1});
      expect_close(scan.o.span(), o, 64, 4);
      scan.backward({&chunk, 1});
      for (const Floats* gradient : {&scan.ds, &scan.dv})
        for (float g : gradient->span()) EXPECT_TRUE(std::isfinite(g));
    });
  }
  // What a maximum that starts from zero would have made of the first of them.
  float m = 0, a = 0, c = 0;
  for (int t = 0; t < T; ++t) {
    c = c * std::exp(m - std::max(m, -150.0f)) + std::exp(-150.0f - std::max(m, -150.0f));
    a = c;
    m = std::max(m, -150.0f);
  }
  EXPECT_TRUE(std::isnan(a / c));
}

TEST(AttentionScan, AnEmptyStateIsEmptyWhateverElseItHolds) {
  Scan scan({2, 3}, 5, 1);
  ScanChunk chunk{0, 5, 0};
  scan.forward({&chunk, 1});
  const std::vector<float> want(scan.o.span().begin(), scan.o.span().end());
  std::vector<float> state = scan.some_state(4), dstate = scan.some_state(5);
  for (size_t h = 0; h < 2; ++h) {
    state[6 + h] = 0;
    state[8 + h] = 100;  // m, higher than any score
  }
  chunk.initial_state = chunk.final_state = state.data();
  chunk.dstate = dstate.data();
  scan.forward({&chunk, 1});
  EXPECT_TRUE(same_bits(scan.o.span(), want));
  scan.backward({&chunk, 1});
  EXPECT_EQ(dstate, std::vector<float>(10, 0.0f));
}

TEST(AttentionScan, ChunksDoNotSeeEachOther) {
  const ScanShape shape{2, 20};
  Scan together(shape, 300, 10), alone(shape, 300, 10);
  const std::vector<ScanChunk> chunks = {{0, 100, 0}, {100, 1, 5}, {101, 199, 60}};
  together.forward(chunks);
  together.backward(chunks);
  for (const ScanChunk& chunk : chunks) {
    alone.forward({&chunk, 1});
    alone.backward({&chunk, 1});
  }
  for (const auto& [a, b] :
       {std::pair{&together.o, &alone.o}, {&together.ds, &alone.ds}, {&together.dv, &alone.dv}})
    EXPECT_TRUE(same_bits(a->span(), b->span()));
}

TEST(AttentionScan, KeepsNanInItsHeadAndAfter) {
  for_each_target([&] {
    Scan scan({2, 3}, 100, 2);
    scan.s[20 * 2 + 1] = std::numeric_limits<float>::quiet_NaN();
    const ScanChunk chunk{0, 100, 0};
    scan.forward({&chunk, 1});
    for (int64_t i = 0; i < 600; ++i)
      EXPECT_EQ(std::isnan(scan.o[i]), i / 6 >= 20 && i % 6 >= 3) << i;
  });
}

}  // namespace
}  // namespace refrain

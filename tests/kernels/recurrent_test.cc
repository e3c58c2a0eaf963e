#include "refrain/kernels/sequence/recurrent.h"

#include <optional>
#include <string>

#include "refrain/base/buffer.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/kernels/sequence/recurrent_ref.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using kernels::Cell;

constexpr Cell kCells[] = {Cell::kRnn, Cell::kLstm, Cell::kGru};

// Chunks of the given lengths, and everything a run over them reads and writes.
class Loop {
 public:
  Loop(Cell cell, int64_t H, std::vector<int64_t> lengths,
       kernels::ComputeType compute_type = kernels::ComputeType::kFloat32)
      : cell(cell),
        compute_type(compute_type),
        H(H),
        G(kernels::gates_of(cell)),
        S(kernels::states_of(cell)),
        lengths(std::move(lengths)) {
    for (int64_t n : this->lengths) R += n;
    const auto B = static_cast<int64_t>(this->lengths.size());
    constexpr uint64_t key = 1;
    const double scale = 1 / std::sqrt(static_cast<double>(H));
    w_hh.emplace(std::initializer_list<int64_t>{G * H, H}, H % 4, key, scale);
    b_hh.emplace(std::initializer_list<int64_t>{G * H}, H % 3, key + 1);
    a.emplace(std::initializer_list<int64_t>{R, G * H}, 0, key + 2);
    initial_state.emplace(std::initializer_list<int64_t>{B, S * H}, 1, key + 3, 0.5);
    dh.emplace(std::initializer_list<int64_t>{R, H}, H % 5, key + 4);
    dstate.emplace(std::initializer_list<int64_t>{B, S * H}, 1, key + 5);
  }

  Tensor gates() { return a->tensor(); }

  // Both ways over the chunks; `with_dstate` decides whether gradients come and go by the state.
  void operator()(bool with_dstate = true) {
    h.emplace(std::initializer_list<int64_t>{R, H}, 1);
    extra.emplace(std::initializer_list<int64_t>{R, H}, 2);
    dp.emplace(std::initializer_list<int64_t>{R, G * H}, 3);
    std::vector<kernels::RecurrentChunk> chunks;
    std::vector<float*> gradients;
    int64_t first = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      const auto row = static_cast<int64_t>(b);
      chunks.push_back({first, lengths[b], initial_state->tensor().row(row)});
      if (with_dstate) gradients.push_back(dstate->tensor().row(row));
      first += lengths[b];
    }
    const kernels::RecurrentWeights weights{cell, *w_hh, *b_hh,
                                            packed.empty() ? nullptr : packed.data()};
    const kernels::RecurrentRows rows{gates(), *h, *extra};
    const kernels::RecurrentGradients in{*dh, gradients, *dp};
    Arena count;
    kernels::recurrent_forward(chunks, weights, rows, count, compute_type);
    kernels::recurrent_backward(chunks, weights, rows, in, count, compute_type);
    Buffer<std::byte> memory(count.peak() + 64);
    Arena scratch(memory.data(), memory.size());
    kernels::recurrent_forward(chunks, weights, rows, scratch, compute_type);
    forward_gates.assign(gates().begin(), gates().end());
    kernels::recurrent_backward(chunks, weights, rows, in, scratch, compute_type);
    EXPECT_EQ(scratch.peak(), count.peak());
  }

  // Every number of a run after it.
  std::vector<float> results() const {
    std::vector<float> all = forward_gates;
    for (const auto* array : {&h, &a, &dstate})
      all.insert(all.end(), (*array)->span().begin(), (*array)->span().end());
    if (cell == Cell::kGru) all.insert(all.end(), dp->span().begin(), dp->span().end());
    return all;
  }

  Cell cell;
  kernels::ComputeType compute_type;
  int64_t H, G, S, R = 0;
  std::vector<int64_t> lengths;
  std::optional<Floats> w_hh, b_hh, a, initial_state, dh, dstate, h, extra, dp;
  std::vector<float> forward_gates, packed;
};

template <class T>
std::vector<T> as(std::span<const float> from) {
  return {from.begin(), from.end()};
}

// What the reference makes of chunk b of a run that has not run yet.
struct Reference {
  Reference(const Loop& run, size_t b) {
    int64_t first = 0;
    for (size_t i = 0; i < b; ++i) first += run.lengths[i];
    const int64_t T = run.lengths[b], width = run.G * run.H;
    const auto part = [](const Floats& all, int64_t begin, int64_t count) {
      return as<double>(all.span().subspan(static_cast<size_t>(begin), static_cast<size_t>(count)));
    };
    const auto w = as<double>(run.w_hh->span()), bias = as<double>(run.b_hh->span());
    const auto a = part(*run.a, first * width, T * width),
               dh = part(*run.dh, first * run.H, T * run.H);
    const int64_t state = run.S * run.H, row = static_cast<int64_t>(b) * state;
    auto carried = part(*run.initial_state, row, state);
    dstate = part(*run.dstate, row, state);
    h.resize(static_cast<size_t>(T * run.H));
    da.resize(static_cast<size_t>(T * width));
    dp.resize(da.size());
    const kernels::RecurrentCellRef<double> cell{run.cell, run.H, w.data(), bias.data()};
    std::vector<kernels::RecurrentStepRef<double>> steps;
    cell.forward(T, a.data(), h.data(), carried.data(), &steps);
    cell.backward(steps, dh.data(), dstate.data(), da.data(), dp.data());
  }
  std::vector<double> h, da, dp, dstate;
};

TEST(Recurrent, MatchesReferenceBothWays) {
  for (Cell cell : kCells)
    for (int64_t H : awkward_sizes()) {
      SCOPED_TRACE(H);
      // More chunks than a tile has rows, of lengths out of order, some of nothing.
      std::vector<int64_t> lengths = {3, 0, 5, 1, 2};
      if (H < 12) lengths.insert(lengths.end(), {4, 1, 0, 1, 6, 2, 2, 3, 5, 4, 1, 1, 2, 3});
      const Loop fresh(cell, H, lengths);
      std::vector<Reference> want;
      for (size_t b = 0; b < lengths.size(); ++b) want.emplace_back(fresh, b);
      const auto expect_references = [&](const Loop& run, double factor) {
        int64_t first = 0;
        for (size_t b = 0; b < lengths.size(); ++b) {
          const auto rows = [&](const Floats& all, int64_t width) {
            return all.span().subspan(static_cast<size_t>(first * width),
                                      static_cast<size_t>(lengths[b] * width));
          };
          // Chains of H and G H terms of size 1, a few steps deep.
          expect_close(rows(*run.h, H), want[b].h, 64 * factor, 1);
          expect_close(rows(*run.a, run.G * H), want[b].da, 256 * factor, 1);
          if (cell == Cell::kGru)
            expect_close(rows(*run.dp, run.G * H), want[b].dp, 256 * factor, 1);
          const auto state = static_cast<size_t>(run.S * H);
          expect_close(run.dstate->span().subspan(b * state, state), want[b].dstate, 256 * factor,
                       1);
          first += lengths[b];
        }
      };
      for_each_target([&] {
        Loop run(cell, H, lengths), rounded(cell, H, lengths, kernels::ComputeType::kInt16);
        run();
        expect_references(run, 1);
        // Steps of 2^-12 of the largest instead of 2^-24 of each.
        rounded();
        expect_references(rounded, 0x1p12);
        if (H >= 8) {
          EXPECT_FALSE(same_bits(run.h->span(), rounded.h->span()));
        }
        // Steps of 2^-8 of each.
        Loop bf16(cell, H, lengths, kernels::ComputeType::kBf16);
        bf16();
        expect_references(bf16, 0x1p14);
        EXPECT_EQ(same_bits(run.h->span(), bf16.h->span()), !kernels::has_bf16_units());
      });
    }
}

// The plain backward is what long sequences are judged by, so it is judged itself.
TEST(Recurrent, PlainBackwardIsTheComplexStep) {
  constexpr int64_t H = 3, T = 5;
  for (Cell cell : kCells) {
    const Loop run(cell, H, {T});
    const Reference reference(run, 0);
    auto w = as<Complex>(run.w_hh->span()), b = as<Complex>(run.b_hh->span());
    auto a = as<Complex>(run.a->span()), initial_state = as<Complex>(run.initial_state->span());
    const auto loss = [&] {
      std::vector<Complex> h(static_cast<size_t>(T * H)), state = initial_state;
      const kernels::RecurrentCellRef<Complex> complex_cell{cell, H, w.data(), b.data()};
      complex_cell.forward(T, a.data(), h.data(), state.data());
      return dot(run.dh->span(), h) + dot(run.dstate->span(), state);
    };
    const auto near = [](const std::vector<double>& got, const std::vector<double>& want) {
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-13);
    };
    near(reference.da, complex_step(a, loss));
    near(reference.dstate, complex_step(initial_state, loss));
    const std::vector<double> db = complex_step(b, loss);
    for (size_t j = 0; j < db.size(); ++j) {
      double sum = 0;
      for (size_t t = 0; t < T; ++t) sum += reference.dp[t * db.size() + j];
      ASSERT_NEAR(sum, db[j], 1e-13);
    }
  }
}

// Without gradients by the state, those of the rows are as if zeros came in.
TEST(Recurrent, NoGradientByTheStateIsZero) {
  for (Cell cell : kCells) {
    Loop with(cell, 5, {4, 2, 0}), without(cell, 5, {4, 2, 0});
    with.dstate->fill(0);
    with();
    without(false);
    EXPECT_TRUE(same_bits(with.a->span(), without.a->span()));
  }
}

// Packed weights serve where every gate ends with a panel; elsewhere they are as good as none.
TEST(Recurrent, PackedWeightsChangeNoBit) {
  for (Cell cell : kCells)
    for (int64_t H : {64, 40})
      for_each_target([&] {
        Loop plain(cell, H, {3, 5}), packed(cell, H, {3, 5});
        packed.packed.resize(static_cast<size_t>(kernels::packed_size(packed.G * H, H)));
        kernels::pack_weight(*packed.w_hh, packed.packed.data());
        plain();
        packed();
        EXPECT_TRUE(same_bits(plain.results(), packed.results()));
      });
}

// Chunk b of `all` is, to the bit, what it is by itself; `fresh` is `all` before it ran.
void expect_as_alone(const Loop& fresh, const Loop& all, size_t b) {
  int64_t first = 0;
  for (size_t i = 0; i < b; ++i) first += fresh.lengths[i];
  Loop alone(fresh.cell, fresh.H, {fresh.lengths[b]}, fresh.compute_type);
  const auto take = [&](const Floats& from, int64_t begin, const Floats& to) {
    std::copy_n(&from[begin], to.span().size(), to.span().begin());
  };
  const int64_t state = alone.S * fresh.H, row = static_cast<int64_t>(b) * state;
  take(*fresh.a, first * alone.G * fresh.H, *alone.a);
  take(*fresh.dh, first * fresh.H, *alone.dh);
  take(*fresh.initial_state, row, *alone.initial_state);
  take(*fresh.dstate, row, *alone.dstate);
  alone();
  const auto same = [&](const Floats& part, const Floats& whole, int64_t begin) {
    EXPECT_TRUE(same_bits(part.span(),
                          whole.span().subspan(static_cast<size_t>(begin), part.span().size())))
        << "chunk " << b;
  };
  same(*alone.h, *all.h, first * fresh.H);
  same(*alone.a, *all.a, first * alone.G * fresh.H);
  same(*alone.dstate, *all.dstate, row);
}

// Threads share chunks or units; either way, and with other chunks beside them, the bits are those
// of a chunk alone.
TEST(Recurrent, ThreadsAndCompanyDoNotChangeABit) {
  struct Case {
    int64_t H;
    std::vector<int64_t> lengths;
  };
  // Weights within a core's cache, and beyond it.
  for (const Case& c : {Case{40, {90, 7, 0, 89, 50, 51}}, Case{300, {3, 4, 1}},
                        Case{40, std::vector<int64_t>(70, 3)}}) {
    using kernels::ComputeType;
    for (const auto& [cell, compute_type] : {std::pair{Cell::kRnn, ComputeType::kFloat32},
                                             {Cell::kLstm, ComputeType::kFloat32},
                                             {Cell::kGru, ComputeType::kFloat32},
                                             {Cell::kRnn, ComputeType::kInt16},
                                             {Cell::kLstm, ComputeType::kInt16},
                                             {Cell::kGru, ComputeType::kInt16},
                                             {Cell::kRnn, ComputeType::kBf16},
                                             {Cell::kLstm, ComputeType::kBf16},
                                             {Cell::kGru, ComputeType::kBf16}}) {
      const Loop fresh(cell, c.H, c.lengths, compute_type);
      for_each_target([&] {
        set_threads(1);
        Loop all(cell, c.H, c.lengths, compute_type);
        all();
        for (int n : {2, 3}) {
          set_threads(n);
          Loop again(cell, c.H, c.lengths, compute_type);
          again();
          EXPECT_TRUE(same_bits(again.results(), all.results())) << n << " threads";
        }
        for (size_t b = 0; b < c.lengths.size(); ++b) expect_as_alone(fresh, all, b);
        set_threads(0);
      });
    }
  }
}

// More places than a block of bfloat16 units has rows, with weights beyond a core's cache: only
// then do that many stay together.
TEST(Recurrent, BlocksOfManyPlacesDoNotChangeABit) {
  const std::vector<int64_t> lengths(40, 2);
  for (Cell cell : {Cell::kLstm, Cell::kGru}) {
    const Loop fresh(cell, 420, lengths, kernels::ComputeType::kBf16);
    for (int threads : {1, 2}) {
      set_threads(threads);
      Loop all(cell, 420, lengths, kernels::ComputeType::kBf16);
      all();
      for (const size_t b : {0, 7, 8, 31, 32, 39}) expect_as_alone(fresh, all, b);
    }
    set_threads(0);
  }
}

}  // namespace
}  // namespace refrain

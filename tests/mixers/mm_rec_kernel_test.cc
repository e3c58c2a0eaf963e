#include <optional>

#include "refrain/base/buffer.h"
#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/mixers/mm_rec/kernel.h"
#include "refrain/mixers/mm_rec/kernel_ref.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

constexpr float kMu = 0.1f;

// Chunks of the given lengths, and everything a run over them reads and writes.
class Loop {
 public:
  Loop(bool full, int64_t D, std::vector<int64_t> lengths, uint64_t key = 1)
      : full(full), D(D), lengths(std::move(lengths)) {
    for (const int64_t n : this->lengths) R += n;
    const auto B = static_cast<int64_t>(this->lengths.size());
    const double scale = 1 / std::sqrt(static_cast<double>(D));
    const auto make = [&](std::optional<Floats>& to, std::initializer_list<int64_t> shape,
                          double size) { to.emplace(shape, D % 3, ++key, size); };
    make(w, {2 * D, D}, scale);
    make(b, {2 * D}, 1);
    make(z, {R, D}, 1);
    make(gates, {R, 2 * D}, 1);
    make(decay, {R, D}, 0.2);
    make(initial_state, {B, D}, 0.5);
    make(dh, {R, D}, 1);
    make(dstate, {B, D}, 1);
    h.emplace(std::initializer_list<int64_t>{R, D});
    dz.emplace(std::initializer_list<int64_t>{R, D});
  }

  void operator()() {
    std::vector<kernels::RecurrentChunk> chunks;
    std::vector<float*> dstates;
    int64_t first = 0;
    for (size_t i = 0; i < lengths.size(); first += lengths[i++]) {
      const auto row = static_cast<int64_t>(i);
      chunks.push_back({first, lengths[i], initial_state->tensor().row(row)});
      dstates.push_back(dstate->tensor().row(row));
    }
    const kernels::MmRecCell cell{kMu, *b, full ? ConstTensor(*w) : ConstTensor(),
                                  packed.empty() ? nullptr : packed.data()};
    const kernels::MmRecRows rows{*z, *decay, *gates, *h};
    Arena count;
    kernels::mm_rec_forward(cell, chunks, rows, count);
    kernels::mm_rec_backward(cell, chunks, rows, {*dh, *dz, dstates}, count);
    Buffer<std::byte> memory(count.peak() + 64);
    Arena scratch(memory.data(), memory.size());
    kernels::mm_rec_forward(cell, chunks, rows, scratch);
    kernels::mm_rec_backward(cell, chunks, rows, {*dh, *dz, dstates}, scratch);
    EXPECT_EQ(scratch.peak(), count.peak());
  }

  std::vector<float> results() const { return all_of({&*h, &*dz, &*gates, &*decay, &*dstate}); }

  bool full;
  int64_t D, R = 0;
  std::vector<int64_t> lengths;
  std::optional<Floats> w, b, z, gates, decay, initial_state, dh, dstate, h, dz;
  std::vector<float> packed;
};

template <class T>
std::vector<T> part(const Floats& all, int64_t begin, int64_t count) {
  const float* from = all.tensor().data + begin;
  return {from, from + count};
}

TEST(MmRec, MatchesReferenceBothWays) {
  for (const bool full : {true, false})
    for (const int64_t D : {1, 3, 8, 17, 33, 40}) {
      SCOPED_TRACE(D);
      std::vector<int64_t> lengths = {3, 0, 5, 1, 2};
      if (D < 12) lengths.insert(lengths.end(), {4, 1, 0, 1, 6, 2, 2, 3, 5, 4, 1, 1, 2, 3});
      const Loop fresh(full, D, lengths);
      const auto w = part<Complex>(*fresh.w, 0, 2 * D * D), b = part<Complex>(*fresh.b, 0, 2 * D);
      struct Want {
        std::vector<double> h, dz, dgates, ddecay, dstate;
      };
      std::vector<Want> want;
      int64_t first = 0;
      for (size_t i = 0; i < lengths.size(); first += lengths[i++]) {
        const int64_t T = lengths[i], row = static_cast<int64_t>(i) * D;
        auto z = part<Complex>(*fresh.z, first * D, T * D);
        auto a = part<Complex>(*fresh.gates, first * 2 * D, T * 2 * D);
        auto decay = part<Complex>(*fresh.decay, first * D, T * D);
        auto initial_state = part<Complex>(*fresh.initial_state, row, D);
        const auto dh = part<float>(*fresh.dh, first * D, T * D);
        const auto dstate = part<float>(*fresh.dstate, row, D);
        std::vector<Complex> h(static_cast<size_t>(T * D));
        const auto loss = [&] {
          std::vector<Complex> state = initial_state;
          kernels::mm_rec_ref<Complex>(
              {D, static_cast<double>(kMu), b.data(), full ? w.data() : nullptr}, T,
              {z.data(), decay.data(), a.data(), h.data()}, state.data());
          return dot(dh, h) + dot(dstate, state);
        };
        Want one;
        loss();
        for (const Complex& v : h) one.h.push_back(v.real());
        one.dz = complex_step(z, loss);
        one.dgates = complex_step(a, loss);
        one.ddecay = complex_step(decay, loss);
        one.dstate = complex_step(initial_state, loss);
        want.push_back(std::move(one));
      }
      for_each_target([&] {
        Loop run(full, D, lengths);
        run();
        int64_t at = 0;
        for (size_t i = 0; i < lengths.size(); at += lengths[i++]) {
          const int64_t T = lengths[i];
          const auto rows = [&](const Floats& all, int64_t width) {
            return all.span().subspan(static_cast<size_t>(at * width),
                                      static_cast<size_t>(T * width));
          };
          // Chains of D and 2 D terms of size 1, a few steps deep.
          expect_close(rows(*run.h, D), want[i].h, 64, 1);
          expect_close(rows(*run.dz, D), want[i].dz, 256, 1);
          expect_close(rows(*run.decay, D), want[i].ddecay, 256, 1);
          expect_close(
              run.dstate->span().subspan(i * static_cast<size_t>(D), static_cast<size_t>(D)),
              want[i].dstate, 256, 1);
          // Of what p reads of the input there is nothing in a full recurrence.
          const auto got = rows(*run.gates, 2 * D);
          for (int64_t t = 0; t < T; ++t) {
            const auto begin = static_cast<size_t>(t * 2 * D);
            const auto n = static_cast<size_t>(full ? D : 2 * D);
            expect_close(got.subspan(begin, n), std::span(want[i].dgates).subspan(begin, n), 256,
                         1);
          }
        }
      });
    }
}

TEST(MmRec, PackedWeightsChangeNoBit) {
  for (const int64_t D : {64, 40})
    for_each_target([&] {
      Loop plain(true, D, {3, 5}), packed(true, D, {3, 5});
      packed.packed.resize(static_cast<size_t>(kernels::packed_size(2 * D, D)));
      kernels::pack_weight(*packed.w, packed.packed.data());
      plain();
      packed();
      EXPECT_TRUE(same_bits(plain.results(), packed.results()));
    });
}

TEST(MmRec, ThreadsAndCompanyDoNotChangeABit) {
  struct Case {
    int64_t D;
    std::vector<int64_t> lengths;
  };
  for (const bool full : {true, false})
    for (const Case& c : {Case{40, {90, 7, 0, 89, 50, 51}}, Case{400, {3, 4, 1}}, Case{400, {6}}})
      for_each_target([&] {
        set_threads(1);
        Loop all(full, c.D, c.lengths);
        all();
        for (const int n : {2, 3}) {
          set_threads(n);
          Loop again(full, c.D, c.lengths);
          again();
          EXPECT_TRUE(same_bits(again.results(), all.results())) << n << " threads";
        }
        // The first chunk alone: same weights and inputs, since streams begin alike.
        Loop alone(full, c.D, c.lengths);
        alone.lengths = {c.lengths[0]};
        alone();
        const auto n = static_cast<size_t>(c.lengths[0] * c.D);
        EXPECT_TRUE(same_bits(alone.h->span().first(n), all.h->span().first(n)));
        EXPECT_TRUE(same_bits(alone.dz->span().first(n), all.dz->span().first(n)));
        set_threads(0);
      });
}

TEST(MmRec, DecayMatchesReferenceAndStaysInItsBounds) {
  const int64_t R = 7, D = 37;
  const auto mu = static_cast<double>(kMu);
  for_each_target([&] {
    const Floats s({R, 2 * D}, 1, 1, 6), d({R, D}, 0, 2);
    for (int64_t j = 0; j < D; ++j) s[j] = s[D + j] = j % 2 == 0 ? 30.0f : -30.0f;
    auto reference = part<Complex>(s, 0, R * 2 * D);
    std::vector<double> value, slope;
    for (int64_t row = 0; row < R; ++row)
      for (int64_t j = 0; j < D; ++j) {
        Complex &a = reference[static_cast<size_t>(row * 2 * D + j)], &b = (&a)[D];
        value.push_back(kernels::mm_rec_decay_ref(mu, a, b).real());
      }
    for (int64_t row = 0; row < R; ++row)
      for (int64_t half = 0; half < 2; ++half)
        for (int64_t j = 0; j < D; ++j) {
          const auto at = static_cast<size_t>(row * 2 * D + j);
          Complex a = reference[at], b = reference[at + static_cast<size_t>(D)];
          (half == 0 ? a : b) += Complex(0, 1e-30);
          slope.push_back(static_cast<double>(d[row * D + j]) *
                          kernels::mm_rec_decay_ref(mu, a, b).imag() / 1e-30);
        }
    Floats decay({R, D});
    kernels::activation_forward(kernels::Activation::kSigmoid, s, s);
    kernels::mm_rec_decay_forward(kMu, s, decay);
    expect_close(decay.span(), value, 8, 1e-6);
    for (const float v : decay.span())
      EXPECT_TRUE(v >= kernels::kMmRecLeastDecay && v <= kernels::mm_rec_most_decay(kMu));
    kernels::mm_rec_decay_backward(kMu, s, d);
    expect_close(s.span(), slope, 16, 1);
  });
}

}  // namespace
}  // namespace refrain

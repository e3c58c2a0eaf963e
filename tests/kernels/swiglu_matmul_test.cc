#include "refrain/kernels/matmul/swiglu_matmul.h"

#include <array>
#include <cstring>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/kernels/matmul/format_bf16_ref.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using View = MatrixView<const float>;
using Rounded = std::vector<BFloat16>;
using kernels::ActivationPrecision;

struct Memory {
  Buffer<std::byte> bytes{size_t{8} << 20};
  Arena arena{bytes.data(), bytes.size()};
};

std::vector<kernels::Microkernel> all_kernels() {
  std::vector<kernels::Microkernel> all = {{"plain", kernels::bf16_block_ref, nullptr, nullptr}};
  for (const auto& kernel : kernels::microkernels()) all.push_back(kernel);
  return all;
}

bool same(const Rounded& a, const Rounded& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(BFloat16)) == 0;
}

struct Layer {
  Layer(int64_t R, int64_t D, int64_t F)
      : x({R, D}, 1, 1), w1({2 * F, D}, 0, 2), dy({R, D}, 0, 3), w2({D, F}, 1, 4) {}
  Floats x, w1, dy, w2;
};

// It by its parts, with the results rounded.
struct Parts {
  int64_t R, D, F;
  Rounded gate_up, a, dgate_up;

  Parts(const Layer& layer, const kernels::Microkernel& kernel, ActivationPrecision precision,
        Arena& arena)
      : R(View(layer.x).rows), D(View(layer.x).cols), F(View(layer.w2).cols) {
    const auto& [x, w1, dy, w2] = layer;
    const auto size = [&](int64_t n) { return static_cast<size_t>(R * n); };
    Floats product({R, 2 * F}), inner({R, F}), d({R, F}), dproduct({R, 2 * F});
    gate_up.resize(size(2 * F));
    kernels::multiply_bf16({x, View(w1).transposed(), product, nullptr, {}, false}, kernel, arena);
    kernels::swiglu_forward_rounded(product, {gate_up.data(), {R, 2 * F}}, inner, precision);
    kernels::multiply_bf16({dy, w2, d, nullptr, {}, false}, kernel, arena);
    kernels::swiglu_backward(TensorOf<const BFloat16>(gate_up.data(), {R, 2 * F}), d, dproduct,
                             precision);
    a = rounded(inner);
    dgate_up = rounded(dproduct);
  }
  static Rounded rounded(Floats& x) {
    Rounded to(x.span().size());
    kernels::round_to_bf16(x.tensor(), {to.data(), {static_cast<int64_t>(to.size())}});
    return to;
  }
};

// Reduced indices of one part and of several, rows that fill no tile, both precisions.
TEST(SwigluMatmul, HasTheBitsOfItsParts) {
  Memory memory;
  for (const auto& kernel : all_kernels())
    for_each_target([&] {
      SCOPED_TRACE(kernel.name);
      for (const auto& [R, D, F] : std::vector<std::array<int64_t, 3>>{
               {1, 40, 32}, {33, 96, 64}, {70, 64, 1056}, {40, 1100, 96}})
        for (const auto precision : {ActivationPrecision::kAccurate, ActivationPrecision::kFast}) {
          SCOPED_TRACE(R);
          const Layer layer(R, D, F);
          const auto& [x, w1, dy, w2] = layer;
          const Parts want(layer, kernel, precision, memory.arena);
          Rounded gate_up(want.gate_up.size()), a(want.a.size()), again(a.size());
          const kernels::SwigluRows rows{
              {gate_up.data(), {R, 2 * F}}, {a.data(), {R, F}}, precision};
          kernels::swiglu_linear_forward(x, w1, rows, kernel, memory.arena);
          EXPECT_TRUE(same(gate_up, want.gate_up));
          EXPECT_TRUE(same(a, want.a));
          Rounded alone(gate_up.size());
          kernels::swiglu_linear_forward(x, w1, {{alone.data(), {R, 2 * F}}, {}, precision}, kernel,
                                         memory.arena);
          EXPECT_TRUE(same(alone, want.gate_up));
          kernels::swiglu_linear_backward(dy, w2, {rows.gate_up, {again.data(), {R, F}}, precision},
                                          kernel, memory.arena);
          EXPECT_TRUE(same(gate_up, want.dgate_up));
          EXPECT_TRUE(same(again, want.a));
        }
    });
}

TEST(SwigluMatmul, NoBitDependsOnThreads) {
  Memory memory;
  const int64_t R = 300, D = 64, F = 1056;
  const Floats x({R, D}, 1, 1), w1({2 * F, D}, 0, 2);
  for (const auto& kernel : all_kernels()) {
    std::vector<Rounded> results;
    for (const int threads : {1, 2, 3}) {
      set_threads(threads);
      Rounded gate_up(static_cast<size_t>(2 * R * F)), a(gate_up.size() / 2);
      kernels::swiglu_linear_forward(x, w1, {{gate_up.data(), {R, 2 * F}}, {a.data(), {R, F}}},
                                     kernel, memory.arena);
      gate_up.insert(gate_up.end(), a.begin(), a.end());
      results.push_back(std::move(gate_up));
    }
    EXPECT_TRUE(same(results[0], results[1]) && same(results[0], results[2])) << kernel.name;
  }
  set_threads(0);
}

}  // namespace
}  // namespace refrain

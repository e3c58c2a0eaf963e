#include "refrain/kernels/matmul/skinny_matmul.h"

#include "refrain/base/buffer.h"
#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/kernels/sequence/recurrent.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using kernels::SkinnyWeights;

struct Case {
  int64_t n, N, K;
};

// What linear_forward and add_row give.
std::vector<float> plain(const Floats& x, const Floats& w, const Floats& b) {
  const int64_t n = x.tensor().rows(), N = w.tensor().rows();
  Buffer<std::byte> memory(1 << 20);
  Arena scratch(memory.data(), memory.size());
  std::vector<float> y(static_cast<size_t>(n * N));
  const Tensor view(y.data(), {n, N});
  kernels::linear_forward(x, w, view, scratch);
  kernels::add_row(view, b);
  return y;
}

TEST(SkinnyMatmul, GivesTheBitsOfTheProductOfAllRows) {
  for_each_target([] {
    for (const auto& [n, N, K] : {Case{1, 1, 1}, {3, 31, 7}, {32, 64, 40}, {17, 100, 33}}) {
      const Floats x({n, K}, 1, 1), w({N, K}, 0, 2), b({N}, 1, 3);
      const std::vector<float> want = plain(x, w, b);
      std::vector<float> packed(static_cast<size_t>(kernels::packed_size(N, K)));
      kernels::pack_weight(w, packed.data());
      Floats y({n, N}), also({n, N});
      std::vector<float*> rows;
      for (int64_t i = 0; i < n; ++i) rows.push_back(also.tensor().row(i));
      for (const int threads : {1, 2, 3}) {
        set_threads(threads);
        const SkinnyWeights weights{packed.data(), N, K, b.tensor().data};
        kernels::skinny_matmul(weights, x, {.y = y, .also = rows});
        EXPECT_TRUE(same_bits(y.span(), want));
        EXPECT_TRUE(same_bits(also.span(), want));

        // In two parts of K, the second continuing the chains of the first.
        const int64_t half = K / 2;
        SkinnyWeights part{packed.data(), N, half, nullptr, K};
        if (half > 0)
          kernels::skinny_matmul(part, MatrixView<float>(x).col_range(0, half), {.y = y});
        else
          y.fill(0);
        part = {packed.data() + half * kernels::kWeightPanel, N, K - half, b.tensor().data, K};
        kernels::skinny_matmul(part, MatrixView<float>(x).col_range(half, K - half),
                               {.y = y, .relu = true, .add = true});
        for (size_t i = 0; i < want.size(); ++i)
          ASSERT_EQ(y[static_cast<int64_t>(i)], std::max(0.0f, want[i]));
      }
      set_threads(0);
    }
  });
}

TEST(SkinnyMatmul, ByColumnsIsTheGradientByTheInput) {
  for_each_target([] {
    for (const auto& [n, N, K] : {Case{2, 5, 3}, {15, 33, 70}}) {
      const Floats dy({n, N}, 0, 1), w({N, K}, 1, 2), want({n, K}), dx({n, K}), gate({n, K}, 0, 3);
      Buffer<std::byte> memory(1 << 20);
      Arena scratch(memory.data(), memory.size());
      kernels::linear_backward_input(dy, w, want, scratch);
      std::vector<float> packed(static_cast<size_t>(kernels::packed_size(K, N)));
      kernels::pack_columns(w, packed.data());
      std::vector<const float*> gates;
      for (int64_t i = 0; i < n; ++i) gates.push_back(gate.tensor().row(i));
      kernels::skinny_matmul({packed.data(), K, N}, dy, {.y = dx});
      EXPECT_TRUE(same_bits(dx.span(), want.span()));
      kernels::skinny_matmul({packed.data(), K, N}, dy, {.y = dx, .where_positive = gates});
      for (int64_t i = 0; i < n * K; ++i) ASSERT_EQ(dx[i], gate[i] > 0 ? want[i] : 0.0f);
    }
  });
}

TEST(SkinnyMatmul, RecurrentLoopsTakeColumnsPackedBefore) {
  constexpr int64_t kH = 40, kT = 3;
  for_each_target([] {
    const Floats w({4 * kH, kH}, 0, 1, 0.1), b({4 * kH}, 0, 2), a({kT, 4 * kH}, 0, 3);
    const Floats dh({kT, kH}, 0, 4);
    std::vector<float> packed(static_cast<size_t>(kernels::packed_size(kH, 4 * kH)));
    kernels::pack_columns(w, packed.data());
    std::vector<float> results[2];
    for (const bool before : {false, true}) {
      Floats gates({kT, 4 * kH}), h({kT, kH}), c({kT, kH}), dstate({2 * kH});
      const std::vector<float> found(2 * kH, 0.5f);
      std::copy(a.span().begin(), a.span().end(), gates.span().begin());
      dstate.fill(0.25f);
      Buffer<std::byte> memory(1 << 20);
      Arena scratch(memory.data(), memory.size());
      const std::vector<kernels::RecurrentChunk> chunks = {{0, kT, found.data()}};
      const std::vector<float*> gradients = {dstate.tensor().data};
      const kernels::RecurrentRows rows{gates, h, c};
      const kernels::RecurrentWeights weights{kernels::Cell::kLstm, w, b, nullptr,
                                              before ? packed.data() : nullptr};
      kernels::recurrent_forward(chunks, weights, rows, scratch);
      kernels::recurrent_backward(chunks, weights, rows, {dh, gradients, gates}, scratch);
      results[before] = all_of({&gates, &dstate});
    }
    EXPECT_TRUE(same_bits(results[0], results[1]));
  });
}

}  // namespace
}  // namespace refrain

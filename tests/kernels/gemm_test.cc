#include "refrain/kernels/matmul/gemm.h"

#include <array>
#include <vector>

#include "refrain/base/buffer.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

struct Memory {
  Buffer<std::byte> bytes{size_t{4} << 20};
  Arena arena{bytes.data(), bytes.size()};
};

// C = A B in double, and what rounding may do to it: a chain of K multiply-adds in float32 errs by
// at most K + 1 half-ulps (twice that without fused multiply-adds) of the sum of absolute products.
struct Product {
  std::vector<double> value, bound;
};
using View = MatrixView<const float>;
Product product(View a, View b) {
  const int64_t K = a.cols;
  Product c;
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) {
      double sum = 0, size = 1;
      for (int64_t k = 0; k < K; ++k) {
        const double term = double{a.at(i, k)} * double{b.at(k, j)};
        sum += term;
        size += std::abs(term);
      }
      c.value.push_back(sum);
      c.bound.push_back(0x1p-24 * 2 * static_cast<double>(K + 1) * size);
    }
  return c;
}

void expect_close(const Product& want, ConstTensor got, double offset = 0) {
  for (int64_t i = 0; i < got.size(); ++i) {
    const auto at = static_cast<size_t>(i);
    ASSERT_NEAR(got.data[i], want.value[at] + offset, want.bound[at]) << "at " << i;
  }
}

TEST(Gemm, TheThreeProductsOfALinearMap) {
  Memory memory;
  for_each_target([&] {
    uint64_t key = 1;
    for (const auto& [M, N, K] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                     {1, 33, 17},
                                                                     {2, 31, 5},
                                                                     {13, 15, 64},
                                                                     {14, 32, 3},
                                                                     {15, 65, 16},
                                                                     {29, 7, 256},
                                                                     {64, 64, 64},
                                                                     {70, 530, 40},
                                                                     {40, 20, 800}}) {
      for (int64_t misalign : {0, 1}) {
        const Floats x({M, K}, misalign, ++key), w({N, K}, misalign, ++key);
        const Floats dy({M, N}, misalign, ++key);
        Floats y({M, N}, misalign), dx({M, K}, misalign), dw({N, K}, misalign);
        dw.fill(0.25f);  // gradients are added to
        kernels::linear_forward(x, w, y, memory.arena);
        kernels::linear_backward_input(dy, w, dx, memory.arena);
        kernels::linear_backward_weight(dy, x, dw, memory.arena);
        expect_close(product(View(x.tensor()), View(w.tensor()).transposed()), y);
        Floats packed({kernels::packed_size(N, K)}), y_packed({M, N}, misalign);
        kernels::pack_weight(w, packed.tensor().data);
        kernels::linear_forward(x, w, y_packed, memory.arena, packed.tensor().data);
        EXPECT_EQ(0, std::memcmp(y.span().data(), y_packed.span().data(), y.span().size_bytes()));
        expect_close(product(View(dy.tensor()), View(w.tensor())), dx);
        expect_close(product(View(dy.tensor()).transposed(), View(x.tensor())), dw, 0.25);
      }
    }
  });
}

// So every instruction set that fuses has the same bits.
TEST(Gemm, AnElementIsOneChainOfFusedMultiplyAdds) {
  Memory memory;
  for_each_target([&] {
    if (!fuses()) return;
    const int64_t M = 29, N = 67, K = 530;
    const Floats x({M, K}, 0, 1), w({N, K}, 0, 2);
    Floats y({M, N});
    kernels::linear_forward(x, w, y, memory.arena);
    for (int64_t i = 0; i < M; ++i) {
      for (int64_t j = 0; j < N; ++j) {
        float sum = 0;
        for (int64_t k = 0; k < K; ++k)
          sum = std::fma(x.tensor().row(i)[k], w.tensor().row(j)[k], sum);
        ASSERT_EQ(sum, y.tensor().row(i)[j]) << i << ", " << j;
      }
    }
  });
}

// The law that everything else stands on: a chain may be cut anywhere.
TEST(Gemm, NoBitDependsOnThreadsOrOnHowRowsAreCut) {
  Memory memory;
  for_each_target([&] {
    const int64_t M = 100, N = 70, K = 450;
    const Floats x({M, K}, 0, 1), w({N, K}, 0, 2), dy({M, N}, 0, 3);
    Floats y({M, N}), dx({M, K}), dw({N, K});
    dw.fill(0.5f);
    set_threads(1);
    kernels::linear_forward(x, w, y, memory.arena);
    kernels::linear_backward_input(dy, w, dx, memory.arena);
    kernels::linear_backward_weight(dy, x, dw, memory.arena);
    for (int threads : {1, 2, 3}) {
      set_threads(threads);
      for (int64_t cut : {0, 1, 13, 50, 99}) {
        Floats y2({M, N}), dx2({M, K}), dw2({N, K});
        dw2.fill(0.5f);
        for (const auto& [first, count] : {std::pair{int64_t{0}, cut}, {cut, M - cut}}) {
          const ConstTensor x_part = x.tensor().slice(first, count);
          const ConstTensor dy_part = dy.tensor().slice(first, count);
          kernels::linear_forward(x_part, w, y2.tensor().slice(first, count), memory.arena);
          kernels::linear_backward_input(dy_part, w, dx2.tensor().slice(first, count),
                                         memory.arena);
          kernels::linear_backward_weight(dy_part, x_part, dw2, memory.arena);
        }
        EXPECT_EQ(0, std::memcmp(y.span().data(), y2.span().data(), y.span().size_bytes()));
        EXPECT_EQ(0, std::memcmp(dx.span().data(), dx2.span().data(), dx.span().size_bytes()));
        EXPECT_EQ(0, std::memcmp(dw.span().data(), dw2.span().data(), dw.span().size_bytes()));
      }
    }
    set_threads(0);
  });
}

TEST(Gemm, ACountingArenaMeasuresWhatACallTakes) {
  Arena counts;
  const Tensor none(nullptr, {100, 450}), w(nullptr, {70, 450}), y(nullptr, {100, 70});
  kernels::linear_forward(none, w, y, counts);
  const size_t bytes = counts.peak();
  EXPECT_GT(bytes, 0u);
  const Floats x({100, 450}, 0, 1), w2({70, 450}, 0, 2);
  Floats out({100, 70});
  Buffer<std::byte> exact(bytes);
  Arena arena(exact.data(), exact.size());
  kernels::linear_forward(x, w2, out, arena);
  EXPECT_EQ(arena.peak(), bytes);
}

}  // namespace
}  // namespace refrain

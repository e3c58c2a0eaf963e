// Products of training with frozen weights in storage: the bits of rows of the same values.
#include "refrain/kernels/matmul/storage/stored_product.h"

#include <array>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/kernels/matmul/swiglu_matmul.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using kernels::ComputeType;
using Shape = std::array<int64_t, 3>;  // M, N, K

constexpr std::array kTypes = {Storage::kBf16, Storage::kFloat16, Storage::kQ8_0, Storage::kQ4};
// Parts of groups and panels, several parts of the reduced index, several blocks.
const std::vector<Shape> kShapes = {{1, 5, 7},     {3, 32, 32},   {9, 33, 100},
                                    {40, 100, 65}, {7, 1100, 96}, {70, 96, 1300}};

// w [N, K] as it is stored, and the rows that it stands for.
struct Stored {
  Stored(Storage type, int64_t N, int64_t K)
      : bytes(kernels::packed_bytes(type, N, K)), rows({N, K}, 1), matrix{{}, N, K} {
    const Floats w({N, K}, 0, 3, 0.5);
    kernels::pack(type, w.tensor(), bytes.data());
    matrix.w = {type, bytes.data()};
    kernels::unpack(matrix.w, rows.tensor());
  }
  Buffer<std::byte> bytes;
  Floats rows;
  kernels::StoredMatrix matrix;
};

struct Memory {
  Buffer<std::byte> bytes{size_t{8} << 20};
  Arena arena{bytes.data(), bytes.size()};
};

std::vector<float> values(const Floats& x) { return {x.span().begin(), x.span().end()}; }

// f(type, compute type, shape) for all of them.
template <class F>
void each_case(F&& f) {
  for (const Storage type : kTypes)
    for (const auto compute : {ComputeType::kFloat32, ComputeType::kBf16})
      for (const Shape& shape : kShapes) {
        SCOPED_TRACE(kernels::name_of(type));
        SCOPED_TRACE(compute == ComputeType::kBf16 ? "bf16" : "float32");
        SCOPED_TRACE(shape[0]);
        f(type, compute, shape);
      }
}

TEST(StoredProduct, HasTheBitsOfRows) {
  Memory memory;
  for_each_target([&] {
    each_case([&](Storage type, ComputeType compute, const Shape& shape) {
      const auto [M, N, K] = shape;
      const Stored w(type, N, K);
      const Floats x({M, K}, 1, 1), dy({M, N}, 0, 2);
      for (const bool add : {false, true}) {
        Floats y({M, N}, 1, 4), y_want({M, N}, 1, 4), dx({M, K}, 0, 5), dx_want({M, K}, 0, 5);
        const kernels::MatmulOptions options{.compute_type = compute, .add = add};
        kernels::linear_forward(x, w.rows, y_want, memory.arena, {}, options);
        kernels::stored_linear_forward(x, w.matrix, y, memory.arena, options);
        EXPECT_TRUE(same_bits(values(y), values(y_want)));
        kernels::linear_backward_input(dy, w.rows, dx_want, memory.arena, options);
        kernels::stored_linear_backward_input(dy, w.matrix, dx, memory.arena, options);
        EXPECT_TRUE(same_bits(values(dx), values(dx_want)));
      }
    });
  });
}

TEST(StoredProduct, NoBitDependsOnThreadsOrOnHowRowsAreCut) {
  Memory memory;
  each_case([&](Storage type, ComputeType compute, const Shape& shape) {
    const auto [M, N, K] = shape;
    const Stored w(type, N, K);
    const Floats dy({M, N}, 0, 2);
    const kernels::MatmulOptions options{.compute_type = compute};
    Floats whole({M, K}, 0), cut({M, K}, 0);
    set_threads(3);
    kernels::stored_linear_backward_input(dy, w.matrix, whole, memory.arena, options);
    set_threads(1);
    for (int64_t row = 0; row < M; ++row)
      kernels::stored_linear_backward_input(MatrixView<const float>(dy).row_range(row, 1), w.matrix,
                                            MatrixView<float>(cut).row_range(row, 1), memory.arena,
                                            options);
    EXPECT_TRUE(same_bits(values(whole), values(cut)));
  });
  set_threads(0);
}

TEST(StoredProduct, WithTheActivationOfAGatedLayerToo) {
  if (!kernels::can_fuse_swiglu(32)) GTEST_SKIP() << "no units for bfloat16";
  Memory memory;
  const int64_t R = 40, D = 70, F = 96;
  using Rounded = std::vector<BFloat16>;
  const auto bits = [](const Rounded& x) {
    std::vector<uint16_t> all;
    for (const BFloat16 v : x) all.push_back(v.bits);
    return all;
  };
  const Floats x({R, D}, 1, 1), dy({R, D}, 0, 2);
  for (const Storage type : kTypes) {
    SCOPED_TRACE(kernels::name_of(type));
    const Stored w1(type, 2 * F, D), w2(type, D, F);
    std::vector<std::vector<uint16_t>> found;
    for (const bool stored : {false, true}) {
      const auto weights = [&](const Stored& w) {
        if (!stored) return kernels::SwigluWeights(w.rows);
        return kernels::SwigluWeights(MatrixView<const float>(nullptr, w.matrix.N, w.matrix.K),
                                      w.matrix.w);
      };
      Rounded gate_up(static_cast<size_t>(R * 2 * F)), a(static_cast<size_t>(R * F));
      const kernels::SwigluRows rows{{gate_up.data(), {R, 2 * F}}, {a.data(), {R, F}}};
      kernels::swiglu_linear_forward(x, weights(w1), rows, memory.arena);
      found.push_back(bits(gate_up));
      kernels::swiglu_linear_backward(dy, weights(w2), rows, memory.arena);
      found.push_back(bits(gate_up));
      found.push_back(bits(a));
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(found[i], found[i + 3]);
  }
}

}  // namespace
}  // namespace refrain

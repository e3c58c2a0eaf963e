#include "refrain/layers/feed_forward.h"

#include <gtest/gtest.h>

#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/base/random.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

struct Outcome {
  std::vector<float> numbers;
  size_t scratch = 0;
};

// The plain layer, forward and back. Packed weights make it go through all features at once.
Outcome outcome(kernels::ComputeType compute_type, bool at_once, bool bias) {
  const int64_t D = 40, F = 1024, R = 70;
  FeedForward layer(D, F, {.activation = kernels::Activation::kGelu, .bias = bias});
  std::vector<std::vector<float>> weights, gradients;
  std::vector<float> packed(static_cast<size_t>(kernels::packed_size(D, F)));
  uint64_t key = 10;
  weights.reserve(4);
  gradients.reserve(4);
  layer.visit(
      [&](const ParamSpec& spec, Param& p) {
        Random random(++key);
        auto& w = weights.emplace_back(static_cast<size_t>(spec.size()));
        for (float& v : w) v = static_cast<float>(random.normal() / 8);
        auto& g = gradients.emplace_back(w.size(), 0.25f);
        p.w.rank = static_cast<int>(spec.shape.size());
        std::copy(spec.shape.begin(), spec.shape.end(), p.w.dim.begin());
        p.g = p.w;
        p.w.data = w.data();
        p.g.data = g.data();
        if (!at_once || p.w.rank != 2 || spec.shape[1] != F) return;
        kernels::pack_weight(p.w, packed.data());
        p.packed = packed.data();
      },
      1);
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
  const Floats y({R, D}), dx({R, D});
  const std::vector<int32_t> cu_seqlens = {0, 33, 70};
  const auto run = [&](Arena& scratch) {
    ExecutionContext ctx{scratch};
    ctx.compute_type = compute_type;
    ctx.cu_seqlens = cu_seqlens;
    Arena::Frame frame(scratch);
    const FeedForward::Activations saved = layer.layout(ctx, scratch, R);
    layer.forward(ctx, x, saved, y);
    layer.backward(ctx, x, saved, dy, dx);
  };
  Arena count;
  run(count);
  Buffer<std::byte> memory(count.peak() + 64);
  Arena scratch(memory.data(), memory.size());
  run(scratch);
  EXPECT_EQ(scratch.peak(), count.peak());
  Outcome all{{y.span().begin(), y.span().end()}, count.peak()};
  all.numbers.insert(all.numbers.end(), dx.span().begin(), dx.span().end());
  for (const auto& g : gradients) all.numbers.insert(all.numbers.end(), g.begin(), g.end());
  return all;
}

TEST(FeedForward, SlicesOfFeaturesChangeNoBitAndTakeLess) {
  for (const auto type :
       {kernels::ComputeType::kFloat32, kernels::ComputeType::kBf16, kernels::ComputeType::kInt16})
    for_each_target([&] {
      for (const bool bias : {false, true}) {
        const Outcome sliced = outcome(type, false, bias), whole = outcome(type, true, bias);
        EXPECT_TRUE(same_bits(sliced.numbers, whole.numbers)) << static_cast<int>(type);
        EXPECT_LT(sliced.scratch, whole.scratch);
      }
    });
}

}  // namespace
}  // namespace refrain

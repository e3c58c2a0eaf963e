#include "refrain/layers/cross_attention.h"

#include <map>
#include <optional>

#include "refrain/base/buffer.h"
#include "refrain/kernels/attention/cross_attention_ref.h"
#include "support/error_of.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

// A decoder of other lengths and another width than the encoder it reads.
class Reader {
 public:
  static constexpr int64_t kQuery = 6, kMemory = 5, kHeads = 2, kWidth = 6;

  explicit Reader(std::vector<int32_t> memory_offset = {0, 3, 8},
                  std::vector<int32_t> query_offset = {0, 4, 5}) {
    const std::vector<int32_t> start(memory_offset.size() - 1, 0);
    memory = memory_data_.set(memory_offset, start);
    queries = query_data_.set(query_offset, start);
    x.emplace(std::initializer_list<int64_t>{queries.rows(), kQuery}, 0, 1);
    m.emplace(std::initializer_list<int64_t>{memory.rows(), kMemory}, 0, 2);
    d_o.emplace(std::initializer_list<int64_t>{queries.rows(), kWidth}, 0, 3);
    uint64_t key = 4;
    layer.visit([&](const ParamSpec& spec, Param& p) {
      weights.emplace_back(spec.shape[0] * spec.shape[1]);
      gradients.emplace_back(weights.back().size(), 0.0f);
      Random random(key++);
      for (float& w : weights.back()) w = static_cast<float>(random.normal());
      p.w = Tensor(weights.back().data(), {spec.shape[0], spec.shape[1]});
      p.g = Tensor(gradients.back().data(), {spec.shape[0], spec.shape[1]});
    });
  }

  // Both ways: o, dx, dm, and the weights' gradients, which are added to.
  std::vector<float> run(bool keep) {
    const Floats o({queries.rows(), kWidth}), dx({queries.rows(), kQuery}),
        dm({memory.rows(), kMemory});
    const auto step = [&](Arena& saved, Arena& scratch) {
      ExecutionContext ctx{scratch};
      const auto projected = layer.project(ctx, memory, *m, true, saved);
      const auto query = layer.layout(saved, queries.rows(), o, memory, keep);
      const CrossAttention::Pass pass{queries, memory, projected, query};
      layer.forward(ctx, *x, pass);
      const Tensor dkv = saved.take({memory.rows(), 2 * kWidth});
      if (!ctx.planning()) std::fill(dkv.begin(), dkv.end(), 0.0f);
      layer.backward(ctx, *x, pass, *d_o, dx, dkv);
      layer.finish(ctx, *m, dkv, dm);
    };
    Arena count_saved, count_scratch;
    step(count_saved, count_scratch);
    Buffer<std::byte> a(count_saved.peak() + 64), b(count_scratch.peak() + 64);
    Arena saved(a.data(), a.size()), scratch(b.data(), b.size());
    step(saved, scratch);
    EXPECT_EQ(saved.peak(), count_saved.peak());
    EXPECT_EQ(scratch.peak(), count_scratch.peak());
    std::vector<float> all = all_of({&o, &dx, &dm});
    for (const auto& g : gradients) all.insert(all.end(), g.begin(), g.end());
    return all;
  }

  // The same by the reference; dot(d_o, o) differentiated by the complex step.
  std::vector<double> wanted() {
    ReferenceArray<Complex> tx(*x), tm(*m), w_q(Tensor(weights[0].data(), {kWidth, kQuery})),
        w_kv(Tensor(weights[1].data(), {2 * kWidth, kMemory}));
    std::vector<Complex> out(static_cast<size_t>(queries.rows() * kWidth));
    const auto linear = [](ReferenceArray<Complex>& w, int64_t row, ReferenceArray<Complex>& from,
                           int64_t in_row, int64_t in) {
      Complex sum = 0;
      for (int64_t j = 0; j < in; ++j) sum += w[row * in + j] * from[in_row * in + j];
      return sum;
    };
    const auto loss = [&] {
      constexpr int64_t kD = kWidth / kHeads;
      for (int64_t b = 0; b < queries.sequences(); ++b)
        for (int64_t h = 0; h < kHeads; ++h) {
          std::vector<Complex> q, k, v, o(static_cast<size_t>(queries.length(b) * kD));
          for (int64_t i = 0; i < queries.length(b); ++i)
            for (int64_t c = 0; c < kD; ++c)
              q.push_back(linear(w_q, h * kD + c, tx, queries.first(b) + i, kQuery));
          for (int64_t i = 0; i < memory.length(b); ++i)
            for (int64_t c = 0; c < kD; ++c) {
              k.push_back(linear(w_kv, h * kD + c, tm, memory.first(b) + i, kMemory));
              v.push_back(linear(w_kv, kWidth + h * kD + c, tm, memory.first(b) + i, kMemory));
            }
          const kernels::CrossHeadRef head{queries.length(b), memory.length(b), kD,
                                           1 / std::sqrt(3.0)};
          head.forward(q.data(), k.data(), v.data(), o.data());
          for (int64_t i = 0; i < queries.length(b); ++i)
            for (int64_t c = 0; c < kD; ++c)
              out[static_cast<size_t>((queries.first(b) + i) * kWidth + h * kD + c)] =
                  o[static_cast<size_t>(i * kD + c)];
        }
      return dot(d_o->span(), out);
    };
    loss();
    std::vector<double> all;
    for (const Complex& y : out) all.push_back(y.real());
    for (ReferenceArray<Complex>* by : {&tx, &tm, &w_q, &w_kv})
      for (const double g : complex_step(by->values(), loss)) all.push_back(g);
    return all;
  }

  RaggedBatch memory, queries;
  CrossAttention layer{kQuery, kMemory, kHeads};
  std::vector<std::vector<float>> weights, gradients;
  std::optional<Floats> x, m, d_o;

 private:
  RaggedBatchBuilder memory_data_, query_data_;
};

TEST(CrossAttentionLayer, OutputsAndGradientsAreTheReferences) {
  const std::vector<double> want = Reader().wanted();
  for_each_target([&] {
    for (const bool keep : {false, true}) {
      Reader reader;
      expect_close(reader.run(keep), want, 400, 4);
    }
  });
}

TEST(CrossAttentionLayer, AnEmptyPieceOfTheDecoderIsNothing) {
  Reader reader({0, 3, 8}, {0, 0, 5});
  expect_close(reader.run(false), Reader({0, 3, 8}, {0, 0, 5}).wanted(), 400, 4);
}

TEST(CrossAttentionLayer, HeadsMustDivideTheWidthUnlessTheirsIsGiven) {
  EXPECT_EQ(error_of([] { CrossAttention(512, 512, 6); }),
            "heads: expected a divisor of the width 512, or a head_dim, found 6");
  EXPECT_EQ(error_of([] { CrossAttention(512, 512, 0); }), "heads: expected 1 or more, found 0");
  EXPECT_EQ(CrossAttention(512, 300, 6, 64).shape().width(), 384);
}

}  // namespace
}  // namespace refrain

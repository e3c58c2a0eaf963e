#include "refrain/kernels/attention/cross_attention.h"

#include "refrain/base/buffer.h"
#include "refrain/kernels/attention/cross_attention_ref.h"
#include "support/kernel_testing.h"
#include "support/large_scores.h"
#include "support/threads.h"

namespace refrain {
namespace {

using kernels::CrossGradients;
using kernels::CrossMemory;
using kernels::CrossQueries;
using kernels::CrossShape;

// Sequences with memories and queries of their own, and everything a run over them reads and
// writes.
class Cross {
 public:
  Cross(int64_t heads, int64_t d, std::vector<int64_t> keys, std::vector<int64_t> queries)
      : shape{heads, d, 0.3f}, keys_(std::move(keys)), queries_(std::move(queries)) {
    for (const int64_t n : keys_) all_keys_ += n;
    for (const int64_t n : queries_) all_queries_ += n;
    const int64_t D = shape.width();
    q.emplace(std::initializer_list<int64_t>{all_queries_, D}, 1, 1);
    k.emplace(std::initializer_list<int64_t>{all_keys_, D}, 1, 2);
    v.emplace(std::initializer_list<int64_t>{all_keys_, D}, 3, 3);
    d_o.emplace(std::initializer_list<int64_t>{all_queries_, D}, 0, 4);
  }

  // Forward and backward; `at_once` queries of a sequence in a call.
  void operator()(bool keep, int64_t at_once = 1 << 20) {
    const int64_t D = shape.width(), H = shape.heads;
    o.emplace(std::initializer_list<int64_t>{all_queries_, D});
    dq.emplace(std::initializer_list<int64_t>{all_queries_, D});
    dk.emplace(std::initializer_list<int64_t>{all_keys_, D});
    dv.emplace(std::initializer_list<int64_t>{all_keys_, D});
    dk->fill(0);
    dv->fill(0);
    int64_t longest = 0, largest = 0;
    for (const int64_t n : keys_) longest = std::max(longest, n);
    for (const int64_t n : queries_) largest = std::max(largest, n);
    std::vector<float> softmax(static_cast<size_t>(2 * all_queries_ * H));
    std::vector<float> kept(static_cast<size_t>(all_queries_ * H * longest));
    std::vector<std::vector<float>> packs;
    const auto pack = [&](int64_t rows) {
      packs.emplace_back(static_cast<size_t>(kernels::cross_pack_floats(shape, rows)));
      return packs.back().data();
    };
    std::vector<CrossMemory> memory;
    for (size_t b = 0, first = 0; b < keys_.size(); ++b) {
      const int64_t n = keys_[b];
      memory.push_back({n, {pack(n), pack(n)}, {pack(n), pack(n)}});
      const auto row = static_cast<int64_t>(first);
      kernels::cross_pack(shape, {k->tensor().row(row), n, D}, memory.back().keys);
      kernels::cross_pack(shape, {v->tensor().row(row), n, D}, memory.back().values);
      first += static_cast<size_t>(n);
    }
    Buffer<std::byte> bytes(1 << 20);
    Arena scratch(bytes.data(), bytes.size());
    for (const bool backward : {false, true})
      for (int64_t at = 0; at < largest; at += at_once) {
        std::vector<CrossQueries> asked;
        std::vector<CrossGradients> gradients;
        int64_t first_query = 0, first_key = 0;
        for (size_t b = 0; b < keys_.size(); ++b) {
          const int64_t from = std::min(at, queries_[b]), row = first_query + from;
          const int64_t count = std::min(at_once, queries_[b] - from);
          asked.push_back({{q->tensor().row(row), count, D},
                           {o->tensor().row(row), count, D},
                           softmax.data() + 2 * row * H,
                           {keep ? kept.data() + row * H * longest : nullptr, count, H * longest},
                           longest,
                           first_position + from});
          gradients.push_back({{d_o->tensor().row(row), count, D},
                               {dq->tensor().row(row), count, D},
                               {dk->tensor().row(first_key), keys_[b], D},
                               {dv->tensor().row(first_key), keys_[b], D}});
          first_query += queries_[b];
          first_key += keys_[b];
        }
        if (!backward) {
          kernels::cross_forward(shape, memory, asked, scratch);
        } else {
          kernels::cross_backward_queries(shape, memory, asked, gradients, scratch);
          kernels::cross_backward_memory(shape, memory, asked, gradients, scratch);
        }
      }
  }

  std::vector<float> results() const { return all_of({&*o, &*dq, &*dk, &*dv}); }

  // Outputs and gradients in float64.
  std::vector<double> wanted() {
    ReferenceArray<Complex> tq(*q), tk(*k), tv(*v), to({all_queries_, shape.width()});
    const auto run = [&] {
      const int64_t d = shape.head_dim, D = shape.width();
      int64_t first_query = 0, first_key = 0;
      for (size_t b = 0; b < keys_.size(); ++b) {
        const int64_t n = keys_[b], m = queries_[b];
        for (int64_t h = 0; h < shape.heads; ++h) {
          const auto head = [&](ReferenceArray<Complex>& from, int64_t first, int64_t rows) {
            std::vector<Complex> some;
            for (int64_t i = 0; i < rows; ++i)
              for (int64_t j = 0; j < d; ++j) some.push_back(from[(first + i) * D + h * d + j]);
            return some;
          };
          std::vector<Complex> out(static_cast<size_t>(m * d));
          const kernels::CrossHeadRef reference{
              m, n, d, double{shape.scale}, shape.window, shape.stride, first_position};
          reference.forward(head(tq, first_query, m).data(), head(tk, first_key, n).data(),
                            head(tv, first_key, n).data(), out.data());
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < d; ++j)
              to[(first_query + i) * D + h * d + j] = out[static_cast<size_t>(i * d + j)];
        }
        first_query += m;
        first_key += n;
      }
      return dot(d_o->span(), to.values());
    };
    run();
    std::vector<double> all;
    for (const Complex& y : to.values()) all.push_back(y.real());
    for (ReferenceArray<Complex>* by : {&tq, &tk, &tv})
      for (const double g : complex_step(by->values(), run)) all.push_back(g);
    return all;
  }

  CrossShape shape;
  int64_t first_position = 0;  // of every sequence's first query
  std::optional<Floats> q, k, v, d_o, o, dq, dk, dv;

 private:
  std::vector<int64_t> keys_, queries_;
  int64_t all_keys_ = 0, all_queries_ = 0;
};

TEST(CrossAttention, OutputsAndGradientsAreTheReferences) {
  for (const auto& [heads, d] : {std::pair<int64_t, int64_t>{1, 5}, {3, 4}, {2, 17}}) {
    Cross cross(heads, d, {7, 1, 70}, {3, 2, 5});
    const std::vector<double> want = cross.wanted();
    for_each_target([&] {
      for (const bool keep : {false, true}) {
        cross(keep);
        // A hundred terms of size 1 and exponentials of a few ulp.
        expect_close(cross.results(), want, 400, 1);
      }
    });
  }
}

// Windows within a block of keys, over its end, and larger than the memory, and a stride.
const std::vector<std::pair<int64_t, int64_t>> kPatterns = {{1, 0},   {2, 0}, {5, 0}, {70, 0},
                                                            {200, 0}, {3, 2}, {4, 50}};

TEST(CrossAttention, OutputsAndGradientsOfAWindowAreTheReferences) {
  for (const auto& [window, stride] : kPatterns) {
    SCOPED_TRACE(fmt::format("{} {}", window, stride));
    // The queries of the second are behind its memory, those of the third at the end of a block.
    Cross cross(2, 3, {64, 7, 130}, {2, 3, 9});
    cross.shape.window = window;
    cross.shape.stride = stride;
    cross.first_position = 60;
    const std::vector<double> want = cross.wanted();
    for_each_target([&] {
      for (const bool keep : {false, true}) {
        cross(keep);
        expect_close(cross.results(), want, 400, 1);
      }
    });
  }
}

TEST(CrossAttention, KeysThatNoQuerySeesHaveNoGradientAndChangeNothing) {
  Cross cross(1, 4, {100}, {3});
  cross.shape.window = 4;
  cross.first_position = 70;
  cross(false);
  const std::vector<float> usual = cross.results();
  const auto is_seen = [](int64_t j) { return j >= 68 && j < 74; };
  for (int64_t j = 0; j < 100; ++j)
    for (int64_t c = 0; c < 4; ++c) {
      EXPECT_EQ(cross.dv->tensor().row(j)[c] != 0, is_seen(j)) << j;
      if (is_seen(j)) continue;
      cross.k->tensor().row(j)[c] += 9;
      cross.v->tensor().row(j)[c] += 9;
    }
  cross(false);
  EXPECT_TRUE(same_bits(cross.results(), usual));
}

TEST(CrossAttention, OneQueryAtATimeAndAnyThreadsGiveTheSameBits) {
  std::vector<std::pair<int64_t, int64_t>> patterns = kPatterns;
  patterns.emplace_back(0, 0);
  for_each_target([&] {
    for (const auto& [window, stride] : patterns)
      for (const bool keep : {false, true}) {
        Cross cross(2, 12, {65, 130, 9}, {20, 0, 33});
        cross.shape.window = window;
        cross.shape.stride = stride;
        cross.first_position = 50;
        cross(keep);
        const std::vector<float> want = cross.results();
        for (const int threads : {1, 2, 3})
          for (const int64_t at_once : {1, 7}) {
            set_threads(threads);
            cross(keep, at_once);
            EXPECT_TRUE(same_bits(cross.results(), want)) << threads << " " << at_once;
          }
        set_threads(0);
      }
  });
}

TEST(CrossAttention, LargeScoresGiveTheOutputsAndGradientsOfFloat64) {
  constexpr int64_t kKeys = 70, kQueries = 23, kHeads = 2, d = 12, D = kHeads * d;
  for (const ScoreSize& size : kScoreSizes) {
    SCOPED_TRACE(size.name());
    Cross cross(kHeads, d, {kKeys}, {kQueries});
    size.fill_q({cross.q->span(), D, D, d});
    size.fill_k({cross.k->span(), D, D, d});
    for_each_target([&] {
      for (const bool keep : {false, true}) {
        cross(keep);
        for (int64_t h = 0; h < kHeads; ++h) {
          const auto head = [&](const Floats& x) {
            std::vector<double> part;
            for (int64_t i = 0; i < x.tensor().rows(); ++i)
              for (int64_t j = 0; j < d; ++j) part.push_back(double{x.tensor().row(i)[h * d + j]});
            return part;
          };
          const AttentionInDouble want({d, double{cross.shape.scale}, head(*cross.q),
                                        head(*cross.k), head(*cross.v), head(*cross.d_o)},
                                       [](int64_t, int64_t) { return true; });
          // Exponentials and sums of a few ulp.
          const auto check = [&](const char* name, const Sums& sums, const Floats& got) {
            const std::vector<double> part = head(got);
            expect_near(name, sums, 0x1p-24 * 64, [&](int64_t i) {
              return static_cast<float>(part[static_cast<size_t>(i)]);
            });
          };
          check("o", want.o, *cross.o);
          check("dq", want.dq, *cross.dq);
          check("dk", want.dk, *cross.dk);
          check("dv", want.dv, *cross.dv);
        }
      }
    });
  }
}

TEST(CrossAttention, LargeScoresAreFiniteAndRight) {
  Cross cross(1, 4, {3}, {2});
  for (float& x : cross.q->span()) x *= 1e4f;
  const std::vector<double> want = cross.wanted();
  for_each_target([&] {
    for (const bool keep : {false, true}) {
      cross(keep);
      expect_close(cross.results(), want, 400, 1e4);
    }
  });
}

}  // namespace
}  // namespace refrain

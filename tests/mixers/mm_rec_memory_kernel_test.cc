#include "refrain/base/buffer.h"
#include "refrain/mixers/mm_rec/memory_kernel.h"
#include "refrain/mixers/mm_rec/memory_kernel_ref.h"
#include "support/kernel_testing.h"
#include "support/large_scores.h"
#include "support/threads.h"

namespace refrain {
namespace {

// Two sequences of some groups each, over slots in up to three runs.
struct Attention {
  Attention(int64_t heads, int64_t d, int64_t most)
      : shape{heads, d, static_cast<float>(1 / std::sqrt(static_cast<double>(d)))} {
    const auto group = [&](int64_t queries, std::array<kernels::SlotGroup::RowRange, 3> slots) {
      groups.push_back({{R, queries}, slots});
      R += queries;
    };
    group(3, {{{0, 1}, {}, {}}});
    group(70, {{{1, most}, {2, 1}, {}}});
    group(17, {{{2, most - 1}, {most, 0}, {most + 1, most}}});
    ends.push_back(groups.size());
    const int64_t next = 2 * most + 1;
    group(1, {{{next, 2}, {next + 2, most}, {next + most + 2, 1}}});
    group(5, {{{}, {}, {next, most}}});
    ends.push_back(groups.size());
    S = next + most + 3;
  }

  int64_t width() const { return shape.heads * shape.head_dim; }

  void forward(const Floats& q, const Floats& slots, const Floats& o) const {
    run([&](Arena& scratch) {
      kernels::memory_attention_forward(shape, {groups, ends}, q, slots, o, scratch);
    });
  }
  void backward(const Floats& q, const Floats& slots, const Floats& d_o,
                const Floats& dslots) const {
    run([&](Arena& scratch) {
      kernels::memory_attention_backward(shape, {groups, ends}, q, slots, {d_o, dslots}, scratch);
    });
  }

  std::vector<Complex> reference(const std::vector<Complex>& q,
                                 const std::vector<Complex>& slots) const {
    std::vector<Complex> o(q.size());
    const int64_t D = width(), d = shape.head_dim;
    for (const kernels::SlotGroup& g : groups)
      for (int64_t row = g.queries.first; row < g.queries.first + g.queries.count; ++row)
        for (int64_t h = 0; h < shape.heads; ++h) {
          std::vector<const Complex*> k, v;
          for (const auto& [first, count] : g.slots)
            for (int64_t i = first; i < first + count; ++i) {
              k.push_back(&slots[static_cast<size_t>(i * 2 * D + h * d)]);
              v.push_back(k.back() + D);
            }
          const auto at = static_cast<size_t>(row * D + h * d);
          kernels::memory_attention_ref(d, 1 / std::sqrt(static_cast<double>(d)), &q[at], k, v,
                                        &o[at]);
        }
    return o;
  }

  kernels::MemoryAttentionShape shape;
  std::vector<kernels::SlotGroup> groups;
  std::vector<size_t> ends;
  int64_t R = 0, S = 0;

 private:
  template <class F>
  static void run(F&& f) {
    Arena count;
    f(count);
    Buffer<std::byte> memory(count.peak() + 64);
    Arena scratch(memory.data(), memory.size());
    f(scratch);
    EXPECT_EQ(scratch.peak(), count.peak());
  }
};

template <class T>
std::vector<T> as(std::span<const float> from) {
  return {from.begin(), from.end()};
}

TEST(MemoryAttention, MatchesReferenceBothWays) {
  for (const auto& [heads, d, most] :
       {std::tuple{1, 1, 2}, {2, 3, 5}, {1, 8, 16}, {3, 5, 33}, {2, 17, 9}}) {
    SCOPED_TRACE(d);
    const Attention attention(heads, d, most);
    const int64_t D = attention.width(), R = attention.R, S = attention.S;
    const Floats q({R, D}, 1, 1, 2), slots({S, 2 * D}, 0, 2, 2), d_o({R, D}, 2, 3);
    auto cq = as<Complex>(q.span()), cs = as<Complex>(slots.span());
    std::vector<double> want;
    for (const Complex& v : attention.reference(cq, cs)) want.push_back(v.real());
    const auto loss = [&] { return dot(d_o.span(), attention.reference(cq, cs)); };
    // Every eleventh of each, from another place on.
    const auto some = [&](std::vector<Complex>& by, size_t from) {
      std::vector<double> slope;
      for (size_t i = from; i < by.size(); i += 11) {
        const Complex keep = by[i];
        by[i] += Complex(0, 1e-30);
        slope.push_back(loss().imag() / 1e-30);
        by[i] = keep;
      }
      return slope;
    };
    const auto thin = [](std::span<const float> all, size_t from) {
      std::vector<float> kept;
      for (size_t i = from; i < all.size(); i += 11) kept.push_back(all[i]);
      return kept;
    };
    const std::vector<double> dq = some(cq, 1), dslots = some(cs, 2);
    for_each_target([&] {
      Floats o({R, D}), own({R, D}), got({S, 2 * D});
      attention.forward(q, slots, o);
      expect_close(o.span(), want, 32, 2);
      std::copy(q.span().begin(), q.span().end(), own.span().begin());
      got.fill(0.25f);  // gradients of slots are added to
      attention.backward(own, slots, d_o, got);
      for (float& v : got.span()) v -= 0.25f;
      expect_close(thin(own.span(), 1), dq, 256, 4);
      expect_close(thin(got.span(), 2), dslots, 512, 16);
    });
  }
}

TEST(MemoryAttention, LargeScoresGiveTheOutputsAndGradientsOfFloat64) {
  const Attention attention(2, 8, 20);
  const int64_t D = attention.width(), R = attention.R, S = attention.S, d = 8;
  for (const ScoreSize& size : kScoreSizes) {
    SCOPED_TRACE(size.name());
    const Floats q({R, D}), slots({S, 2 * D}, 0, 2), d_o({R, D}, 2, 3);
    size.fill_q({q.span(), D, D, d});
    size.fill_k({slots.span(), 2 * D, D, d});
    Sums o(q.span().size()), dq(o), dslots(slots.span().size());
    for (const kernels::SlotGroup& group : attention.groups)
      for (int64_t h = 0; h < attention.shape.heads; ++h) {
        std::vector<double> own_q, own_do, k, v;
        std::vector<int64_t> rows;
        for (const auto& [first, count] : group.slots)
          for (int64_t row = first; row < first + count; ++row) rows.push_back(row);
        const auto take = [&](const Floats& x, int64_t row, int64_t column, auto& to) {
          for (int64_t j = 0; j < d; ++j)
            to.push_back(double{x.tensor().row(row)[column + h * d + j]});
        };
        for (const int64_t row : rows) take(slots, row, 0, k), take(slots, row, D, v);
        for (int64_t i = 0; i < group.queries.count; ++i) {
          take(q, group.queries.first + i, 0, own_q);
          take(d_o, group.queries.first + i, 0, own_do);
        }
        const AttentionInDouble want({d, double{attention.shape.scale}, own_q, k, v, own_do},
                                     [](int64_t, int64_t) { return true; });
        const auto put = [&](const Sums& from, int64_t row, int64_t column, int64_t i, Sums& to,
                             int64_t width) {
          for (int64_t j = 0; j < d; ++j) {
            const auto at = static_cast<size_t>(row * width + column + h * d + j);
            to.value[at] += from.value[static_cast<size_t>(i * d + j)];
            to.size[at] += from.size[static_cast<size_t>(i * d + j)];
          }
        };
        for (int64_t i = 0; i < group.queries.count; ++i) {
          put(want.o, group.queries.first + i, 0, i, o, D);
          put(want.dq, group.queries.first + i, 0, i, dq, D);
        }
        for (int64_t i = 0; i < std::ssize(rows); ++i) {
          put(want.dk, rows[static_cast<size_t>(i)], 0, i, dslots, 2 * D);
          put(want.dv, rows[static_cast<size_t>(i)], D, i, dslots, 2 * D);
        }
      }
    for_each_target([&] {
      Floats got({R, D}), own({R, D}), got_slots({S, 2 * D});
      attention.forward(q, slots, got);
      std::copy(q.span().begin(), q.span().end(), own.span().begin());
      got_slots.fill(0);
      attention.backward(own, slots, d_o, got_slots);
      constexpr double kError = 0x1p-24 * 64;  // exponentials and sums of a few ulp
      expect_near("o", o, kError, [&](int64_t i) { return got[i]; });
      expect_near("dq", dq, kError, [&](int64_t i) { return own[i]; });
      expect_near("dslots", dslots, kError, [&](int64_t i) { return got_slots[i]; });
    });
  }
}

TEST(MemoryAttention, ThreadsDoNotChangeABit) {
  const Attention attention(4, 32, 40);
  const int64_t D = attention.width(), R = attention.R, S = attention.S;
  const Floats q({R, D}, 0, 1), slots({S, 2 * D}, 0, 2), d_o({R, D}, 0, 3);
  const auto all = [&] {
    Floats o({R, D}), own({R, D}), dslots({S, 2 * D});
    attention.forward(q, slots, o);
    std::copy(q.span().begin(), q.span().end(), own.span().begin());
    dslots.fill(0);
    attention.backward(own, slots, d_o, dslots);
    return all_of({&o, &own, &dslots});
  };
  for_each_target([&] {
    set_threads(1);
    const std::vector<float> want = all();
    for (const int n : {2, 3}) {
      set_threads(n);
      EXPECT_TRUE(same_bits(all(), want)) << n << " threads";
    }
    set_threads(0);
  });
}

}  // namespace
}  // namespace refrain

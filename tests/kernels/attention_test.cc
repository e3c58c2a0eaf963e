#include "refrain/kernels/attention.h"

#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/kernels/attention_pattern.h"
#include "refrain/kernels/attention_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

constexpr uint64_t kKey = 0x0123456789abcdef;  // of dropout

struct Case {
  int64_t queries, keys, heads, kv_heads, d;
  int64_t window = 0, stride = 0;
  float dropout = 0;
};

// One sequence, of which the last `queries` of `keys` tokens come in the call.
class Attention {
 public:
  explicit Attention(const Case& c, uint64_t key, double size = 1)
      : c_(c),
        width(2 * c.kv_heads * c.d),
        q({c.queries, c.heads * c.d}, 0, key, size),
        kv({c.keys, width}, 0, key + 1, size),
        d_o({c.queries, c.heads * c.d}, 0, key + 2),
        o({c.queries, c.heads * c.d}),
        lse({c.heads, c.queries}),
        dq({c.queries, c.heads * c.d}),
        dkv({c.keys, width}) {
    for (int64_t t = c.keys - c.queries; t < c.keys; ++t)
      row_ids.push_back(uint64_t{3} << 32 | static_cast<uint64_t>(t));
  }

  kernels::AttentionShape shape() const {
    const int64_t row = c_.heads * c_.d;
    return {c_.heads, c_.kv_heads, c_.d,      scale(),           row,
            row,      c_.window,   c_.stride, {c_.dropout, kKey}};
  }
  // What dropout makes of head h's probabilities.
  auto factor(int64_t h) const {
    return [this, h](int64_t i, int64_t j) {
      return kernels::attention_dropout_ref({c_.dropout, kKey}, c_.window, c_.stride,
                                            row_ids[static_cast<size_t>(i)], h,
                                            c_.keys - c_.queries + i, j);
    };
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.d)); }

  // f(row of all, row of `kept`) for what a state holds before position start: the window's ring,
  // or all, and behind it the stride's rows.
  template <class F>
  void each_kept(int64_t start, const Floats& all, const Floats& kept, F&& f) const {
    const int64_t ring = c_.window > 0 ? c_.window : c_.keys;
    for (int64_t p = std::max<int64_t>(0, start - ring); p < start; ++p)
      f(all.tensor().row(p), kept.tensor().row(p % ring));
    for (int64_t i = 0; c_.stride > 0 && i < start / c_.stride; ++i)
      f(all.tensor().row((i + 1) * c_.stride - 1), kept.tensor().row(ring + i));
  }
  template <class T>
  kernels::AttentionKeys<T> rows(int64_t start, const Floats& all, const Floats& kept) const {
    const auto at = [&](float* k) {
      return typename kernels::AttentionKeys<T>::Rows{k, k + width / 2, width};
    };
    const int64_t ring = c_.window > 0 ? c_.window : c_.keys;
    return {at(all.tensor().row(start)), at(kept.tensor().data), at(kept.tensor().row(ring))};
  }

  // Queries [first, first + count) of all; the others are not touched.
  void forward(int64_t first, int64_t count) {
    Buffer<std::byte> memory(size_t{16} << 20);
    Arena arena(memory.data(), memory.size());
    const int64_t start = c_.keys - c_.queries + first;
    Floats part_lse({c_.heads, count}), kept({2 * c_.keys + c_.window, width});
    each_kept(start, kv, kept, [&](float* from, float* to) { std::copy_n(from, width, to); });
    const kernels::AttentionSequence s{count,
                                       start,
                                       q.tensor().row(first),
                                       rows<const float>(start, kv, kept),
                                       o.tensor().row(first),
                                       part_lse.tensor().data,
                                       row_ids.data() + first};
    kernels::attention_forward(shape(), {&s, 1}, arena);
    for (int64_t h = 0; h < c_.heads; ++h)
      for (int64_t i = 0; i < count; ++i)
        lse.tensor().row(h)[first + i] = part_lse.tensor().row(h)[i];
  }
  // Gradients of keys and values are added to, or else those of earlier tokens are lost.
  void backward(bool add) {
    Buffer<std::byte> memory(size_t{32} << 20);
    Arena arena(memory.data(), memory.size());
    const int64_t start = c_.keys - c_.queries;
    Floats kept({2 * c_.keys + c_.window, width}), dkept({2 * c_.keys + c_.window, width});
    each_kept(start, kv, kept, [&](float* from, float* to) { std::copy_n(from, width, to); });
    dkept.fill(0);
    const kernels::AttentionSequence s{c_.queries,      start,
                                       q.tensor().data, rows<const float>(start, kv, kept),
                                       o.tensor().data, lse.tensor().data,
                                       row_ids.data()};
    kernels::AttentionGradients g{d_o.tensor().data, dq.tensor().data,
                                  rows<float>(start, dkv, dkept)};
    if (!add) g.keys.past = g.keys.strided = {};
    kernels::attention_backward(shape(), {&s, 1}, {&g, 1}, c_.heads * c_.d, add, arena);
    each_kept(start, dkv, dkept, [&](float* to, const float* from) {
      for (int64_t j = 0; j < width; ++j) to[j] += from[j];
    });
  }

  // sum(d_o * attention) of head h by the plain twin; q, k, v of that head as given.
  Complex loss(int64_t h, const std::vector<Complex>& q_, const std::vector<Complex>& k_,
               const std::vector<Complex>& v_) const {
    std::vector<Complex> out(q_.size());
    kernels::attention_ref(c_.queries, c_.keys, c_.d, static_cast<double>(scale()), q_.data(),
                           k_.data(), v_.data(), out.data(), c_.window, c_.stride, factor(h));
    Complex l = 0;
    for (int64_t i = 0; i < c_.queries; ++i)
      for (int64_t j = 0; j < c_.d; ++j)
        l += out[static_cast<size_t>(i * c_.d + j)] *
             static_cast<double>(d_o.tensor().row(i)[h * c_.d + j]);
    return l;
  }
  template <class T>
  std::vector<T> head(const Floats& from, int64_t rows, int64_t first) const {
    std::vector<T> out;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < c_.d; ++j) out.push_back(T(from.tensor().row(i)[first + j]));
    return out;
  }

  Case c_;
  int64_t width;  // of a row of keys and values
  Floats q, kv, d_o, o, lse, dq, dkv;
  std::vector<uint64_t> row_ids;
};

TEST(Attention, ForwardIsThePlainTwins) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 2},
                                           {5, 5, 2, 2, 8},
                                           {70, 70, 4, 2, 16},
                                           {3, 130, 2, 1, 32},
                                           {150, 150, 1, 1, 64},
                                           {65, 66, 3, 1, 12},
                                           {300, 310, 2, 2, 6},
                                           {1, 200, 8, 2, 32, 70},
                                           {150, 150, 2, 2, 8, 1},
                                           {260, 300, 4, 2, 16, 64},
                                           {260, 300, 1, 1, 8, 100, 1},
                                           {200, 420, 2, 1, 8, 40, 3},
                                           {420, 420, 2, 2, 64, 70, 16},
                                           {150, 150, 4, 2, 16, 0, 0, 0.3f},
                                           {420, 430, 2, 1, 8, 50, 3, 0.5f}}) {
      Attention a(c, 7);
      a.forward(0, c.queries);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / (c.heads / c.kv_heads);
        const auto q = a.head<double>(a.q, c.queries, h * c.d);
        const auto k = a.head<double>(a.kv, c.keys, g * c.d);
        const auto v = a.head<double>(a.kv, c.keys, a.width / 2 + g * c.d);
        std::vector<double> o(q.size());
        kernels::attention_ref(c.queries, c.keys, c.d, static_cast<double>(a.scale()), q.data(),
                               k.data(), v.data(), o.data(), c.window, c.stride, a.factor(h));
        for (int64_t i = 0; i < c.queries; ++i)
          for (int64_t j = 0; j < c.d; ++j)
            ASSERT_NEAR(a.o.tensor().row(i)[h * c.d + j], o[static_cast<size_t>(i * c.d + j)],
                        5e-6)  // a few ulp of e^x and of sums of normal numbers
                << "head " << h << " row " << i;
      }
    }
  });
}

TEST(Attention, BackwardIsTheComplexStepOfTheTwin) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 2},
                                           {6, 6, 2, 1, 4},
                                           {5, 9, 2, 2, 8},
                                           {70, 70, 1, 1, 4},
                                           {8, 72, 2, 1, 6},
                                           {70, 70, 1, 1, 4, 1},
                                           {60, 100, 2, 2, 4, 7},
                                           {40, 60, 2, 1, 4, 6, 2},
                                           {330, 340, 1, 1, 4, 66, 5},
                                           {70, 75, 2, 2, 4, 0, 0, 0.3f},
                                           {8, 72, 2, 1, 6, 0, 0, 0.3f},
                                           {330, 340, 1, 1, 4, 66, 5, 0.5f}}) {
      Attention a(c, 11);
      a.forward(0, c.queries);
      a.dkv.fill(0.125f);
      a.backward(true);
      const int64_t group = c.heads / c.kv_heads;
      std::vector<double> dkv(static_cast<size_t>(c.keys * a.width), 0.125);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / group;
        auto q = a.head<Complex>(a.q, c.queries, h * c.d);
        auto k = a.head<Complex>(a.kv, c.keys, g * c.d);
        auto v = a.head<Complex>(a.kv, c.keys, a.width / 2 + g * c.d);
        const auto exact = [&](Complex& x) {
          const Complex keep = x;
          x = Complex(keep.real(), 1e-30);
          const double d = a.loss(h, q, k, v).imag() / 1e-30;
          x = keep;
          return d;
        };
        // A part of the elements of the longer cases: each costs a whole evaluation.
        const size_t stride = c.keys > 20 ? 37 : 1;
        for (size_t i = 0; i < q.size(); i += stride)
          ASSERT_NEAR(a.dq.tensor().row(static_cast<int64_t>(i) /
                                        c.d)[h * c.d + static_cast<int64_t>(i) % c.d],
                      exact(q[i]), 2e-5);
        if (group == 1) {
          for (size_t i = 0; i < k.size(); i += stride) {
            const auto* row = a.dkv.tensor().row(static_cast<int64_t>(i) / c.d);
            const int64_t at = g * c.d + static_cast<int64_t>(i) % c.d;
            ASSERT_NEAR(row[at] - 0.125, exact(k[i]), 2e-5);
            ASSERT_NEAR(row[a.width / 2 + at] - 0.125, exact(v[i]), 2e-5);
          }
        } else {
          for (size_t i = 0; i < k.size(); ++i) {
            const auto at = static_cast<size_t>((static_cast<int64_t>(i) / c.d) * a.width +
                                                g * c.d + static_cast<int64_t>(i) % c.d);
            dkv[at] += exact(k[i]);
            dkv[at + static_cast<size_t>(a.width / 2)] += exact(v[i]);
          }
        }
      }
      for (size_t i = 0; group > 1 && i < dkv.size(); ++i)
        ASSERT_NEAR(a.dkv.tensor().data[i], dkv[i], 4e-5) << "grouped, at " << i;
    }
  });
}

TEST(Attention, NoBitDependsOnThreadsOrOnWhichQueriesComeTogether) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{200, 230, 4, 2, 16},
                                           {700, 700, 1, 1, 8},
                                           {700, 700, 1, 1, 8, 100},
                                           {700, 730, 2, 1, 8, 50, 2},
                                           {200, 230, 4, 2, 16, 0, 0, 0.2f},
                                           {700, 730, 2, 1, 8, 50, 2, 0.2f}}) {
      Attention whole(c, 5);
      set_threads(1);
      whole.forward(0, c.queries);
      whole.dkv.fill(0);
      whole.backward(true);
      for (int threads : {2, 3}) {
        set_threads(threads);
        Attention cut(c, 5);
        cut.forward(0, 1);
        cut.forward(1, 63);
        cut.forward(64, c.queries - 64);
        cut.dkv.fill(0);
        cut.backward(true);
        EXPECT_TRUE(same_bits(all_of({&whole.o, &whole.lse, &whole.dq, &whole.dkv}),
                              all_of({&cut.o, &cut.lse, &cut.dq, &cut.dkv})));
        // The same without gradients of what came before.
        cut.dkv.fill(0);
        cut.backward(false);
        const int64_t start = c.keys - c.queries;
        const std::span<float> own = cut.dkv.span().subspan(static_cast<size_t>(start * cut.width));
        EXPECT_TRUE(same_bits(own, whole.dkv.span().last(own.size())));
        EXPECT_TRUE(same_bits(cut.dq.span(), whole.dq.span()));
      }
    }
    set_threads(0);
  });
}

TEST(Attention, ThePatternsListsAreWhatAQuerySees) {
  for (const auto& [window, stride] : {std::pair{0, 0}, {1, 0}, {5, 0}, {3, 1}, {4, 7}, {9, 2}}) {
    const kernels::AttentionShape shape{1, 1, 2, 1, 2, 2, window, stride};
    const kernels::KeyList far(shape, kernels::KeyList::kStrided);
    const kernels::KeyList near(shape, kernels::KeyList::kLocal);
    for (int64_t t = 0; t < 60; ++t) {
      std::vector<int> visits(60);
      for (const auto* list : {&far, &near}) {
        const kernels::Range seen = list->seen(t);
        for (int64_t i = seen.low; i < seen.high; ++i) {
          ++visits[static_cast<size_t>(list->position(i))];
          EXPECT_GE(t, list->seen_by(i).low);
          EXPECT_LT(t, list->seen_by(i).high);
        }
        if (seen.low > 0) {
          EXPECT_GE(t, list->seen_by(seen.low - 1).high);
        }
        if (list == &near || stride > 0) {
          EXPECT_LT(t, list->seen_by(seen.high).low);
        }
      }
      for (int64_t p = 0; p < 60; ++p)
        EXPECT_EQ(visits[static_cast<size_t>(p)], kernels::attention_sees(window, stride, t, p))
            << "window " << window << ", stride " << stride << ", query " << t << ", key " << p;
    }
  }
}

TEST(Attention, KeysOutOfReachAreNotTouched) {
  const Case c{400, 400, 1, 1, 8, 64};
  Attention clean(c, 9), poisoned(c, 9);
  // Whole blocks that no query of the call sees.
  for (int64_t i = 0; i < 192 * poisoned.width; ++i)
    poisoned.kv[i] = std::numeric_limits<float>::quiet_NaN();
  for (Attention* a : {&clean, &poisoned}) {
    a->o.fill(0);
    a->forward(300, 100);
  }
  EXPECT_TRUE(same_bits(clean.o.span(), poisoned.o.span()));
}

TEST(Attention, LargeScoresStayFinite) {
  Attention a({40, 40, 1, 1, 8}, 3, 60);  // scores of thousands
  a.forward(0, 40);
  a.backward(false);
  for (float v : a.o.span()) ASSERT_TRUE(std::isfinite(v));
  for (float v : a.dkv.span()) ASSERT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace refrain

#include "refrain/kernels/attention.h"

#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/kernels/attention_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

struct Case {
  int64_t queries, keys, heads, kv_heads, d;
};

// q, k, v side by side in one row, as the mixer lays them out.
struct Layout {
  explicit Layout(const Case& c) : kv(c.kv_heads * c.d), q(c.heads * c.d), row(q + 2 * kv) {}
  int64_t kv, q, row;
};

class Attention {
 public:
  explicit Attention(const Case& c, uint64_t key, double size = 1)
      : c_(c),
        l_(c),
        q({c.queries, l_.q}, 0, key, size),
        kv({c.keys, 2 * l_.kv}, 0, key + 1, size),
        d_o({c.queries, l_.q}, 0, key + 2),
        o({c.queries, l_.q}),
        lse({c.heads, c.queries}),
        dq({c.queries, l_.q}),
        dkv({c.keys, 2 * l_.kv}) {}

  kernels::AttentionShape shape() const {
    return {c_.heads, c_.kv_heads, c_.d, scale(), l_.q, 2 * l_.kv, l_.q};
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.d)); }

  // Queries [first, first + count) of all; the others are not touched.
  void forward(int64_t first, int64_t count) {
    Buffer<std::byte> memory(size_t{16} << 20);
    Arena arena(memory.data(), memory.size());
    Floats part_lse({c_.heads, count});
    const kernels::AttentionSequence s{count,
                                       c_.keys - c_.queries + first + count,
                                       q.tensor().row(first),
                                       kv.tensor().data,
                                       kv.tensor().data + l_.kv,
                                       o.tensor().row(first),
                                       part_lse.tensor().data};
    kernels::attention_forward(shape(), {&s, 1}, arena);
    for (int64_t h = 0; h < c_.heads; ++h)
      for (int64_t i = 0; i < count; ++i)
        lse.tensor().row(h)[first + i] = part_lse.tensor().row(h)[i];
  }
  void backward(bool add) {
    Buffer<std::byte> memory(size_t{16} << 20);
    Arena arena(memory.data(), memory.size());
    const kernels::AttentionSequence s{c_.queries,
                                       c_.keys,
                                       q.tensor().data,
                                       kv.tensor().data,
                                       kv.tensor().data + l_.kv,
                                       o.tensor().data,
                                       lse.tensor().data};
    const kernels::AttentionGradients g{d_o.tensor().data, dq.tensor().data, dkv.tensor().data,
                                        dkv.tensor().data + l_.kv};
    kernels::attention_backward(shape(), {&s, 1}, {&g, 1}, l_.q, 2 * l_.kv, add, arena);
  }

  // sum(d_o * attention) of head h by the plain twin; q, k, v of that head as given.
  Complex loss(int64_t h, const std::vector<Complex>& q_, const std::vector<Complex>& k_,
               const std::vector<Complex>& v_) const {
    std::vector<Complex> out(q_.size());
    kernels::attention_ref(c_.queries, c_.keys, c_.d, static_cast<double>(scale()), q_.data(),
                           k_.data(), v_.data(), out.data());
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
  Layout l_;
  Floats q, kv, d_o, o, lse, dq, dkv;
};

TEST(Attention, ForwardIsThePlainTwins) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 2},
                                           {5, 5, 2, 2, 8},
                                           {70, 70, 4, 2, 16},
                                           {3, 130, 2, 1, 32},
                                           {150, 150, 1, 1, 64},
                                           {65, 66, 3, 1, 12},
                                           {300, 310, 2, 2, 6}}) {
      Attention a(c, 7);
      a.forward(0, c.queries);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / (c.heads / c.kv_heads);
        const auto q = a.head<double>(a.q, c.queries, h * c.d);
        const auto k = a.head<double>(a.kv, c.keys, g * c.d);
        const auto v = a.head<double>(a.kv, c.keys, a.l_.kv + g * c.d);
        std::vector<double> o(q.size());
        kernels::attention_ref(c.queries, c.keys, c.d, static_cast<double>(a.scale()), q.data(),
                               k.data(), v.data(), o.data());
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
                                           {8, 72, 2, 1, 6}}) {
      Attention a(c, 11);
      a.forward(0, c.queries);
      a.dkv.fill(0.125f);
      a.backward(true);
      const int64_t group = c.heads / c.kv_heads;
      std::vector<double> dkv(static_cast<size_t>(c.keys * 2 * a.l_.kv), 0.125);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / group;
        auto q = a.head<Complex>(a.q, c.queries, h * c.d);
        auto k = a.head<Complex>(a.kv, c.keys, g * c.d);
        auto v = a.head<Complex>(a.kv, c.keys, a.l_.kv + g * c.d);
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
            ASSERT_NEAR(row[a.l_.kv + at] - 0.125, exact(v[i]), 2e-5);
          }
        } else {
          for (size_t i = 0; i < k.size(); ++i) {
            const auto at = static_cast<size_t>((static_cast<int64_t>(i) / c.d) * 2 * a.l_.kv +
                                                g * c.d + static_cast<int64_t>(i) % c.d);
            dkv[at] += exact(k[i]);
            dkv[at + static_cast<size_t>(a.l_.kv)] += exact(v[i]);
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
    const Case c{200, 230, 4, 2, 16};
    Attention whole(c, 5);
    set_threads(1);
    whole.forward(0, c.queries);
    whole.backward(false);
    for (int threads : {2, 3}) {
      set_threads(threads);
      Attention cut(c, 5);
      cut.forward(0, 1);
      cut.forward(1, 63);
      cut.forward(64, 136);
      cut.backward(false);
      EXPECT_EQ(
          0, std::memcmp(whole.o.span().data(), cut.o.span().data(), whole.o.span().size_bytes()));
      EXPECT_EQ(0, std::memcmp(whole.dq.span().data(), cut.dq.span().data(),
                               whole.dq.span().size_bytes()));
      EXPECT_EQ(0, std::memcmp(whole.dkv.span().data(), cut.dkv.span().data(),
                               whole.dkv.span().size_bytes()));
    }
    set_threads(0);
  });
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

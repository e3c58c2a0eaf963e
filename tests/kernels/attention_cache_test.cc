// Attention to keys and values that a state keeps in other types (kv_cache.h).
#include <vector>

#include "refrain/kernels/attention/attention.h"
#include "refrain/kernels/attention/attention_ref.h"
#include "support/attention_case.h"

namespace refrain {
namespace {

using Case = AttentionCase;
using kernels::CacheType;

// A single query and many, rings that go round, strides, heads that share keys, widths that fill no
// vector and no block.
const std::vector<Case> kCases = {{1, 2, 1, 1, 2},
                                  {1, 200, 2, 2, 6},
                                  {1, 300, 4, 2, 64},
                                  {3, 130, 2, 1, 34},
                                  {5, 140, 8, 1, 20},
                                  {70, 200, 4, 2, 16},
                                  {2, 150, 1, 1, 80},
                                  {300, 420, 2, 2, 12},
                                  {1, 400, 4, 2, 40, 70},
                                  {1, 700, 2, 1, 32, 300},
                                  {150, 300, 2, 2, 8, 1},
                                  {260, 300, 4, 2, 48, 64},
                                  {1, 300, 1, 1, 18, 100, 1},
                                  {200, 420, 2, 1, 8, 40, 3},
                                  {20, 420, 2, 2, 64, 70, 16}};

template <class F>
void for_each_type(F&& f) {
  for (const CacheType type : {CacheType::kBf16, CacheType::kQ8_0}) {
    SCOPED_TRACE(kernels::name_of(type));
    for_each_target([&] { f(type); });
  }
}

TEST(AttentionCache, ForwardIsTheReferencesOfRoundedKeysAndValues) {
  for_each_type([](CacheType type) {
    for (const Case& c : kCases) {
      AttentionCall a(c, 7);
      a.use_cache_type(type);
      a.forward(0, c.queries);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / (c.heads / c.kv_heads);
        const auto q = a.head<double>(a.q, c.queries, h * c.d);
        const auto k = a.head<double>(a.kv, c.keys, g * c.d);
        const auto v = a.head<double>(a.kv, c.keys, a.width / 2 + g * c.d);
        std::vector<double> o(q.size());
        a.reference().forward(q.data(), k.data(), v.data(), o.data());
        for (int64_t i = 0; i < c.queries; ++i)
          for (int64_t j = 0; j < c.d; ++j)
            ASSERT_NEAR(a.o.tensor().row(i)[h * c.d + j], o[static_cast<size_t>(i * c.d + j)],
                        5e-6)  // as of float32
                << "head " << h << " row " << i << " width " << c.d;
      }
    }
  });
}

// A state in float32 with the same values gives the same bits: reading is exact.
TEST(AttentionCache, GivesTheBitsOfFloat32WithTheseValues) {
  for_each_type([](CacheType type) {
    for (const Case& c : kCases) {
      AttentionCall rounded(c, 7), plain(c, 7);
      rounded.use_cache_type(type);
      plain.use_cache_type(type);
      plain.cache_type = CacheType::kFloat32;
      for (AttentionCall* a : {&rounded, &plain}) a->forward(0, c.queries);
      EXPECT_TRUE(
          same_bits(all_of({&rounded.o, &rounded.softmax}), all_of({&plain.o, &plain.softmax})))
          << "width " << c.d << ", window " << c.window;
    }
  });
}

TEST(AttentionCache, NoBitDependsOnThreadsOrCuts) {
  for_each_type([](CacheType type) {
    for (const Case& c : std::vector<Case>{{200, 230, 4, 2, 34},
                                           {300, 300, 2, 1, 64},
                                           {330, 330, 1, 1, 8, 100},
                                           {330, 350, 2, 1, 20, 50, 2}}) {
      set_threads(1);
      AttentionCall whole(c, 5);
      whole.use_cache_type(type);
      whole.forward(0, c.queries);
      for (const int threads : {1, 2}) {
        set_threads(threads);
        for (const int64_t piece : {int64_t{1}, int64_t{37}, int64_t{128}}) {
          AttentionCall cut(c, 5);
          cut.use_cache_type(type);
          // Of single ones the last few are enough.
          int64_t first = 0;
          if (piece == 1) cut.forward(0, first = c.queries - 12);
          for (; first < c.queries; first += piece)
            cut.forward(first, std::min(piece, c.queries - first));
          EXPECT_TRUE(same_bits(all_of({&whole.o, &whole.softmax}), all_of({&cut.o, &cut.softmax})))
              << threads << " threads, pieces of " << piece << ", width " << c.d;
        }
      }
    }
    set_threads(0);
  });
}

}  // namespace
}  // namespace refrain

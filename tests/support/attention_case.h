// What tests of attention's kernels share: one sequence with its gradients, and states that hold
// what came before the call's tokens.
#pragma once
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/kernels/attention/attention.h"
#include "refrain/kernels/attention/attention_bf16.h"
#include "refrain/kernels/attention/attention_ref.h"
#include "refrain/kernels/attention/kv_cache_ref.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {

struct AttentionCase {
  int64_t queries, keys, heads, kv_heads, d;
  int64_t window = 0, stride = 0;
  float dropout = 0;
};

// One sequence, of which the last `queries` of `keys` tokens come in the call.
class AttentionCall {
 public:
  static constexpr uint64_t kDropoutKey = 0x0123456789abcdef;

  explicit AttentionCall(const AttentionCase& c, uint64_t key, double size = 1)
      : c_(c),
        width(2 * c.kv_heads * c.d),
        q({c.queries, c.heads * c.d}, 0, key, size),
        kv({c.keys, width}, 0, key + 1, size),
        d_o({c.queries, c.heads * c.d}, 0, key + 2),
        o({c.queries, c.heads * c.d}),
        softmax({2 * c.heads, c.queries}),
        dq({c.queries, c.heads * c.d}),
        dkv({c.keys, width}) {
    for (int64_t t = c.keys - c.queries; t < c.keys; ++t)
      row_ids.push_back(uint64_t{3} << 32 | static_cast<uint64_t>(t));
  }

  kernels::AttentionShape shape() const {
    const int64_t row = c_.heads * c_.d;
    return {c_.heads,  c_.kv_heads, c_.d,
            scale(),   row,         row,
            c_.window, c_.stride,   {c_.dropout, kDropoutKey}};
  }
  // Of a head.
  kernels::AttentionHeadRef reference() const {
    return {c_.queries, c_.keys, c_.d, double{scale()}, c_.window, c_.stride};
  }
  // What dropout makes of head h's probabilities.
  auto factor(int64_t h) const {
    return [this, h](int64_t i, int64_t j) {
      return reference().dropout_factor({c_.dropout, kDropoutKey}, row_ids[static_cast<size_t>(i)],
                                        h, i, j);
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
    const int64_t start = c_.keys - c_.queries + first;
    Floats part({2 * c_.heads, count}), kept({2 * c_.keys + c_.window, width});
    each_kept(start, kv, kept, [&](float* from, float* to) { std::copy_n(from, width, to); });
    kernels::AttentionSequence s{count,
                                 start,
                                 q.tensor().row(first),
                                 rows<const float>(start, kv, kept),
                                 o.tensor().row(first),
                                 part.tensor().data,
                                 row_ids.data() + first};
    std::vector<std::byte> stored;
    if (cache_type != kernels::CacheType::kFloat32) store(kept, stored, s);
    const auto run = [&](Arena& arena) {
      if (kernel)
        kernels::attention_forward_bf16(*kernel, shape(), {&s, 1}, arena);
      else
        kernels::attention_forward(shape(), {&s, 1}, arena);
    };
    Arena dry;
    run(dry);
    Buffer<std::byte> memory(dry.peak() + 64);
    Arena arena(memory.data(), memory.size());
    run(arena);
    for (int64_t r = 0; r < 2 * c_.heads; ++r)
      std::copy_n(part.tensor().row(r), count, softmax.tensor().row(r) + first);
  }
  // Keys and values become those that the type has. From then on, what comes before a call's tokens
  // is stored in it.
  void use_cache_type(kernels::CacheType type) {
    cache_type = type;
    for (int64_t at = 0; at < kv.tensor().size(); at += c_.d)
      kernels::round_to_cache_ref(type, c_.d, &kv[at]);
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
                                       o.tensor().data, softmax.tensor().data,
                                       row_ids.data()};
    kernels::AttentionGradients g{d_o.tensor().data, dq.tensor().data, c_.heads * c_.d,
                                  rows<float>(start, dkv, dkept), add};
    if (!add) g.keys.past = g.keys.strided = {};
    if (kernel)
      kernels::attention_backward_bf16(*kernel, shape(), {&s, 1}, {&g, 1}, arena);
    else
      kernels::attention_backward(shape(), {&s, 1}, {&g, 1}, arena);
    each_kept(start, dkv, dkept, [&](float* to, const float* from) {
      for (int64_t j = 0; j < width; ++j) to[j] += from[j];
    });
  }

  // sum(d_o * attention) of head h by the reference implementation; q, k, v of that head as given.
  Complex loss(int64_t h, const std::vector<Complex>& q_, const std::vector<Complex>& k_,
               const std::vector<Complex>& v_) const {
    std::vector<Complex> out(q_.size());
    reference().forward(q_.data(), k_.data(), v_.data(), out.data(), factor(h));
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

  AttentionCase c_;
  int64_t width;  // of a row of keys and values
  Floats q, kv, d_o, o, softmax, dq, dkv;
  std::vector<uint64_t> row_ids;
  const kernels::Microkernel* kernel = nullptr;  // that makes the products; null: in float32
  kernels::CacheType cache_type = kernels::CacheType::kFloat32;

 private:
  // The rows of `kept`, as far as there are any, in the cache's type, and nothing behind them.
  void store(const Floats& kept, std::vector<std::byte>& stored,
             kernels::AttentionSequence& s) const {
    const int64_t row = 2 * c_.kv_heads * kernels::cache_bytes(cache_type, c_.d);
    const int64_t ring = c_.window > 0 ? c_.window : c_.keys;
    const int64_t strided = c_.stride > 0 ? s.start / c_.stride : 0;
    const int64_t n = c_.stride > 0 ? ring + strided : std::min(ring, s.start);
    stored.resize(static_cast<size_t>(std::max<int64_t>(n, 1) * row));
    stored.shrink_to_fit();
    kernels::write_cache(cache_type, c_.d, {kept.tensor().data, n, width}, stored.data());
    const auto at = [&](std::byte* k) {
      return kernels::AttentionKeys<const std::byte>::Rows{k, k + row / 2, row};
    };
    s.keys.past = s.keys.strided = {};
    s.cache_type = cache_type;
    s.cached.past = at(stored.data());
    s.cached.strided = at(stored.data() + ring * row);
  }
};

// Runs `whole`, made with `key` and `size`, on one thread, and others like it on more, their
// queries in calls that begin at 0 and at `cuts`: outputs and gradients are the same to the bit,
// those of the call's own tokens also where nobody asks for those of earlier ones.
inline void expect_cuts_change_nothing(AttentionCall& whole, uint64_t key,
                                       const std::vector<int64_t>& cuts, double size = 1) {
  const AttentionCase& c = whole.c_;
  set_threads(1);
  whole.forward(0, c.queries);
  whole.dkv.fill(0);
  whole.backward(true);
  for (int threads : {2, 3}) {
    set_threads(threads);
    AttentionCall cut(c, key, size);
    cut.kernel = whole.kernel;
    int64_t first = 0;
    for (const int64_t next : cuts) {
      cut.forward(first, next - first);
      first = next;
    }
    cut.forward(first, c.queries - first);
    cut.dkv.fill(0);
    cut.backward(true);
    EXPECT_TRUE(same_bits(all_of({&whole.o, &whole.softmax, &whole.dq, &whole.dkv}),
                          all_of({&cut.o, &cut.softmax, &cut.dq, &cut.dkv})));
    cut.dkv.fill(0);
    cut.backward(false);
    const int64_t start = c.keys - c.queries;
    const std::span<float> own = cut.dkv.span().subspan(static_cast<size_t>(start * cut.width));
    EXPECT_TRUE(same_bits(own, whole.dkv.span().last(own.size())));
    EXPECT_TRUE(same_bits(cut.dq.span(), whole.dq.span()));
  }
  set_threads(0);
}

}  // namespace refrain

#include "refrain/mixers/attention_rnn/kernel.h"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/attention_rnn/kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_SCAN_ONCE
#define REFRAIN_KERNELS_ATTENTION_SCAN_ONCE
namespace refrain::kernels {

// The rows of a chunk that lie in one block, and its place among the blocks of all chunks.
struct ScanBlock {
  int64_t first, rows, index;
};

struct BlockedChunk {
  const ScanChunk& chunk;
  std::span<const ScanBlock> blocks;
};

// a, c and m of a state, or what stands at their places in an array of states' size.
template <class T>
struct ScanParts {
  T *a, *c, *m;
  ScanParts(const ScanShape& shape, T* state)
      : a(state), c(state + shape.width()), m(c + shape.heads) {}
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// With nothing seen, anything is higher than the maximum.
HWY_INLINE FloatVec maximum_of(FloatVec c, FloatVec m) {
  const FloatTag d;
  return hn::IfThenElse(hn::Gt(c, hn::Zero(d)), m,
                        hn::Set(d, -std::numeric_limits<float>::infinity()));
}

// A block's own state, as if nothing had come before it, in its row of `carries`. weights: [rows,
// heads].
void reduce_block(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block,
                  float* weights) {
  const int64_t H = shape.heads, d = shape.head_dim;
  const float *s = rows.s.row(block.first), *v = rows.v.row(block.first);
  const ScanParts<float> to(shape, rows.carries.row(block.index));
  each(H, [&](auto at, int64_t h) HWY_ATTR {
    FloatVec top = at.load(s + h), sum = hn::Zero(FloatTag());
    for (int64_t t = 1; t < block.rows; ++t) top = hn::Max(top, at.load(s + t * H + h));
    for (int64_t t = 0; t < block.rows; ++t) {
      const FloatVec weight = vector_exp(hn::Sub(at.load(s + t * H + h), top));
      sum = hn::Add(sum, weight);
      at.store(weight, weights + t * H + h);
    }
    at.store(sum, to.c + h);
    at.store(top, to.m + h);
  });
  std::fill_n(to.a, shape.width(), 0.0f);
  for (int64_t h = 0; h < H; ++h)
    chain_rows(0, block.rows, h * d, (h + 1) * d, to.a,
               [&](auto at, int64_t t, int64_t j, FloatVec acc) HWY_ATTR {
                 return hn::MulAdd(hn::Set(FloatTag(), weights[t * H + h]),
                                   at.load(v + t * shape.width() + j), acc);
               });
}

// One head of a chunk: `carries` holds its blocks' own states and becomes what each block finds.
// a: [head_dim].
void fold(const ScanShape& shape, const ScanRows& rows, const BlockedChunk& blocked, int64_t h,
          float* a) {
  const auto& [chunk, blocks] = blocked;
  const int64_t d = shape.head_dim;
  float c = 0, m = 0;
  std::fill_n(a, d, 0.0f);
  if (chunk.initial_state) {
    const ScanParts<const float> found(shape, chunk.initial_state);
    if (found.c[h] > 0) {
      c = found.c[h];
      m = found.m[h];
      std::copy_n(found.a + h * d, d, a);
    }
  }
  for (const ScanBlock& b : blocks) {
    const ScanParts<float> block(shape, rows.carries.row(b.index));
    const bool rises = !(c > 0) || block.m[h] > m;
    const float fade = std::exp(rises ? m - block.m[h] : block.m[h] - m);
    // With c = 0, a is 0 too; its factor must only be finite.
    const float old_factor = !(c > 0) ? 0.0f : rises ? fade : 1.0f;
    const float new_factor = rises ? 1.0f : fade;
    each(d, [&](auto at, int64_t j) HWY_ATTR {
      const FloatTag tag;
      const FloatVec before = at.load(a + j), own = at.load(block.a + h * d + j);
      at.store(before, block.a + h * d + j);
      at.store(hn::MulAdd(before, hn::Set(tag, old_factor), hn::Mul(own, hn::Set(tag, new_factor))),
               a + j);
    });
    const float own_c = block.c[h], own_m = block.m[h];
    block.c[h] = c;
    block.m[h] = m;
    c = c * old_factor + own_c * new_factor;
    m = rises ? own_m : m;
  }
  if (chunk.final_state) {
    const ScanParts<float> left(shape, chunk.final_state);
    std::copy_n(a, d, left.a + h * d);
    left.c[h] = c;
    left.m[h] = m;
  }
}

// Outputs of a block from the state it finds.
void scan_block(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block) {
  const int64_t H = shape.heads, d = shape.head_dim, W = shape.width();
  const ScanParts<const float> found(shape, rows.carries.row(block.index));
  const float *s = rows.s.row(block.first), *v = rows.v.row(block.first);
  float *keep = rows.keep.row(block.first), *share = rows.share.row(block.first);
  float* o = rows.o.row(block.first);
  each(H, [&](auto at, int64_t h) HWY_ATTR {
    const FloatTag tag;
    const FloatVec one = constant(1);
    FloatVec c = at.load(found.c + h), m = maximum_of(c, at.load(found.m + h));
    for (int64_t t = 0; t < block.rows; ++t) {
      const FloatVec score = at.load(s + t * H + h), rise = hn::Sub(score, m);
      const FloatVec fade = vector_exp(hn::Neg(hn::Abs(rise)));
      const auto rises = hn::Gt(rise, hn::Zero(tag));
      const FloatVec old = hn::IfThenElse(rises, hn::Mul(c, fade), c);
      const FloatVec weight = hn::IfThenElse(rises, one, fade);
      m = hn::IfThenElse(rises, score, m);
      c = hn::Add(old, weight);
      const FloatVec inverse = hn::Div(one, c);
      at.store(hn::Mul(old, inverse), keep + t * H + h);
      at.store(hn::Mul(weight, inverse), share + t * H + h);
    }
  });
  for (int64_t t = 0; t < block.rows; ++t)
    for (int64_t h = 0; h < H; ++h) {
      const float* before = t > 0 ? o + (t - 1) * W : found.a;
      float factor = keep[t * H + h];
      if (t == 0) factor = found.c[h] > 0 ? factor / found.c[h] : 0;  // of a: o = a / c
      const FloatVec old = constant(factor), now = constant(share[t * H + h]);
      each(d, [&](auto at, int64_t i) HWY_ATTR {
        const int64_t j = h * d + i;
        const FloatVec value = hn::Mul(now, at.load(v + t * W + j));
        at.store(hn::MulAdd(old, at.load(before + j), value), o + t * W + j);
      });
    }
}

// o[t-1] of a block's row t as `factor` times what is stored: a row of o, or a of the initial
// state.
struct Before {
  const float* values;
  float factor;

  Before(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block, int64_t t,
         int64_t h) {
    const ScanParts<const float> found(shape, rows.carries.row(block.index));
    const float c = found.c[h];
    values = (t > 0 ? rows.o.row(block.first + t - 1) : found.a) + h * shape.head_dim;
    factor = t > 0 ? 1 : c > 0 ? 1 / c : 0;
  }
};

// Backward. Γ[t], the gradient of o[t] with all that o[t] goes into, and λ[t], the gradient of
// log Σ e^s over the past, which is what later shares know of it:
//
//   Γ[t]   = do[t] + keep[t+1] Γ[t+1]
//   λ[t-1] = keep[t] (λ[t] - share[t] x[t])              x[t] = Γ[t] · (v[t] - o[t-1])
//   ds[t]  = share[t] (λ[t] + keep[t] x[t])              dv[t] = share[t] Γ[t]
//
// Differences of values come before sums, and what is saturated is 0 to the bit: gradients are as
// good as shares are, whatever the size of scores and values.
//
// What a block hands to the one before it, keep Γ and λ at its first row, is linear in what it was
// handed:
//
//   own Γ + factor Γ        factor (λ - Γ · (o of its last row - o before it)) - own λ
//
// `carry` takes own Γ in a's place, own λ in c's and the factor in m's. memory: [2, 64, heads].
void reduce_block_backward(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block,
                           ConstTensor d_o, float* memory, float* carry) {
  const int64_t H = shape.heads, d = shape.head_dim, W = shape.width();
  const float* keep = rows.keep.row(block.first);
  const float *grad = d_o.row(block.first), *o = rows.o.row(block.first);
  float *products = memory, *dots = memory + kScanBlock * H;
  const ScanParts<float> to(shape, carry);
  for (int64_t h = 0; h < H; ++h) {
    const Before before(shape, rows, block, 0, h);
    for (int64_t t = 0; t < block.rows; ++t) {
      const int64_t first = t * W + h * d;
      FloatVec acc = hn::Zero(FloatTag());
      each(d, [&](auto at, int64_t i) HWY_ATTR {
        const FloatVec change = hn::NegMulAdd(constant(before.factor), at.load(before.values + i),
                                              at.load(o + first + i));
        acc = hn::MulAdd(at.load(grad + first + i), change, acc);
      });
      dots[t * H + h] = hn::GetLane(hn::SumOfLanes(FloatTag(), acc));
    }
  }
  each(H, [&](auto at, int64_t h) HWY_ATTR {
    FloatVec product = constant(1), own = hn::Zero(FloatTag());
    for (int64_t t = 0; t < block.rows; ++t) {
      product = hn::Mul(product, at.load(keep + t * H + h));
      own = hn::MulAdd(product, at.load(dots + t * H + h), own);
      at.store(product, products + t * H + h);
    }
    at.store(own, to.c + h);
    at.store(product, to.m + h);
  });
  std::fill_n(to.a, W, 0.0f);
  for (int64_t h = 0; h < H; ++h)
    chain_rows(0, block.rows, h * d, (h + 1) * d, to.a,
               [&](auto at, int64_t t, int64_t j, FloatVec acc) HWY_ATTR {
                 return hn::MulAdd(constant(products[t * H + h]), at.load(grad + t * W + j), acc);
               });
}

// Σ da a over a head's columns.
HWY_INLINE double along_values(const float* da, const float* a, int64_t d) {
  double sum = 0;
  for (int64_t j = 0; j < d; ++j) sum += double{da[j]} * double{a[j]};
  return sum;
}

// What a gradient of a state says, dL/da, dL/dc and dL/dm of one head: Γ, in da's place, λ, and
// what belongs to whichever score was the maximum. a and c stand for a e^m and c e^m, so λ, their
// share of dL/dm, is da · a + dc c; where that is dL/dm but for rounding, it is dL/dm.
struct OpenedGradient {
  float lambda, of_maximum;

  OpenedGradient(int64_t d, const float* a, float c, float* da, float dc, float dm) {
    double size = std::abs(double{dc} * double{c});
    for (int64_t j = 0; j < d; ++j) size += std::abs(double{da[j]} * double{a[j]});
    const double along = double{dc} * double{c} + along_values(da, a, d), rest = double{dm} - along;
    const bool none = std::abs(rest) <= 0x1p-20 * size;
    lambda = none ? dm : static_cast<float>(along);
    of_maximum = none ? 0 : static_cast<float>(rest);
    for (int64_t j = 0; j < d; ++j) da[j] *= c;
  }
};

// One head of a chunk, from right to left: `carries`, rows like those of states, becomes what each
// block is handed. Between blocks goes what goes between windows, the gradient of the state, so
// that a cut changes nothing. Returns the part of dL/d(m left) that belongs to the score in this
// chunk that is m left. x [head_dim]: Γ.
float fold_backward(const ScanShape& shape, const ScanRows& rows, const BlockedChunk& blocked,
                    Tensor carries, int64_t h, float* x) {
  const auto& [chunk, blocks] = blocked;
  const int64_t d = shape.head_dim;
  float lambda = 0, of_maximum = 0, maximum = 0;
  std::fill_n(x, d, 0.0f);
  if (chunk.dstate) {
    const ScanParts<const float> grad(shape, chunk.dstate), left(shape, chunk.final_state);
    std::copy_n(grad.a + h * d, d, x);
    const OpenedGradient opened(d, left.a + h * d, left.c[h], x, grad.c[h], grad.m[h]);
    lambda = opened.lambda;
    of_maximum = opened.of_maximum;
    maximum = left.m[h];
  }
  for (auto b = static_cast<int64_t>(blocks.size()) - 1; b >= 0; --b) {
    const ScanBlock& block = blocks[static_cast<size_t>(b)];
    const ScanParts<const float> found(shape, rows.carries.row(block.index));
    const ScanParts<float> carry(shape, carries.row(block.index));
    const Before before(shape, rows, block, 0, h);
    const float *a = found.a + h * d, *last = rows.o.row(block.first + block.rows - 1) + h * d;
    const float c = found.c[h], inverse = c > 0 ? 1 / c : 0, factor = carry.m[h];
    float* own = carry.a + h * d;
    FloatVec moved = hn::Zero(FloatTag());
    each(d, [&](auto at, int64_t j) HWY_ATTR {
      const FloatVec handed = at.load(x + j);
      const FloatVec change =
          hn::NegMulAdd(constant(before.factor), at.load(a + j), at.load(last + j));
      moved = hn::MulAdd(handed, change, moved);
      const FloatVec gamma = hn::MulAdd(constant(factor), handed, at.load(own + j));
      at.store(handed, own + j);
      at.store(hn::Mul(gamma, constant(inverse)), x + j);
    });
    const float own_lambda = std::exchange(carry.c[h], lambda);
    lambda = factor * (lambda - hn::GetLane(hn::SumOfLanes(FloatTag(), moved))) - own_lambda;
    if (!(c > 0)) lambda = 0;
    const bool passes = c > 0 && found.m[h] == maximum;  // the maximum was found
    const float dm = passes ? lambda + of_maximum : lambda;
    const float dc = static_cast<float>((double{lambda} - along_values(x, a, d)) * double{inverse});
    if (chunk.dstate && b == 0) {
      const ScanParts<float> grad(shape, chunk.dstate);
      std::copy_n(x, d, grad.a + h * d);
      grad.c[h] = dc;
      grad.m[h] = dm;
    }
    const OpenedGradient opened(d, a, c, x, dc, dm);
    lambda = opened.lambda;
    if (passes) of_maximum = b > 0 ? opened.of_maximum : 0;
  }
  return of_maximum;
}

// ds and dv of a block from what it is handed, which is used up.
void scan_block_backward(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block,
                         const ScanGradients& gradients, float* carry) {
  const int64_t H = shape.heads, d = shape.head_dim;
  const ScanParts<float> handed(shape, carry);
  for (int64_t t = block.rows - 1; t >= 0; --t) {
    const int64_t row = block.first + t;
    const float *grad = gradients.d_o.row(row), *v = rows.v.row(row);
    float *to_s = gradients.ds.row(row), *to_v = gradients.dv.row(row);
    for (int64_t h = 0; h < H; ++h) {
      FloatVec acc = hn::Zero(FloatTag());
      const float keep = rows.keep.row(row)[h], share = rows.share.row(row)[h];
      const FloatVec old = constant(keep), now = constant(share);
      const Before before(shape, rows, block, t, h);
      const FloatVec factor = constant(before.factor);
      each(d, [&](auto at, int64_t i) HWY_ATTR {
        const int64_t j = h * d + i;
        const FloatVec gamma = hn::Add(at.load(grad + j), at.load(handed.a + j));
        const FloatVec change = hn::NegMulAdd(factor, at.load(before.values + i), at.load(v + j));
        acc = hn::MulAdd(gamma, change, acc);
        at.store(hn::Mul(now, gamma), to_v + j);
        at.store(hn::Mul(old, gamma), handed.a + j);
      });
      const float change = hn::GetLane(hn::SumOfLanes(FloatTag(), acc)), lambda = handed.c[h];
      to_s[h] = share * (lambda + keep * change);
      handed.c[h] = keep * (lambda - share * change);
    }
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(reduce_block);
HWY_EXPORT(fold);
HWY_EXPORT(scan_block);
HWY_EXPORT(reduce_block_backward);
HWY_EXPORT(fold_backward);
HWY_EXPORT(scan_block_backward);

namespace {

// The blocks of all chunks, one chunk's after another's.
struct ScanPlan {
  std::span<const ScanChunk> chunks;
  std::vector<ScanBlock> blocks;
  std::vector<size_t> first;  // block of each chunk
  int64_t tokens = 0;

  explicit ScanPlan(std::span<const ScanChunk> chunks_) : chunks(chunks_) {
    for (const ScanChunk& chunk : chunks) {
      first.push_back(blocks.size());
      const int64_t end = chunk.start + chunk.tokens;
      for (int64_t at = chunk.start; at < end;) {
        const int64_t next = std::min(end, (at / kScanBlock + 1) * kScanBlock);
        blocks.push_back({chunk.first + at - chunk.start, next - at, count()});
        at = next;
      }
      tokens += chunk.tokens;
    }
    first.push_back(blocks.size());
  }
  int64_t count() const { return std::ssize(blocks); }
  BlockedChunk chunk(size_t p) const {
    return {chunks[p], std::span(blocks).subspan(first[p], first[p + 1] - first[p])};
  }
};

// f(block, worker)
template <class F>
void for_each_block(const ScanShape& shape, const ScanPlan& plan, F&& f) {
  parallel_for(
      plan.count(), [&](int64_t i, int worker) { f(plan.blocks[static_cast<size_t>(i)], worker); },
      4 * plan.tokens * shape.width());
}

// f(chunk, head, worker)
template <class F>
void for_each_head(const ScanShape& shape, const ScanPlan& plan, F&& f) {
  parallel_for(
      std::ssize(plan.chunks) * shape.heads,
      [&](int64_t i, int worker) {
        f(static_cast<size_t>(i / shape.heads), i % shape.heads, worker);
      },
      4 * plan.count() * shape.width());
}

}  // namespace

void attention_scan_forward(const ScanShape& shape, std::span<const ScanChunk> chunks,
                            const ScanRows& rows, Arena& scratch) {
  Arena::Frame frame(scratch);
  const Tensor weights = scratch.take({threads(), kScanBlock * shape.heads});
  const Tensor a = scratch.take({threads(), shape.head_dim});
  if (scratch.planning()) return;
  const ScanPlan plan(chunks);
  REFRAIN_CHECK(rows.carries.dim[0] == plan.count());
  for_each_block(shape, plan, [&](const ScanBlock& block, int worker) {
    HWY_DYNAMIC_DISPATCH(reduce_block)(shape, rows, block, weights.row(worker));
  });
  for_each_head(shape, plan, [&](size_t p, int64_t h, int worker) {
    HWY_DYNAMIC_DISPATCH(fold)(shape, rows, plan.chunk(p), h, a.row(worker));
  });
  for_each_block(shape, plan, [&](const ScanBlock& block, int) {
    HWY_DYNAMIC_DISPATCH(scan_block)(shape, rows, block);
  });
}

void attention_scan_backward(const ScanShape& shape, std::span<const ScanChunk> chunks,
                             const ScanRows& rows, const ScanGradients& gradients, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t H = shape.heads;
  const Tensor of_rows = scratch.take({threads(), 2 * kScanBlock * H});
  const Tensor x = scratch.take({threads(), shape.head_dim});
  const Tensor carries = scratch.take({rows.carries.dim[0], shape.state_size()});
  const Tensor of_maximum = scratch.take({static_cast<int64_t>(chunks.size()), H});
  if (scratch.planning()) return;
  const ScanPlan plan(chunks);
  REFRAIN_CHECK(rows.carries.dim[0] == plan.count());
  for_each_block(shape, plan, [&](const ScanBlock& block, int worker) {
    HWY_DYNAMIC_DISPATCH(reduce_block_backward)
    (shape, rows, block, gradients.d_o, of_rows.row(worker), carries.row(block.index));
  });
  for_each_head(shape, plan, [&](size_t p, int64_t h, int worker) {
    of_maximum.row(static_cast<int64_t>(p))[h] =
        HWY_DYNAMIC_DISPATCH(fold_backward)(shape, rows, plan.chunk(p), carries, h, x.row(worker));
  });
  for_each_block(shape, plan, [&](const ScanBlock& block, int) {
    HWY_DYNAMIC_DISPATCH(scan_block_backward)
    (shape, rows, block, gradients, carries.row(block.index));
  });
  // What a, c and m left do not share: the maximum's own gradient.
  for (size_t p = 0; p < chunks.size(); ++p)
    for (int64_t h = 0; h < H; ++h) {
      const float gradient = of_maximum.row(static_cast<int64_t>(p))[h];
      if (gradient == 0) continue;
      const float maximum = ScanParts<const float>(shape, chunks[p].final_state).m[h];
      for (int64_t row = chunks[p].first; row < chunks[p].first + chunks[p].tokens; ++row)
        if (rows.s.row(row)[h] == maximum) {
          gradients.ds.row(row)[h] += gradient;
          break;
        }
    }
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE

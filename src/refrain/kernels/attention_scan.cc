#include "refrain/kernels/attention_scan.h"

#include <cmath>
#include <limits>
#include <vector>

#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention_scan.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_SCAN_ONCE
#define REFRAIN_KERNELS_ATTENTION_SCAN_ONCE
namespace refrain::kernels {

// The rows of a piece that lie in one block.
struct ScanBlock {
  int64_t first, rows;
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

// A block's own state, as if nothing had come before it. weights: [rows, heads].
void reduce_block(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block,
                  float* weights, float* state) {
  const int64_t H = shape.heads, d = shape.head_dim;
  const float *s = rows.s.row(block.first), *v = rows.v.row(block.first);
  const ScanParts<float> to(shape, state);
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

// One head of a piece: `states` holds its blocks' own states and becomes what each block finds.
void fold(const ScanShape& shape, const ScanPiece& piece, int64_t blocks, float* states, int64_t h,
          float* a) {
  const int64_t d = shape.head_dim;
  float c = 0, m = 0;
  std::fill_n(a, d, 0.0f);
  if (piece.found) {
    const ScanParts<const float> found(shape, piece.found);
    if (found.c[h] > 0) {
      c = found.c[h];
      m = found.m[h];
      std::copy_n(found.a + h * d, d, a);
    }
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const ScanParts<float> block(shape, states + b * shape.state_size());
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
  if (piece.left) {
    const ScanParts<float> left(shape, piece.left);
    std::copy_n(a, d, left.a + h * d);
    left.c[h] = c;
    left.m[h] = m;
  }
}

// Outputs of a block from the state it finds.
void scan_block(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block,
                const float* state) {
  const int64_t H = shape.heads, d = shape.head_dim, W = shape.width();
  const ScanParts<const float> found(shape, state);
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

// Backward. Γ[t], the gradient of o[t] with all that o[t] goes into, and its like for the scores:
//
//   Γ[t] = do[t] + keep[t+1] Γ[t+1]         η[t] = do[t] · o[t] + keep[t+1] η[t+1]
//
// What a block hands to the one before it, keep Γ and keep η at its first row, is linear in what it
// was handed: own + factor times that. `carry` takes own Γ in a's place, own η in c's and the
// factor in m's. dots: [rows, heads] of do · o. products: [rows, heads].
void reduce_block_backward(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block,
                           ConstTensor d_o, float* products, float* dots, float* carry) {
  const int64_t H = shape.heads, d = shape.head_dim, W = shape.width();
  const float* keep = rows.keep.row(block.first);
  const float *grad = d_o.row(block.first), *o = rows.o.row(block.first);
  const ScanParts<float> to(shape, carry);
  for (int64_t t = 0; t < block.rows; ++t)
    for (int64_t h = 0; h < H; ++h) {
      FloatVec acc = hn::Zero(FloatTag());
      each(d, [&](auto at, int64_t i) HWY_ATTR {
        const int64_t j = t * W + h * d + i;
        acc = hn::MulAdd(at.load(grad + j), at.load(o + j), acc);
      });
      dots[t * H + h] = hn::GetLane(hn::SumOfLanes(FloatTag(), acc));
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

// dL/dm where a and c come along with it: they stand for a e^m and c e^m.
HWY_INLINE float gradient_along(const float* da, const float* a, float dc, float c, int64_t d) {
  double sum = static_cast<double>(dc) * static_cast<double>(c);
  for (int64_t j = 0; j < d; ++j) sum += static_cast<double>(da[j]) * static_cast<double>(a[j]);
  return static_cast<float>(sum);
}

// One head of a piece, from right to left: `carries` becomes what each block is handed. Between
// blocks goes what goes between windows, dL/da and dL/dc, so that a cut changes nothing. Returns
// the part of dL/d(m left) that belongs to whichever score was the maximum.
float fold_backward(const ScanShape& shape, const ScanPiece& piece, int64_t blocks,
                    const float* states, float* carries, int64_t h, float* x) {
  const int64_t d = shape.head_dim, F = shape.state_size();
  float eta = 0, of_maximum = 0;
  std::fill_n(x, d, 0.0f);
  if (piece.dstate) {
    const ScanParts<float> grad(shape, piece.dstate);
    const ScanParts<const float> left(shape, piece.left);
    const float c = left.c[h];
    of_maximum = grad.m[h] - gradient_along(grad.a + h * d, left.a + h * d, grad.c[h], c, d);
    eta = -grad.c[h] * c;
    for (int64_t j = 0; j < d; ++j) x[j] = grad.a[h * d + j] * c;
  }
  for (int64_t b = blocks - 1; b >= 0; --b) {
    const ScanParts<const float> found(shape, states + b * F);
    const ScanParts<float> carry(shape, carries + b * F);
    const float c = found.c[h], inverse = c > 0 ? 1 / c : 0, factor = carry.m[h];
    float* own = carry.a + h * d;
    float* da = piece.dstate && b == 0 ? piece.dstate + h * d : nullptr;
    each(d, [&](auto at, int64_t j) HWY_ATTR {
      const FloatVec handed = at.load(x + j);
      const FloatVec g =
          hn::Mul(hn::MulAdd(constant(factor), handed, at.load(own + j)), constant(inverse));
      at.store(handed, own + j);
      at.store(hn::Mul(g, constant(c)), x + j);
      if (da) at.store(g, da + j);
    });
    const float dc = -(carry.c[h] + factor * eta) * inverse;
    carry.c[h] = eta;
    eta = -dc * c;
    if (da) {
      const ScanParts<float> grad(shape, piece.dstate);
      grad.c[h] = dc;
      grad.m[h] = gradient_along(da, found.a + h * d, dc, c, d);
    }
  }
  return of_maximum;
}

// ds and dv of a block from what it is handed, which is used up.
void scan_block_backward(const ScanShape& shape, const ScanRows& rows, const ScanBlock& block,
                         ConstTensor d_o, const float* dots, Tensor ds, Tensor dv, float* carry) {
  const int64_t H = shape.heads, d = shape.head_dim;
  const ScanParts<float> handed(shape, carry);
  for (int64_t t = block.rows - 1; t >= 0; --t) {
    const int64_t row = block.first + t;
    const float *grad = d_o.row(row), *v = rows.v.row(row);
    const float *keep = rows.keep.row(row), *share = rows.share.row(row);
    float *to_s = ds.row(row), *to_v = dv.row(row);
    for (int64_t h = 0; h < H; ++h) {
      FloatVec acc = hn::Zero(FloatTag());
      const FloatVec old = constant(keep[h]), now = constant(share[h]);
      each(d, [&](auto at, int64_t i) HWY_ATTR {
        const int64_t j = h * d + i;
        const FloatVec gamma = hn::Add(at.load(grad + j), at.load(handed.a + j));
        acc = hn::MulAdd(gamma, at.load(v + j), acc);
        at.store(hn::Mul(now, gamma), to_v + j);
        at.store(hn::Mul(old, gamma), handed.a + j);
      });
      const float eta = dots[t * H + h] + handed.c[h];
      to_s[h] = share[h] * (hn::GetLane(hn::SumOfLanes(FloatTag(), acc)) - eta);
      handed.c[h] = keep[h] * eta;
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

// The blocks of all pieces, one piece's after another's.
struct ScanPlan {
  std::vector<ScanBlock> blocks;
  std::vector<int64_t> first;  // block of each piece
  int64_t tokens = 0;

  explicit ScanPlan(std::span<const ScanPiece> pieces) {
    for (const ScanPiece& piece : pieces) {
      first.push_back(count());
      const int64_t end = piece.start + piece.tokens;
      for (int64_t at = piece.start; at < end;) {
        const int64_t next = std::min(end, (at / kScanBlock + 1) * kScanBlock);
        blocks.push_back({piece.first + at - piece.start, next - at});
        at = next;
      }
      tokens += piece.tokens;
    }
    first.push_back(count());
  }
  int64_t count() const { return static_cast<int64_t>(blocks.size()); }
  int64_t blocks_of(size_t piece) const { return first[piece + 1] - first[piece]; }
};

// f(block, its place, worker)
template <class F>
void for_each_block(const ScanShape& shape, const ScanPlan& plan, F&& f) {
  parallel_for(
      plan.count(),
      [&](int64_t i, int worker) { f(plan.blocks[static_cast<size_t>(i)], i, worker); },
      4 * plan.tokens * shape.width());
}

// f(piece, head, worker)
template <class F>
void for_each_head(const ScanShape& shape, const ScanPlan& plan, F&& f) {
  parallel_for(
      static_cast<int64_t>(plan.first.size() - 1) * shape.heads,
      [&](int64_t i, int worker) {
        f(static_cast<size_t>(i / shape.heads), i % shape.heads, worker);
      },
      4 * plan.count() * shape.width());
}

}  // namespace

void attention_scan_forward(const ScanShape& shape, std::span<const ScanPiece> pieces,
                            const ScanRows& rows, Arena& scratch) {
  Arena::Frame frame(scratch);
  const Tensor weights = scratch.take({threads(), kScanBlock * shape.heads});
  const Tensor a = scratch.take({threads(), shape.head_dim});
  if (scratch.counts_only()) return;
  const ScanPlan plan(pieces);
  REFRAIN_CHECK(rows.carries.dim[0] == plan.count());
  for_each_block(shape, plan, [&](const ScanBlock& block, int64_t i, int worker) {
    HWY_DYNAMIC_DISPATCH(reduce_block)
    (shape, rows, block, weights.row(worker), rows.carries.row(i));
  });
  for_each_head(shape, plan, [&](size_t p, int64_t h, int worker) {
    HWY_DYNAMIC_DISPATCH(fold)
    (shape, pieces[p], plan.blocks_of(p), rows.carries.row(plan.first[p]), h, a.row(worker));
  });
  for_each_block(shape, plan, [&](const ScanBlock& block, int64_t i, int) {
    HWY_DYNAMIC_DISPATCH(scan_block)(shape, rows, block, rows.carries.row(i));
  });
}

void attention_scan_backward(const ScanShape& shape, std::span<const ScanPiece> pieces,
                             const ScanRows& rows, ConstTensor d_o, Tensor ds, Tensor dv,
                             Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t H = shape.heads, R = rows.s.rows();
  const Tensor products = scratch.take({threads(), kScanBlock * H});
  const Tensor x = scratch.take({threads(), shape.head_dim});
  const Tensor dots = scratch.take({R, H});
  const Tensor carries = scratch.take({rows.carries.dim[0], shape.state_size()});
  const Tensor of_maximum = scratch.take({static_cast<int64_t>(pieces.size()), H});
  if (scratch.counts_only()) return;
  const ScanPlan plan(pieces);
  REFRAIN_CHECK(rows.carries.dim[0] == plan.count());
  for_each_block(shape, plan, [&](const ScanBlock& block, int64_t i, int worker) {
    HWY_DYNAMIC_DISPATCH(reduce_block_backward)
    (shape, rows, block, d_o, products.row(worker), dots.row(block.first), carries.row(i));
  });
  for_each_head(shape, plan, [&](size_t p, int64_t h, int worker) {
    const int64_t b = plan.first[p];
    of_maximum.row(static_cast<int64_t>(p))[h] = HWY_DYNAMIC_DISPATCH(fold_backward)(
        shape, pieces[p], plan.blocks_of(p), rows.carries.row(b), carries.row(b), h, x.row(worker));
  });
  for_each_block(shape, plan, [&](const ScanBlock& block, int64_t i, int) {
    HWY_DYNAMIC_DISPATCH(scan_block_backward)
    (shape, rows, block, d_o, dots.row(block.first), ds, dv, carries.row(i));
  });
  // What a, c and m left do not share: the maximum's own gradient.
  for (size_t p = 0; p < pieces.size(); ++p) {
    if (!pieces[p].dstate) continue;
    const ScanParts<const float> left(shape, pieces[p].left);
    const ScanParts<const float> found(shape, rows.carries.row(plan.first[p]));
    for (int64_t h = 0; h < H; ++h) {
      const float gradient = of_maximum.row(static_cast<int64_t>(p))[h];
      if (found.c[h] > 0 && found.m[h] == left.m[h]) {
        ScanParts<float>(shape, pieces[p].dstate).m[h] += gradient;
        continue;
      }
      for (int64_t row = pieces[p].first; row < pieces[p].first + pieces[p].tokens; ++row)
        if (rows.s.row(row)[h] == left.m[h]) {
          ds.row(row)[h] += gradient;
          break;
        }
    }
  }
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE

#include "refrain/mixers/gla/kernel.h"

#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/kernels/flush_denormals.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/gla/kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/mixers/gla/chunk_kernel-inl.h"
#include "refrain/mixers/gla/kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Where one head of a sequence lies: in the rows of n tokens from position `at` on, and in states.
struct GlaHead {
  const GlaShape& shape;
  int64_t start, h;

  template <class T>
  MatrixView<T> keys(T* rows, int64_t at, int64_t n) const {
    return {rows + (at - start) * shape.row + h * shape.key_dim, n, shape.key_dim, shape.row};
  }
  template <class T>
  MatrixView<T> values(T* rows, int64_t at, int64_t n) const {
    return {rows + (at - start) * shape.row + h * shape.value_dim, n, shape.value_dim, shape.row};
  }
  template <class T>
  MatrixView<T> gates(T* rows, int64_t at, int64_t n) const {
    return {rows + (at - start) * shape.gate_row + h * shape.key_dim, n, shape.key_dim,
            shape.gate_row};
  }
  template <class T>
  MatrixView<T> outs(T* rows, int64_t at, int64_t n) const {
    return {rows + (at - start) * shape.o_row + h * shape.value_dim, n, shape.value_dim,
            shape.o_row};
  }
  // In a whole state; null stays null.
  template <class T>
  T* state(T* states) const {
    return states ? states + h * shape.key_dim * shape.value_dim : states;
  }
  // The state kept at position `at`, a multiple of `every`.
  template <class T>
  T* kept(T* states, int64_t at, int64_t every) const {
    return state(states + (at / every - start / every - 1) * shape.state_size());
  }
};

void gla_forward_task(const GlaShape& shape, const GlaSequence& s, const GlaOutputs& out,
                      int64_t every, int64_t h, float* memory) {
  const int64_t K = shape.key_dim, V = shape.value_dim, end = s.start + s.tokens;
  const int64_t kw = lane_width(K), vw = lane_width(V);
  const GlaHead head{shape, s.start, h};
  Bump take{memory};
  GlaSteps block;
  block.K = K, block.V = V, block.kw = kw, block.vw = vw;
  block.q = take(kGlaChunk * kw);
  block.k = take(kGlaChunk * kw);
  block.g = take(kGlaChunk * kw);
  block.v = take(kGlaChunk * vw);
  float* C = out.final_state ? head.state(out.final_state) : take(K * V);
  if (!s.initial_state)
    std::fill(C, C + K * V, 0.0f);
  else if (s.initial_state != out.final_state)
    std::copy_n(head.state(s.initial_state), K * V, C);

  for (int64_t at = s.start; at < end;) {
    const int64_t next = std::min({end, at + kGlaChunk, (at / every + 1) * every});
    const int64_t n = next - at;
    block.steps = n;
    block.o = head.outs(out.o, at, n);
    copy_rows(head.keys(s.q, at, n), shape.scale, {block.q, n, kw});
    copy_rows(head.keys(s.k, at, n), 1, {block.k, n, kw});
    copy_rows(head.values(s.v, at, n), 1, {block.v, n, vw});
    gate_rows<false>(shape.gate_divisor, head.gates(s.gate, at, n), {block.g, n, kw}, nullptr);
    const int64_t more = std::min(kGlaChunk, end - next);
    prefetch_rows(head.keys(s.q, next, more));
    prefetch_rows(head.keys(s.k, next, more));
    prefetch_rows(head.values(s.v, next, more));
    prefetch_rows(head.gates(s.gate, next, more));
    run_steps(block, C);
    if (out.kept && next < end && next % every == 0)
      std::copy_n(C, K * V, head.kept(out.kept, next, every));
    at = next;
  }
}

// dCᵀ and Cᵀ are [V, kw]: dC comes as that of the final state and goes as that of the initial
// state.
HWY_NOINLINE void backward_chunk(const GlaChunk& c, const float* C, float* dC) {
  const FloatTag d;
  const int64_t K = c.K, V = c.V, R = kGlaChunk, kw = c.kw, vw = c.vw, N = float_lanes();
  const int64_t rows = c.rows;
  const MatrixView<const float> d_o(c.d_o, rows, V, vw), v(c.v, rows, V, vw);
  const MatrixView<float> dstate(dC, V, kw), dvt(c.dvt, V, R);
  // dv_j = Σ_{i>=j} A_ij do_i + (k_j ⊙ D_j) dC
  transpose(c.k, kw, R, K, c.kt, R);
  scores_by_query(c);
  product<Rows::kApart>(dstate.col_range(0, K), {c.kt, K, R}, dvt, false);
  product<Rows::kAdjacent>(d_o.transposed(), {c.a, rows, R}, dvt, true);
  // dA_ij = do_i · v_j
  transpose(c.v, vw, R, V, c.vt, R);
  product<Rows::kApart>(d_o, {c.vt, V, R}, {c.da, rows, R}, false);

  product<Rows::kApart>(d_o, {C, V, kw}, {c.u, rows, kw}, false);
  product<Rows::kApart>(v, dstate, {c.w, rows, kw}, false);
  for (int64_t at = 0; at < kw; at += N) {
    // dC ⊙ G_n, and the sum over its products with C.
    FloatVec whole = constant(1);
    for (int64_t i = 0; i < rows; ++i) whole = hn::Mul(whole, hn::LoadU(d, c.g + i * kw + at));
    FloatVec sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (int64_t j = 0; j < V; ++j) {
      const FloatVec dc = hn::Mul(hn::LoadU(d, dC + j * kw + at), whole);
      hn::StoreU(dc, d, dC + j * kw + at);
      sum[j % 4] = hn::MulAdd(dc, hn::LoadU(d, C + j * kw + at), sum[j % 4]);
    }
    const FloatVec through = hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]));
    if (rows == R)
      KeyGradients<kGlaChunk>(c, at).run(through);
    else
      KeyGradients<kGlaHalf>(c, at).run(through);
  }
  product<Rows::kAdjacent>(d_o.transposed(), {c.qg, rows, kw}, dstate, true);
}

void gla_backward_task(const GlaShape& shape, const GlaSequence& s, const GlaGradients& grad,
                       int64_t every, int64_t h, float* memory) {
  const int64_t K = shape.key_dim, V = shape.value_dim, R = kGlaChunk, N = float_lanes();
  const int64_t kw = lane_width(K), vw = lane_width(V), begin = s.start;
  const GlaHead head{shape, begin, h};
  Bump take{memory};
  GlaChunk c;
  c.K = K, c.V = V, c.kw = kw, c.vw = vw;
  for (float** to : {&c.q, &c.u, &c.w, &c.qg, &c.dq, &c.dk, &c.dz}) *to = take(R * kw);
  c.d_o = take(R * vw);
  c.kt = take(K * R);
  c.a = take(R * R);
  c.da = take(R * R);
  c.vt = take(V * R);
  c.dvt = take(V * R);
  c.pairs = take(R * (R - 1) / 2 * N);
  float* dC = take(V * kw);
  // Of every chunk of a segment: keys, gates and their slopes, values, and the Cᵀ [V, kw] it finds.
  float* segment = take(0);
  const auto stand_at = [&](int64_t chunk) {
    Bump part{segment + chunk * (3 * R * kw + R * vw + V * kw)};
    c.k = part(R * kw);
    c.g = part(R * kw);
    c.slope = part(R * kw);
    c.v = part(R * vw);
    return part(0);
  };
  const auto load_state = [&](const float* from, float* to) HWY_ATTR {
    std::fill(to, to + V * kw, 0.0f);
    if (from) transpose(from, V, K, V, to, kw);
  };

  load_state(head.state(grad.dstate), dC);
  for (int64_t end = begin + s.tokens; end > begin;) {
    const int64_t first = std::max(begin, (end - 1) / every * every);
    load_state(first == begin ? head.state(s.initial_state) : head.kept(grad.kept, first, every),
               stand_at(0));
    int64_t chunks = 0;
    for (int64_t at = first; at < end; ++chunks) {
      const int64_t next = std::min(end, (at / R + 1) * R), n = next - at;
      const float* C = stand_at(chunks);
      copy_rows(head.keys(s.k, at, n), 1, {c.k, R, kw});
      copy_rows(head.values(s.v, at, n), 1, {c.v, R, vw});
      gate_rows<true>(shape.gate_divisor, head.gates(s.gate, at, n), {c.g, R, kw}, c.slope);
      const int64_t more = std::min(R, end - next);
      prefetch_rows(head.keys(s.k, next, more));
      prefetch_rows(head.values(s.v, next, more));
      prefetch_rows(head.gates(s.gate, next, more));
      const GlaSteps steps{K, V, kw, vw, n, c.k, c.g, c.v};
      if (next < end) advance(steps, C, stand_at(chunks + 1));
      at = next;
    }
    while (chunks > 0) {
      const float* C = stand_at(--chunks);
      const int64_t at = std::max(first, (end - 1) / R * R), n = end - at;
      c.rows = round_up(n, kGlaHalf);
      copy_rows(head.keys(s.q, at, n), 1, {c.q, R, kw});
      copy_rows(head.outs(grad.d_o, at, n), shape.scale, {c.d_o, R, vw});
      const int64_t before = std::max(begin, (at - 1) / R * R), more = at - before;
      prefetch_rows(head.keys(s.q, before, more));
      prefetch_rows(head.outs(grad.d_o, before, more));
      if (chunks == 0) {
        prefetch_rows(head.keys(s.k, before, more));
        prefetch_rows(head.values(s.v, before, more));
        prefetch_rows(head.gates(s.gate, before, more));
      }
      backward_chunk(c, C, dC);

      give_rows({c.dq, n, kw}, head.keys(grad.dq, at, n));
      give_through(shape.key_act, shape.precision, {c.k, n, kw}, {c.dk, n, kw},
                   head.keys(grad.dk, at, n));
      give_rows({c.dz, n, kw}, head.gates(grad.dgate, at, n));
      const MatrixView<float> dv = head.values(grad.dv, at, n);
      transpose(c.dvt, R, V, n, dv.data, dv.row_stride);
      if (shape.value_act != GlaActivation::kIdentity)
        give_through(shape.value_act, shape.precision, {c.v, n, vw}, dv, dv);
      end = at;
    }
  }
  if (grad.dstate) transpose(dC, kw, V, K, head.state(grad.dstate), V);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(gla_forward_task);
HWY_EXPORT(gla_backward_task);

namespace {

// task(sequence, head, worker) for all of them. `operations`: per element of the state and token.
template <class F>
void for_each_head(const GlaShape& shape, std::span<const GlaSequence> sequences,
                   int64_t operations, F&& task) {
  int64_t tokens = 0;
  for (const GlaSequence& s : sequences) tokens += s.tokens;
  parallel_for(
      static_cast<int64_t>(sequences.size()) * shape.heads,
      [&](int64_t i, int worker) {
        const FlushDenormals guard;  // products of gates run down there; no sum would notice
        task(static_cast<size_t>(i / shape.heads), i % shape.heads, worker);
      },
      operations * tokens * shape.state_size());
}

}  // namespace

void gla_forward(const GlaShape& shape, std::span<const GlaSequence> sequences,
                 std::span<const GlaOutputs> outputs, int64_t every, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t K = round_up(shape.key_dim, kGlaChunk), V = round_up(shape.value_dim, kGlaChunk);
  const Tensor memory = scratch.take({threads(), kGlaChunk * (3 * K + V) + K * V});
  if (scratch.planning()) return;
  REFRAIN_CHECK(every % kGlaChunk == 0);
  for_each_head(shape, sequences, 5, [&](size_t b, int64_t h, int worker) {
    HWY_DYNAMIC_DISPATCH(gla_forward_task)
    (shape, sequences[b], outputs[b], every, h, memory.row(worker));
  });
}

void gla_backward(const GlaShape& shape, std::span<const GlaSequence> sequences,
                  std::span<const GlaGradients> gradients, int64_t every, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t R = kGlaChunk, K = round_up(shape.key_dim, R), V = round_up(shape.value_dim, R);
  int64_t longest = 0;
  for (const GlaSequence& s : sequences) longest = std::max(longest, s.tokens);
  // Chunks of a segment, which may start and end inside of one.
  const int64_t chunks = std::min(every, longest + 2 * R) / R;
  const Tensor memory =
      scratch.take({threads(), 7 * R * K + R * V + R * (K + 2 * V + 2 * R) + R * (R - 1) / 2 * R +
                                   V * K + chunks * (3 * R * K + R * V + V * K)});
  if (scratch.planning()) return;
  REFRAIN_CHECK(every % R == 0);
  for_each_head(shape, sequences, 16, [&](size_t b, int64_t h, int worker) {
    HWY_DYNAMIC_DISPATCH(gla_backward_task)
    (shape, sequences[b], gradients[b], every, h, memory.row(worker));
  });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE

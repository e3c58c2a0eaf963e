// Multi-memory recurrence: a gated recurrence whose gates read what was before, and attention over
// a causal memory of what is further back.
//
//   q, k, v, z = x W_qᵀ, x W_kᵀ, x W_vᵀ, x W_zᵀ                                one product
//   γ = clamp( σ(G_2 gelu(G_1 z)) ⊙ σ(X_2 gelu(X_1 k)), 1e-6, (1 - μ) / (1 + μ) )
//   r[t] = σ(W_m [z[t]; h[t-1]] + b_m),   p[t] = σ(W_g h[t-1] + b_g)
//   n[t] = (1 - r) ⊙ h[t-1] + r ⊙ z[t] + γ ⊙ h[t-1]
//   h[t] = z[t] ⊙ p[t] + γ[t] ⊙ h[t-1] + μ n[t]
//   y = h + W_o MHA(W_q' h + q / 2; memory) + v / 10
//
// `linear` is another model: its gates are σ(W_m z + b_m) and σ(W_g z + b_g), and h[t] is A[t] ⊙
// h[t-1] + B[t]. The memory is told in memory.h, the derivation in docs/models/mm_rec.md.
//
// Its state is h and, behind it, the memory's: the same size after any number of tokens.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "refrain/kernels/matmul/bf16.h"
#include "refrain/layers/linear.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/mixer.h"
#include "refrain/mixers/mm_rec/kernel.h"
#include "refrain/mixers/mm_rec/memory.h"

namespace refrain {

struct MmRecConfig {
  int64_t heads = 0;
  int64_t inner = 0;
  int64_t slots = 16;
  int64_t stretch = 64;
  double mu = 0.1;
  std::string recurrence = "full";
  bool memory = true;

  // One product for all projections of the input, over all tokens at once; without, several, and a
  // product a token: there to be measured against, and rounded otherwise in bfloat16 and int16.
  bool fused = true;
  bool hoisted = true;

  template <class V>
  void visit(V&& v) {
    v("heads", heads, "heads of the attention over the memory; 0 = as many as the model's");
    v("inner", inner, "width between the two maps of a decay; 0 = a quarter of the model's");
    v("slots", slots, "slots of each of the memory's three levels");
    v("stretch", stretch, "tokens that are averaged to one slot");
    v("mu", mu, "share of the integrated memory in h");
    v("recurrence", recurrence, "full: gates read the h before; linear: they read the input alone");
    v("memory", memory, "attend to the memory");
  }
};

class MmRec final : public Mixer {
 public:
  // The decay's inside is half of the products of its two pairs of maps; what the attention over
  // the memory takes is little beside the rest.
  static constexpr RecomputePart kGates{"gates", 1.0 / 8}, kMemoryAttention{"memory_attention", 0};
  static constexpr RecomputePart kRecompute[] = {kGates, kMemoryAttention};
  static constexpr MixerTraits kTraits{
      .sequential = true, .keeps_states = true, .recompute = kRecompute};

  MmRec(const MixerDims&, const MmRecConfig&);

  const MixerTraits& traits() const override { return kTraits; }
  void visit(const ParamVisitor&) override;
  void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, const State*,
               Arena* saved) const override;
  void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, const State*,
                const MixerGradients&, Arena& saved) const override;
  size_t state_bytes(int64_t tokens) const override;

 private:
  struct Rows {
    // [R, columns]: projections [q k v z], without memory [k v z]. Once attention is done, q's
    // place holds W_q' h + q / 2, and v's what the memory gave.
    Tensor qkvz;
    Tensor gates;  // [R, 2D]: r and p
    Tensor h;      // [R, D]
  };
  struct Decay {
    Tensor inner;  // [R, 2 inner]: G_1 z and X_1 k
    Tensor outer;  // [R, 2D]: both σ
  };
  // What a call saves in any case.
  struct States {
    std::vector<kernels::RecurrentChunk> chunks;     // the batch's
    std::vector<kernels::RecurrentChunk> intervals;  // the same, cut every so many rows
    std::vector<int64_t> begins;                     // the first interval of each chunk
    Tensor initial_state;                            // [intervals, D]: the h before each
    Tensor means, slots;                             // memory.h
  };
  // A call's. What backward reads lies in what is saved; what it makes again, in scratch.
  struct Activations : States {
    Tensor kz;  // [R, 2D]: k and z, where attention is done again
    Rows rows;
    Decay decay;  // none where it is made again
  };
  // The same where products are in bfloat16, [R, D] each.
  struct Bf16Activations {
    States states;
    TensorOf<BFloat16> k, z, r, p, h, z_inner, k_inner;  // the last two [R, inner]
    TensorOf<BFloat16> q, o;                             // W_q' h + q / 2, and what it gets
  };
  int64_t columns() const { return (config_.memory ? 4 : 3) * shape_.d_model; }
  int64_t k_column() const { return columns() - 3 * shape_.d_model; }
  int64_t v_column() const { return columns() - 2 * shape_.d_model; }
  int64_t z_column() const { return columns() - shape_.d_model; }
  // D columns of wider rows.
  template <class T>
  MatrixView<T> at(const TensorOf<T>& rows, int64_t column) const {
    return MatrixView<T>(rows).col_range(column, shape_.d_model);
  }

  MmRecMemory memory_of(const RaggedBatch& w) const {
    return {layout_, config_.memory ? w : RaggedBatch()};
  }
  States layout_states(const ExecutionContext&, const RaggedBatch&, const MmRecMemory&,
                       Arena* saved) const;
  // h before the first token; and of the intervals and in the states, once there is h.
  void begin_states(const RaggedBatch&, const State*, const States&) const;
  void end_states(const RaggedBatch&, ConstTensor h, const State*, const States&) const;
  Activations layout(const ExecutionContext&, const RaggedBatch&, const MmRecMemory&,
                     Arena* saved) const;
  Activations recompute_forward(ExecutionContext&, const RaggedBatch&, const MmRecMemory&,
                                ConstTensor x, Tensor decay, Arena& saved) const;

  // Linear's, over all rows or, not `hoisted`, row by row.
  void forward_map(ExecutionContext&, const Linear&, MatrixView<const float> x, MatrixView<float> y,
                   bool add = false) const;
  void backward_weight(ExecutionContext&, const Linear&, MatrixView<const float> x,
                       MatrixView<const float> dy) const;
  std::vector<std::pair<int64_t, int64_t>> projections(int64_t first, int64_t end) const;

  bool is_full() const { return config_.recurrence == "full"; }
  kernels::MmRecCell cell() const;
  kernels::MmRecRows loop_rows(const Rows&, Tensor decay) const;

  void project(ExecutionContext&, ConstTensor x, Tensor qkvz, int64_t first, int64_t end) const;
  Decay carve_decay(Arena&, int64_t rows) const;
  void make_decay(ExecutionContext&, ConstTensor qkvz, const Decay&) const;
  void find_decay(ExecutionContext&, const Activations&, bool kept, Tensor decay) const;
  void recur(ExecutionContext&, std::span<const kernels::RecurrentChunk>, const Rows&,
             Tensor decay) const;
  void attend(ExecutionContext&, const MmRecMemory&, ConstTensor slots, const Rows&) const;

  void memory_backward(ExecutionContext&, const MmRecMemory&, const Activations&, ConstTensor dy,
                       Tensor dh, const State* dstate) const;
  void recur_backward(ExecutionContext&, const Activations&, ConstTensor dh, Tensor h_before,
                      Tensor decay, std::span<float* const> dstate) const;
  void decay_backward(ExecutionContext&, const Activations&, ConstTensor ddecay) const;

  // mm_rec_bf16.cc
  bool saves_bf16(const ExecutionContext&) const;
  static void round(const ExecutionContext&, Tensor from, TensorOf<BFloat16> to);
  static Tensor widen(const ExecutionContext&, TensorOf<const BFloat16> from, Tensor to);
  Bf16Activations layout_bf16(const ExecutionContext&, const RaggedBatch&, const MmRecMemory&,
                              Arena* saved) const;
  void project_one(ExecutionContext&, ConstTensor x, int64_t column, Tensor to) const;
  void make_inner(ExecutionContext&, const Bf16Activations&, Tensor any) const;
  void make_sigmoids(ExecutionContext&, const Bf16Activations&, Tensor of_z, Tensor of_k) const;
  void recur_bf16(ExecutionContext&, ConstTensor x, std::span<const kernels::RecurrentChunk>,
                  const Bf16Activations&, Tensor h) const;
  void attend_bf16(ExecutionContext&, const MmRecMemory&, ConstTensor x, ConstTensor h,
                   const Bf16Activations&, Tensor o) const;
  void forward_bf16(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, const State*,
                    Arena* saved) const;
  void backward_bf16(ExecutionContext&, const RaggedBatch&, ConstTensor x, const MixerGradients&,
                     Arena& saved) const;
  void memory_backward_bf16(ExecutionContext&, const MmRecMemory&, const Bf16Activations&,
                            const MixerGradients&, Tensor o, Tensor any) const;
  void gates_backward_bf16(ExecutionContext&, const Bf16Activations&, Tensor a, Tensor b,
                           Tensor dz) const;
  void decay_backward_bf16(ExecutionContext&, const Bf16Activations&, Tensor ddecay, Tensor any,
                           Tensor dk, Tensor dz) const;

  MixerDims shape_;
  MmRecConfig config_;
  MmRecLayout layout_;
  kernels::MemoryAttentionShape attention_;
  int64_t inner_;
  float mu_;
  kernels::ActivationPrecision precision_;
  Linear qkvz_;             // D -> columns
  Linear z_in_, z_out_;     // G_1, G_2: D -> inner -> D
  Linear k_in_, k_out_;     // X_1, X_2
  Linear r_of_z_;           // D -> D: W_m's half for z; none if linear
  Linear gates_;            // D -> 2D: of r and p; they read h, or z if linear
  Param gates_bias_;        // [2D]
  Param null_;              // [D]: what the memory holds while it is empty
  Linear q_of_h_, kv_, o_;  // D -> D, 2D, D
};

}  // namespace refrain

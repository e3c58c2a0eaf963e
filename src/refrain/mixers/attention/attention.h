// Causal multi-head softmax attention with rotary positions (RoPE) and grouped queries (Vaswani et
// al., 2017; Su et al., 2021; Ainslie et al., 2023): the mixer of a Llama-style decoder.
//
//   q, k, v = x Wqᵀ, x Wkᵀ, x Wvᵀ (one product)
//   q, k of each head normed, if qk_norm (RMSNorm with one weight for all heads)
//   q, k rotated by their positions
//   y = softmax(q kᵀ / √d + causal mask) v Woᵀ
//
// Both products may have biases. The base of RoPE is AttentionConfig::rope_theta; its frequencies
// may be scaled (kernels/elementwise/rope.h). With a window, a query sees the last `window`
// positions only; with a stride as well, every stride-th position before them (Child et al., 2019).
//
// The state is the key/value cache: a row of 2 · kv_heads · head_dim numbers per token, rotated
// keys first. They are floats or, in inference, of another type (kernels/attention/kv_cache.h).
// With a window it is a ring of so many rows, position p in row p % window. With a stride, a row
// for every stride-th position follows the ring.
#pragma once
#include <string>
#include <vector>

#include "refrain/kernels/attention/attention.h"
#include "refrain/kernels/elementwise/rope.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/layers/linear.h"
#include "refrain/mixers/attention/head_norm_kernel.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

struct AttentionConfig {
  double rope_theta = 10000;
  std::string rope_pairing = "half";
  int64_t window = 0;
  int64_t stride = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  bool qk_norm = false;
  bool rope = true;
  std::string rope_scaling = "";
  double rope_factor = 1;
  double rope_low_freq_factor = 1;
  double rope_high_freq_factor = 4;
  int64_t rope_original_context = 8192;

  template <class V>
  void visit(V&& v) {
    v("rope_theta", rope_theta, "base of the rotary position angles");
    v("rope_pairing", rope_pairing,
      "channels that rotate together: half (i and i + d/2) or adjacent (2i and 2i + 1)");
    v("window", window, "positions a token sees, itself included; 0 = all");
    v("stride", stride, "besides the window, every so many-th position is seen; 0 = none");
    v("qkv_bias", qkv_bias, "biases of queries, keys and values");
    v("output_bias", output_bias, "a bias of the output");
    v("qk_norm", qk_norm, "queries and keys are normed (RMSNorm of each head, eps: rms_norm_eps)");
    v("rope", rope, "rotary positions; false: none");
    v("rope_scaling", rope_scaling,
      "how angles are scaled: linear (all divided by rope_factor) or llama3 (those of long "
      "wavelengths); empty = not");
    v("rope_factor", rope_factor, "what rope_scaling divides angles by");
    v("rope_low_freq_factor", rope_low_freq_factor,
      "llama3: wavelengths above rope_original_context / this are scaled whole");
    v("rope_high_freq_factor", rope_high_freq_factor,
      "llama3: wavelengths below rope_original_context / this are not scaled");
    v("rope_original_context", rope_original_context,
      "llama3: tokens of a sequence before angles were scaled");
  }
  bool operator==(const AttentionConfig&) const = default;
  // An Error names the setting that is out of range.
  kernels::RopeScaling scaling() const;
};

class Attention final : public Mixer {
 public:
  static constexpr MixerTraits kTraits{.grouped_queries = true, .attention_dropout = true, .linear_maps = true};

  Attention(const MixerDims&, const AttentionConfig&);

  const MixerTraits& traits() const override { return kTraits; }
  double mixing_flops(int64_t length) const override;
  void visit(const ParamVisitor&) override;
  void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, const State*,
               Arena* saved) const override;
  void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, const State*,
                const MixerGradients&, Arena& saved) const override;
  size_t state_bytes(int64_t tokens) const override;
  bool set_cache_type(kernels::CacheType type) override {
    shape_.cache_type = type;
    return true;
  }
  std::vector<float> state_numbers(std::span<const std::byte> state) const override;
  // Rows of a ring that has gone round.
  std::vector<StateRange> overwritten(int64_t position, int64_t tokens) const override;

 private:
  struct Activations {
    Tensor qkv;      // [R, qkv_.out]: q and k rotated
    Tensor o;        // [R, heads d]
    Tensor softmax;  // [2 R heads], a sequence's [2, heads, T] after another's
    Tensor past;  // the rows of the rings found, a sequence's after another's: forward's overwrite
                  // them
    TensorOf<BFloat16> bf16_qkv, bf16_o;  // with ctx.bf16, in place of qkv and o
    // With qk_norm: [R, (heads + kv_heads) d], q and k before it; of q [R, heads], of k [R,
    // kv_heads].
    Tensor raw, q_reciprocals, k_reciprocals;
  };
  Activations layout(ExecutionContext&, Arena&, const RaggedBatch&, bool keep_rings) const;
  // o as its map reads it.
  Operand output(const ExecutionContext&, const Activations&) const;
  // `rings`: read them in `saved`, not in the state.
  std::vector<kernels::AttentionSequence> sequences(const RaggedBatch&, const Activations&,
                                                    const State*, bool rings) const;
  // With this step's dropout.
  kernels::AttentionShape attention(const ExecutionContext&) const;
  kernels::RopeTable table() const;
  void rotate(ExecutionContext&, const RaggedBatch&, Tensor qkv, bool inverse) const;
  // q and k in qkv, normed; and the gradient, in place.
  void norm(const Activations&) const;
  void norm_backward(const Activations&, Tensor dqkv) const;
  // Rounds keys and values of qkv to the cache's type. Gives the rows as a state has them, in
  // scratch; none if the type is float32.
  TensorOf<std::byte> round_keys_and_values(ExecutionContext&, Tensor qkv) const;

  // Floats of a token's key and value; where the first of them stands in a row of qkv; bytes that
  // they take in a state.
  int64_t kv_width() const { return 2 * shape_.kv_heads * shape_.head_dim; }
  int64_t q_width() const { return shape_.heads * shape_.head_dim; }
  int64_t k_width() const { return shape_.kv_heads * shape_.head_dim; }
  int64_t row_bytes() const {
    return 2 * shape_.kv_heads * kernels::cache_bytes(shape_.cache_type, shape_.head_dim);
  }
  bool rounds_cache() const { return shape_.cache_type != kernels::CacheType::kFloat32; }
  // Rows of a state after `tokens` tokens: of the ring; with those of the stride behind it.
  int64_t ring_rows(int64_t tokens) const;
  int64_t state_rows(int64_t tokens) const;
  std::byte* strided_rows(std::byte* state) const {
    return state + attention_.window * row_bytes();
  }
  // f(from, to) for the rows in `state` that hold tokens of the batch: `from` is the token's row,
  // `to` the bytes of its row in the state.
  template <class F>
  void each_kept(const RaggedBatch&, const State& state, F&& f) const;

  MixerDims shape_;
  kernels::AttentionShape attention_;
  bool qk_norm_, rope_;
  kernels::RopePairing pairing_;
  int64_t table_rows_ = 0;
  std::vector<double> frequencies_;  // [head_dim / 2]
  std::vector<float> cos_, sin_;     // [table_rows_, head_dim / 2]
  Linear qkv_, o_;
  Param q_norm_, k_norm_;  // [head_dim]
};

}  // namespace refrain

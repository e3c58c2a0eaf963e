// Gated linear attention (Yang et al., 2024, arXiv 2312.06635), and its plain form `simple_rnn`:
// one head without norm and output gate. Per head, with a matrix state C [K, V]:
//
//   q, k, z, v = x Wqᵀ, key_act(x Wkᵀ), x Wzᵀ, value_act(x Wvᵀ)      one product, biases by choice
//                with `conv`, q, k and v go through a short convolution first
//                (kernels/sequence/short_conv.h)
//   g = σ(z + b)                       or, low_rank, σ(x Waᵀ Wbᵀ + b)^(1/gate_divisor)
//   C[t] = diag(g[t]) C[t-1] + k[t]ᵀ v[t]
//   o[t] = scale q[t] C[t]             then, by choice, its RMSNorm per head, times silu(x Wsᵀ)
//   y = o Woᵀ
//
// The state is C of every head and, with `conv`, the last rows of the projections that go through
// it. Its size does not depend on the number of tokens. mixers/gla/kernel.h and docs/models/gla.md
// describe the computation.
#pragma once
#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "refrain/kernels/sequence/short_conv.h"
#include "refrain/layers/linear.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/gla/elementwise_kernel.h"
#include "refrain/mixers/gla/kernel.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

struct GlaConfig {
  int64_t heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  std::string key_act = "identity";
  std::string value_act = "identity";
  std::string gate = "low_rank";
  int64_t gate_rank = 16;
  double gate_divisor = 16;
  double scale = 0;
  int64_t conv = 0;
  bool output_norm = true;
  bool output_gate = true;
  bool bias = false;

  // One product for all projections of the input. False only in benchmarks; it rounds otherwise in
  // bfloat16 and int16.
  bool fused = true;

  std::string kind = "gla";  // what its settings are called by; not one of them

  template <class V>
  void visit(V&& v) {
    v("heads", heads, "heads; 0 = as many as the model's");
    v("key_dim", key_dim, "key channels of a head; 0 = half its width");
    v("value_dim", value_dim, "value channels of a head; 0 = its width");
    v("key_act", key_act, "activation of keys: identity, sigmoid or tanh");
    v("value_act", value_act, "activation of values: identity or tanh");
    v("gate", gate, "forget gate: low_rank (a root of a sigmoid of two small maps) or sigmoid");
    v("gate_rank", gate_rank, "channels between the two maps of a low_rank gate");
    v("gate_divisor", gate_divisor, "what the logarithm of a low_rank gate is divided by");
    v("scale", scale, "of queries; 0 = 1 / sqrt(key_dim)");
    v("conv", conv, "taps of a causal convolution of q, k and v over time, then silu; 0 = none");
    v("output_norm", output_norm, "RMSNorm of what each head reads");
    v("output_gate", output_gate, "multiply what heads read by silu of a map of the input");
    v("bias", bias, "biases in all projections");
  }
};

struct SimpleRnnConfig : GlaConfig {
  SimpleRnnConfig() {
    heads = 1;
    key_dim = 32;
    value_dim = 64;
    key_act = value_act = "tanh";
    gate = "sigmoid";
    scale = 1;
    output_norm = output_gate = false;
    bias = true;
    kind = "simple_rnn";
  }
};

// Sizes, and the columns of a row of projections: q | k | gate | v | output gate. Convolved rows
// have columns of their own: q | k | v.
struct GlaLayout {
  GlaLayout(const MixerDims&, const GlaConfig&);  // throws Error where settings make no sense

  int64_t heads, key_dim, value_dim;
  bool low_rank;
  int64_t q, k, gate, v, output_gate;  // first columns
  int64_t gate_columns;                // heads key_dim, or the rank
  int64_t columns;
  int64_t taps;  // 0: no convolution
  float scale;

  int64_t keys() const { return heads * key_dim; }
  int64_t values() const { return heads * value_dim; }
  // Of the rows that the recurrence reads q, k and v from: projections, or convolved ones.
  int64_t qkv_columns() const { return taps > 0 ? 2 * keys() + values() : columns; }
  int64_t qkv_v() const { return taps > 0 ? 2 * keys() : v; }  // q and k stand alike in both
  // Floats of a state: C [heads, K, V], then of q, of k and of v the last taps - 1 rows.
  int64_t matrices() const { return keys() * value_dim; }
  int64_t state_size() const { return matrices() + (taps > 0 ? (taps - 1) * qkv_columns() : 0); }
};

class Gla final : public Mixer {
 public:
  static constexpr MixerTraits kTraits{.keeps_states = true, .linear_maps = true};

  Gla(const MixerDims&, const GlaConfig&);

  const MixerTraits& traits() const override { return kTraits; }
  void visit(const ParamVisitor&) override;
  void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, const State*,
               Arena* saved) const override;
  void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, const State*,
                const MixerGradients&, Arena& saved) const override;
  size_t state_bytes(int64_t tokens) const override;

 private:
  // A part of the fused projection.
  struct Section {
    std::string name;
    int64_t first, columns;
    bool biased;
    Param b{};
  };
  // A part of the projections that goes through a convolution.
  struct Filter {
    std::string name;
    int64_t from, to, channels;  // first columns there and in the convolved rows
    int64_t past;                // where its rows begin in a state
    Param w{};
  };
  struct Rows {
    Tensor x;       // [R, columns]: projections; in backward, their gradients
    Tensor qkv;     // [R, qkv_columns]: x, or q | k | v convolved; k and v activated; likewise
    Tensor logits;  // [R, heads K]: of a low_rank gate; likewise
    Tensor o;       // [R, heads V]
  };
  struct History {
    Tensor kept;           // chunk after chunk, the states at multiples of `every`
    Tensor initial_state;  // [B, state]: the initial states, when there are any
    // Backward runs the recurrence again from one kept state to the next: with 64 rows between them
    // states take less memory than the rows do, and 64 rows fit the cache.
    int64_t every = 64;
  };
  struct Range {
    int64_t first, count;
  };

  float first_output_size() const;
  Rows layout(Arena& scratch, Arena& kept, int64_t rows) const;
  History carve_history(const ExecutionContext&, Arena&, const RaggedBatch&, bool state) const;
  kernels::GlaSequence sequence(const RaggedBatch&, const Rows&, int64_t b, int64_t first,
                                int64_t count) const;
  std::vector<Range> products() const;
  void project(ExecutionContext&, ConstTensor x, const Rows&) const;
  std::vector<kernels::ShortConvChunk> chunks(const RaggedBatch&, const Filter&,
                                              std::span<float* const> found) const;
  void activate(ExecutionContext&, const RaggedBatch&, const Rows&, std::span<float* const> found,
                bool advance) const;
  void convolve_backward(ExecutionContext&, const RaggedBatch&, const Rows&,
                         std::span<float* const> found, const State* dstate) const;
  void project_backward(ExecutionContext&, ConstTensor x, const Rows&, Tensor dx) const;
  void recompute(ExecutionContext&, const RaggedBatch&, const Rows&, const History&) const;
  bool biased() const {
    return std::ranges::any_of(sections_, [](const Section& s) { return s.biased; });
  }
  // Whether anything stands between what heads read and the output projection.
  bool reads_through() const { return config_.output_norm || config_.output_gate; }
  kernels::GlaReadout readout() const;

  MixerDims shape_;
  GlaConfig config_;
  GlaLayout layout_;
  kernels::GlaShape kernel_;
  std::vector<Section> sections_;
  std::vector<Filter> filters_;
  Linear qkgv_;  // D -> columns; biases are the sections'
  Linear gate_;  // rank -> heads K, of a low_rank gate
  Param norm_;   // [V]
  Linear o_;
};

}  // namespace refrain

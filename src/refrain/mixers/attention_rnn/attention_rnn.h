// Attention as a recurrent network, "Aaren" (Feng et al., 2024, arXiv 2405.13956): causal softmax
// attention with a learned query that is the same for every token. So it needs no cache.
//
//   q = W_q token,   k[t] = W_k x[t],   v[t] = W_v x[t]                       per head:
//   o[t] = Σ_{i<=t} e^{s[i]} v[i] / Σ_{i<=t} e^{s[i]},   s[i] = q · k[i] / √d        y = W_o o
//
// q is the same for all rows, and so is W_kᵀ q. With `fused`, scores are one product of the input
// with a vector per head, and keys are never computed.
//
// With `query` "token" it is the self-attention of an encoder (token_attention.h).
//
// The state is a [heads d], c [heads] and m [heads] of mixers/attention_rnn/kernel.h, of the same
// size after any number of tokens. docs/models/attention_rnn.md has the derivation.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/layers/linear.h"
#include "refrain/mixers/attention_rnn/kernel.h"
#include "refrain/mixers/attention_rnn/token_attention.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

struct AttentionRnnConfig {
  bool bias = false;
  bool scaled = true;

  // Scores by one product of the input, without computing keys. False only in benchmarks; it rounds
  // otherwise.
  bool fused = true;

  std::string query = "learned";

  template <class V>
  void visit(V&& v) {
    v("bias", bias, "biases in all projections");
    v("scaled", scaled, "divide scores by the square root of the head width");
    v("query", query,
      "learned: one for all tokens, which read what came before; token: each token's own, which "
      "reads the whole sequence, as an encoder");
  }
};

class AttentionRnn final : public Mixer {
 public:
  static constexpr MixerTraits kTraits{.keeps_states = true, .cut_multiple = kernels::kScanBlock};

  AttentionRnn(const MixerDims&, const AttentionRnnConfig&);

  const MixerTraits& traits() const override { return kTraits; }
  bool causal() const override { return !token_attention_; }
  double mixing_flops(int64_t length) const override;
  void visit(const ParamVisitor&) override;
  void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, const State*,
               Arena* saved) const override;
  void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, const State*,
                const MixerGradients&, Arena& saved) const override;
  void finish_gradients() override;
  void prepare_inference(ExecutionContext&) override;
  size_t state_bytes(int64_t tokens) const override;

 private:
  struct Activations {
    kernels::ScanRows rows;
    Tensor k;  // [R, heads d]: keys, where they are computed
  };
  Activations layout(Arena&, const RaggedBatch&) const;
  // With K-step recomputation only the initial states are saved, [B, state], if there are any.
  // Computing all others again takes no longer than backward's own scan, so K does not matter.
  Tensor carve_found(Arena&, const RaggedBatch&) const;
  template <class F>
  std::vector<kernels::ScanChunk> chunks(const RaggedBatch&, F&& set_states) const;
  Linear scores(ExecutionContext&) const;
  void make_scores(ExecutionContext&, const Linear& to) const;
  void project(ExecutionContext&, ConstTensor x, const Activations&) const;

  kernels::ScanShape shape_;
  AttentionRnnConfig config_;
  float scale_;
  int64_t blocks_;
  std::optional<TokenAttention> token_attention_;  // then the rest is not used
  Param token_;                                    // [D]
  Linear q_, k_, v_, o_;
  // The gradients of scores(), weight and bias, over all rows of an optimiser step. Those of token,
  // q and k are functions of them.
  Buffer<float> sums_memory_;
  Tensor sums_, bias_sums_;  // [heads, D], or of keys [heads, heads d]; [heads]
  // What scores() gives, once weights do not change any more.
  std::optional<Linear> prepared_scores_;
  Buffer<float> scores_memory_;  // its weight, packed, and its bias
};

}  // namespace refrain

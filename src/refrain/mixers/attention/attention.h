// Causal multi-head softmax attention with rotary positions and grouped queries (Vaswani et al.,
// 2017; Su et al., 2021; Ainslie et al., 2023): the mixer of a Llama-style decoder.
//
//   q, k, v = x Wqᵀ, x Wkᵀ, x Wvᵀ (one product);  q, k rotated by their positions
//   y = softmax(q kᵀ / √d + causal mask) v Woᵀ
//
// Its state is the key/value cache: a row of 2 · kv_heads · head_dim floats a token, rotated keys
// first.
#pragma once
#include <string>
#include <vector>

#include "refrain/kernels/attention.h"
#include "refrain/kernels/rope.h"
#include "refrain/layers/linear.h"
#include "refrain/mixers/mixer.h"
#include "refrain/mixers/shape.h"

namespace refrain {

struct AttentionConfig {
  double rope_theta = 10000;
  std::string rope_pairing = "half";

  template <class V>
  void visit(V&& v) {
    v("rope_theta", rope_theta, "base of the rotary position angles");
    v("rope_pairing", rope_pairing,
      "channels that rotate together: half (i and i + d/2) or adjacent (2i and 2i + 1)");
  }
};

class Attention final : public Mixer {
 public:
  Attention(const MixerShape&, const AttentionConfig&);

  void visit(const ParamVisitor&) override;
  void forward(Context&, const Window&, ConstTensor x, Tensor y, const State*,
               Arena* saved) const override;
  void backward(Context&, const Window&, ConstTensor x, ConstTensor dy, Tensor dx, const State*,
                const State* dstate, Arena& saved) const override;
  size_t state_bytes(int64_t tokens) const override;

 private:
  struct Saved {
    Tensor qkv;  // [R, qkv_.out]: q and k rotated
    Tensor o;    // [R, heads d]
    Tensor lse;  // [R heads], a sequence's [heads, T] after another's
  };
  Saved carve(Arena&, int64_t rows) const;
  std::vector<kernels::AttentionSequence> sequences(const Window&, const Saved&,
                                                    const State*) const;
  kernels::RopeTable table() const;
  void rotate(Context&, const Window&, Tensor qkv, bool inverse) const;

  MixerShape shape_;
  kernels::AttentionShape attention_;
  double theta_;
  kernels::RopePairing pairing_;
  int64_t table_rows_;
  std::vector<float> cos_, sin_;  // [table_rows_, head_dim / 2]
  Linear qkv_, o_;
};

}  // namespace refrain

// The configuration of a sequence autoencoder (autoencoder/autoencoder.h), apart from its weights.
#pragma once
#include <cstdint>
#include <string>

#include "refrain/kernels/loss/reconstruction_loss.h"
#include "refrain/kernels/sequence/recurrent.h"

namespace refrain {

struct AutoencoderConfig {
  int64_t width = 0;       // E, of the vectors
  int64_t vocab_size = 0;  // rows of a learned table of vectors; 0: vectors are given
  int64_t hidden = 512;
  int64_t layers = 2;
  int64_t bottleneck = 128;
  int64_t heads = 8;
  int64_t head_dim = 0;
  std::string cell{kernels::name_of(kernels::Cell::kLstm)};
  std::string decoder = "cross_attention";
  std::string bottleneck_norm = "none";
  std::string position_codes = "queries";
  std::string loss = "cosine";
  int64_t window = 0;
  int64_t stride = 0;
  bool flash = true;

  // Both are true except in benchmarks; without them results round otherwise. fused: context and
  // initial states by one product each instead of several. cached: keys and values are projected
  // once per sequence instead of at every step. Without `cached`, weight gradients are summed step
  // by step, in an order that depends on the rest of the micro-batch.
  bool fused = true;
  bool cached = true;

  // The settings of a user; the others follow from the vectors.
  template <class V>
  void visit(V&& v) {
    v("hidden", hidden, "units of encoder and decoder");
    v("layers", layers, "recurrent layers of each");
    v("bottleneck", bottleneck, "numbers between the encoder and the decoder's first state");
    v("heads", heads, "heads of the decoder's attention");
    v("head_dim", head_dim, "width of a head; 0 = hidden / heads");
    v("cell", cell, "rnn, lstm or gru");
    v("decoder", decoder,
      "plain: the bottleneck is all it knows; cross_attention: it reads the encoder's states at "
      "every step; self_attention: it reads its own past states");
    v("bottleneck_norm", bottleneck_norm, "none or rms_norm");
    v("position_codes", position_codes,
      "what attention knows the step of: queries, or all, the encoder's states that it reads too");
    v("loss", loss, "cosine: 0.9 (1 - cos) + 0.1 squared distance to the unit vector; mse");
    v("window", window,
      "words that a step of the decoder reads, around its own place, or before it and itself with "
      "self_attention; 0 = all");
    v("stride", stride,
      "cross_attention: besides the window, every so many-th word is read; 0 = none");
    v("flash", flash,
      "attention block by block; false: the probabilities are kept whole, which rounds otherwise");
  }

  void check() const;  // an Error names the setting

  kernels::Cell kind_of_cell() const;
  kernels::ReconstructionLoss kind_of_loss() const;
  bool reads_encoder() const { return decoder == "cross_attention"; }
  bool reads_itself() const { return decoder == "self_attention"; }
  bool reads_positions() const { return reads_encoder() && position_codes == "all"; }
  bool has_attention() const { return reads_encoder() || reads_itself(); }
  int64_t attention_width() const { return head_dim > 0 ? heads * head_dim : hidden; }
};

}  // namespace refrain

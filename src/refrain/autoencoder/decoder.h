// The decoder of a sequence autoencoder (autoencoder/autoencoder.h): a stack of recurrent cells
// that begins with what the bottleneck says and gives a vector a step.
//
//   [h0 c0 ...] = tanh(W_s z + b_s)       for every layer
//   u[t] = x[t-1] where step t is forced, else y[t-1]; 0 at t = 0
//   h[t] = cells(u[t])                    of the topmost layer
//
//   plain            y[t] = W_y h[t] + b_y
//   cross_attention  r[t] = h[t] + code(t),  o[t] = attention(r[t]; the encoder's states)
//                    s[t] = relu(W_c [r[t]; o[t]] + b_c),  y[t] = W_y s[t] + b_y
//   self_attention   the same, with o[t] = attention(r[t]; r[0 .. t])
//
// With a window, step t reads some of these rows: around row t of the encoder, or the last of r.
//
// code(t) is the sinusoid of Vaswani et al. (2017). An output that is fed back is part of the
// graph: backward goes through it. When every step is forced, all but the cells runs for all steps
// at once (not with self-attention: the order of its gradients is the loop's); otherwise the loop
// holds everything, for it depends on y[t-1].
//
// Rows are those of the batch, sequence by sequence; sequences are whole and have at least one row.
// Weight gradients are products over all rows at the end, each a chain in the order of the rows.
//
// Dropout (ExecutionContext::dropout) is on what each layer of cells reads.
#pragma once
#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "refrain/autoencoder/config.h"
#include "refrain/kernels/attention/attention.h"
#include "refrain/layers/cross_attention.h"
#include "refrain/layers/recurrent.h"

namespace refrain {

class Decoder {
 public:
  explicit Decoder(const AutoencoderConfig&);

  void visit(const ParamVisitor&);

  struct Input {
    ConstTensor z;                    // [B, Z]
    ConstTensor m;                    // [R, H]: the encoder's states
    ConstTensor x;                    // [R, E]: what forced steps are given; or nothing
    std::span<const uint8_t> forced;  // per step; beyond its end none is
    // Steps of the longest sequence that is computed in one way with these, as those of one
    // optimiser batch, or 0: of these. It matters where products are rounded: with every step
    // forced those are all, and in the loop none.
    int64_t longest = 0;
    bool is_forced(int64_t t) const {
      return t < static_cast<int64_t>(forced.size()) && forced[static_cast<size_t>(t)] != 0;
    }
  };

  // What a run leaves for backward, in the arena it was made with.
  struct Activations {
    Tensor start;                                         // [B, layers S H]
    std::vector<kernels::RecurrentRows> cells;            // [R, ...]
    Tensor joined, s, y;                                  // [R, H + width]: r, o; [R, H]; [R, E]
    CrossAttention::QueryState query;                     // its o is in `joined`
    std::vector<CrossAttention::PackedKeyValues> memory;  // one, or one a step
    Tensor qkv, softmax;  // self-attention: [R, 3 width], [R, 2 heads]
  };
  Activations forward(ExecutionContext&, const RaggedBatch&, const Input&, bool for_backward,
                      Arena&) const;

  // What backward is given and what it gives.
  struct Gradients {
    Tensor dy;    // [R, E]: in, out with what came back through fed outputs
    Tensor dz;    // [B, Z]: overwritten
    Tensor dm;    // [R, H]: overwritten, with zeros where the encoder is not read
    Tensor dx{};  // [R, E]: added to where steps were given x; or nothing
  };
  // The run is used up.
  void backward(ExecutionContext&, const RaggedBatch&, const Input&, const Activations&,
                const Gradients&) const;

  // How much of each row of the memory row r of the run has read, summed up over the heads and
  // divided by their number. The encoder must be read.
  std::vector<float> attention_weights(const RaggedBatch&, const Activations&, int64_t b,
                                       int64_t t) const;

 private:
  // And those within, by all rows.
  struct InnerGradients : Gradients {
    Tensor start{};              // [B, layers S H]
    Tensor context{}, joined{};  // of relu's input and of what W_c reads
    Tensor q{}, kv{}, qkv{};
    // Per layer (kernels/sequence/recurrent.h): a gru's own, else where da is.
    std::vector<Tensor> p{};
  };

  int64_t hidden() const { return config_.hidden; }
  int64_t attention_width() const { return config_.attention_width(); }
  int64_t joined_width() const { return hidden() + attention_width(); }
  // Of rows [h with its position | what attention read].
  MatrixView<float> state_columns(const Tensor& joined) const {
    return MatrixView<float>(joined).col_range(0, hidden());
  }
  MatrixView<float> attention_columns(const Tensor& joined) const {
    return MatrixView<float>(joined).col_range(hidden(), attention_width());
  }
  kernels::AttentionShape self_shape() const;
  // Steps that step t of self-attention sees before itself.
  int64_t steps_before(int64_t t) const {
    return config_.window > 0 ? std::min(t, config_.window - 1) : t;
  }
  const Linear& query_proj() const { return cross_ ? cross_->query() : *self_; }

  Activations layout(const RaggedBatch&, bool keep_probabilities, Arena&) const;
  void start(ExecutionContext&, ConstTensor z, Tensor start) const;
  // The state of layer l before row 0 of sequence b.
  float* start_of(Tensor start, int64_t b, int64_t l) const {
    return start.row(b) + l * cells_[0].state_floats();
  }
  kernels::RecurrentWeights weights(int64_t layer) const;
  std::vector<kernels::RecurrentChunk> chunks(const RaggedBatch&, const Activations&,
                                              int64_t layer) const;
  // What layer l of the cells reads, for all rows, with dropout; u is in scratch.
  ConstTensor layer_input(ExecutionContext&, const RaggedBatch&, const Input&, const Activations&,
                          size_t l) const;
  Tensor inputs(ExecutionContext&, const RaggedBatch&, const Input&, const Activations&) const;
  std::vector<kernels::AttentionSequence> self_steps(const RaggedBatch&, const Activations&,
                                                     int64_t t) const;
  // In float32 the bits are the same with a loop and without.
  bool needs_no_loop(const RaggedBatch&, const Input&) const;

  // Whether attention writes P whole and the run does not keep it: then scratch holds that of the
  // queries at hand.
  bool lends_probabilities(const Activations& run) const {
    return !config_.flash && run.query.kept.rank == 0;
  }
  void lend_probabilities(ExecutionContext&, const RaggedBatch&, const Activations&,
                          std::span<kernels::CrossQueries>) const;
  struct CrossGroup {
    std::span<const kernels::CrossMemory> memory;
    std::span<const kernels::CrossQueries> queries;
    std::span<const kernels::CrossGradients> gradients;  // where they are given
  };
  // f(CrossGroup) for all rows, some sequences at a time where probabilities are lent; in backward
  // they have been computed again.
  template <class F>
  void each_cross_group(ExecutionContext&, const RaggedBatch&, const Activations&,
                        const InnerGradients*, F&& f) const;

  void forward_rows(ExecutionContext&, const RaggedBatch&, const Input&, const Activations&) const;
  void forward_steps(ExecutionContext&, const RaggedBatch&, const Input&, bool for_backward,
                     Activations&, Arena&) const;
  void backward_rows(ExecutionContext&, const RaggedBatch&, const Activations&,
                     const InnerGradients&) const;
  void backward_steps(ExecutionContext&, const RaggedBatch&, const Input&, const Activations&,
                      const InnerGradients&) const;
  // What attention gets of step t: gradients of its queries, and of keys and values where they
  // cannot wait for the other steps.
  void backward_cross_step(ExecutionContext&, const RaggedBatch&, const Input&, const Activations&,
                           const InnerGradients&, int64_t t) const;
  void backward_self_step(ExecutionContext&, const RaggedBatch&, const Activations&,
                          const InnerGradients&, int64_t t) const;
  void backward_weights(ExecutionContext&, const RaggedBatch&, const Input&, const Activations&,
                        const InnerGradients&) const;

  AutoencoderConfig config_;
  Linear start_;  // [layers S H, Z]
  std::vector<Recurrent> cells_;
  std::optional<CrossAttention> cross_;
  std::optional<Linear> self_;  // q, k, v: [3 width, H]
  Linear context_, out_;        // [H, H + width], [E, H]
};

// The place of dropout before layer l of the cells; the encoder has the even ones.
constexpr uint64_t decoder_site(size_t layer) { return 2 * layer + 1; }

// Sine and cosine of every position before `positions`, [positions, width].
void position_codes(Tensor codes);
// Adds to every row of the batch the code of its position.
void add_position_codes(ExecutionContext&, const RaggedBatch&, ConstTensor rows,
                        MatrixView<float> out);

}  // namespace refrain

// The decoder language model: embedding, a stack of blocks, a norm, logits.
//
//   x = E[token];  x = block_l(x) for every block;  logits = rms_norm(x) Wᵀ,  W = E when tied
//
// A stack of bare blocks has no norm before its output, which has a bias: logits = x Wᵀ + b.
//
// The model owns its weights and, for training, their gradients (parameter_store.h). Memory for
// activations is the caller's: arenas sized by a dry run (workspace.h).
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/model/block.h"
#include "refrain/model/config.h"
#include "refrain/model/parameter_store.h"
#include "refrain/model/recompute.h"

namespace refrain {
namespace io {
class ScratchFile;
}

class LanguageModel {
 public:
  // kLater: shapes only, enough to plan with, until parameters().allocate().
  enum class Memory { kTaken, kLater };

  // Weights are zero until initialise() or a checkpoint fills them.
  explicit LanguageModel(ModelConfig, Memory memory = Memory::kTaken);
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  const ModelConfig& config() const { return config_; }

  // Weights drawn from (seed, name of the parameter) alone.
  void initialise(uint64_t seed, const Initialisation& = {});
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }

  // Keeps a second copy of the matrices, as products read them: what steps of few rows need to be
  // fast. For inference: it is not kept up to date, and allocate_gradients() drops it.
  void pack_weights();

  // Those of parameters(), and a tied embedding's second gradient.
  void allocate_gradients();
  size_t training_bytes() const;
  void clear_gradients();
  // After the last train() of an optimiser step. A tied embedding has two chains of gradients, as
  // input and as output; they are joined here, so that it does not matter how the rows came.
  void finish_gradients();

  // What a window is trained on. `states`: per block, read and advanced, no gradient goes beyond
  // them (truncated backpropagation); or empty: whole sequences.
  struct Lesson {
    std::span<const int32_t> tokens{};   // [R]
    std::span<const int32_t> targets{};  // [R], negative: not supervised
    float scale = 1;                     // of the loss
    float label_smoothing = 0;
    std::span<const State> states{};
    kernels::ComputeType compute_type = kernels::ComputeType::kFloat32;
    int64_t segment = kSegment;

    // These change time and memory only.
    Recompute recompute{};
    // Whose logits exist at a time, kRowGroup or more; 0 = what is fast.
    int64_t head_rows = 0;
    io::ScratchFile* spill = nullptr;  // where recompute.segments keeps states; null: in memory
  };

  // In a stack whose states do not grow, a sequence longer than `segment` tokens is trained alone
  // and in segments, cut at multiples of so many tokens: forward from the first to the last with
  // the states carried, backward from the last to the first with their gradients. It is exact, and
  // the order in which rows are summed into the gradients, which is why it does not depend on
  // memory: what is saved may be all segments' activations or only the states between them.
  static constexpr int64_t kSegment = 4096;
  bool bounded_state() const;  // no block's state grows with the sequence

  // Adds to the gradients those of scale * (sum of the cross entropies of the window's targets);
  // writes each row's unscaled loss in nats (0 where the target is negative) to `losses` [R].
  void train(const ExecutionContext&, const RaggedBatch&, const Lesson&, Tensor losses,
             Arena& saved);

  // Each row's loss, without gradients. `states`: per block, or empty.
  void losses(ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
              std::span<const int32_t> targets, std::span<const State> states, Tensor losses) const;

  // Logits [rows.size(), V] of the chosen rows of the window.
  void logits(ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
              std::span<const State> states, std::span<const int32_t> rows, Tensor logits) const;

  const Mixer& mixer(size_t block) const { return blocks_[block].mixer(); }

  // Bytes of block l's state for a sequence of up to `tokens` tokens.
  size_t state_bytes(int64_t block, int64_t tokens) const {
    return blocks_[static_cast<size_t>(block)].state_bytes(tokens);
  }

 private:
  void visit(const ParamVisitor&);
  const Param& head() const { return config_.tie_embeddings ? embedding_ : head_; }
  // Embedding and blocks in inference; the result is taken from scratch.
  Tensor hidden(ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
                std::span<const State> states) const;
  // What the head needs of the rows whose logits are wanted: normed [n, D] = norm(x[rows]).
  struct HeadInput {
    Tensor x, r, normed;  // [n, D], [n] reciprocal root mean squares, [n, D]
  };
  HeadInput head_input(ExecutionContext&, ConstTensor x, std::span<const int32_t> rows) const;
  // Part of the head's rows: logits [n, V].
  void head_forward(ExecutionContext&, ConstTensor normed, Tensor logits) const;

  // A window on its way from forward to backward.
  struct Pass {
    std::vector<Tensor> x;      // [L + 1] of [R, D]: what block l reads, and what the head does
    std::vector<size_t> marks;  // [L]: where in `saved` block l's part begins
  };
  Pass forward(const ExecutionContext&, const RaggedBatch&, const Lesson&,
               std::span<const State> states, Arena& saved) const;
  void backward(const ExecutionContext&, const RaggedBatch&, const Lesson&, const Pass&,
                std::span<const State> states, std::span<const State> dstates, Tensor losses,
                Arena& saved);
  // Piece b of the window, a long sequence.
  void train_segments(const ExecutionContext&, const RaggedBatch&, int64_t b, const Lesson&,
                      Tensor losses, Arena& saved);
  void advance_states(const ExecutionContext&, const RaggedBatch&, const Lesson&,
                      std::span<const State> states) const;
  BlockRecompute recompute_of(const Lesson&, size_t block) const;
  // d [R, D] = dL/dx from the head, which also gets its own gradients.
  void train_head(const ExecutionContext&, const RaggedBatch&, ConstTensor x, const Lesson&,
                  Tensor losses, Tensor d);
  Tensor lookup_gradient();
  int64_t slice_rows() const;

  ModelConfig config_;
  std::vector<Block> blocks_;
  Param embedding_, norm_, head_, head_bias_;  // [V, D], [D], [V, D], [V]
  ParameterStore parameters_;
  Buffer<float> lookup_gradient_;  // [V, D], when tied
};

}  // namespace refrain

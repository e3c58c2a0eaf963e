// The decoder language model: embedding, a stack of blocks, a head.
//
//   x = E[token];  x = block_l(x) for every block;  logits = rms_norm(x) Wᵀ,  W = E when tied
//
// With learned positions x = E[token] + P[position].
// A stack of bare blocks has no norm before its output, which has a bias: logits = x Wᵀ + b.
//
// The model owns its weights and, for training, their gradients (parameter_store.h). Memory for
// activations is the caller's: arenas sized by a dry run (workspace.h).
#pragma once
#include <cstddef>
#include <memory>
#include <span>

#include "refrain/model/config.h"
#include "refrain/model/embedding.h"
#include "refrain/model/head.h"
#include "refrain/model/parameters/lora.h"
#include "refrain/model/parameters/parameter_store.h"
#include "refrain/model/stack.h"
#include "refrain/model/training_batch.h"

namespace refrain {

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

  // From here on for inference alone: matrices stand in the form that products read, which steps
  // of few rows need to be fast, in the storage of `type` where it pays (ParameterStore).
  void pack_weights(Storage type = Storage::kFloat32);
  // The last part of that, for weights that were loaded so.
  void prepare_inference();

  // From here on these adapters, which live as long, are part of what the model computes, unless an
  // ExecutionContext has others; null: none. To train them, the model's own weights freeze.
  void adapt(Lora*);
  Lora* lora() const { return lora_; }
  // What steps change: the adapters, if there are any.
  ParameterStore& trained() { return lora_ ? lora_->parameters() : parameters_; }
  const ParameterStore& trained() const { return lora_ ? lora_->parameters() : parameters_; }

  // Those of trained(), and a tied embedding's second gradient.
  void allocate_gradients();
  size_t training_bytes(int moments = 2) const;  // as of ParameterStore
  void clear_gradients();
  // After the last train() of an optimiser step.
  void finish_gradients();

  // Adds the gradients of scale * (sum of the cross entropies of the batch's targets), and writes
  // each row's unscaled loss in nats (0 where the target is negative) to `losses` [R].
  void train(const ExecutionContext&, const RaggedBatch&, const TrainingBatch&,
             const TrainingOptions&, Tensor losses, Arena& saved);

  // Each row's loss, without gradients. `states`: per block, or empty.
  void losses(ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
              std::span<const int32_t> targets, std::span<const State> states, Tensor losses) const;

  // Logits [rows.size(), V] of the chosen rows of the batch.
  void logits(ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
              std::span<const State> states, std::span<const int32_t> rows, Tensor logits) const;

  const Mixer& mixer(size_t block) const { return stack_.mixer(block); }

  // For inference, before states are made: the blocks that have a cache of keys and values keep it
  // in this type (Mixer::set_cache_type). It is not saved with the model. An Error if no block has
  // one, but for float32, which is what all have at first and what training needs.
  void set_cache_type(kernels::CacheType);
  kernels::CacheType cache_type() const { return cache_type_; }

  // Bytes of block l's state for a sequence of up to `tokens` tokens.
  size_t state_bytes(int64_t block, int64_t tokens) const {
    return stack_.state_bytes(static_cast<size_t>(block), tokens);
  }
  // No block's state grows with the sequence, and nothing else ends it.
  bool bounded_state() const { return !config_.learned_positions && stack_.bounded_state(); }

 private:
  struct Chunk;
  // The lowest block that backward comes to: below it nothing learns, nor does the embedding.
  size_t first_learning_block() const;
  ExecutionContext with_adapters(const ExecutionContext&) const;
  // Embedding and blocks; `pass` says whether for training.
  Stack::Pass run(const ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
                  std::span<const State> states, Stack::Pass pass) const;
  Stack::Pass forward(const ExecutionContext&, const Chunk&, std::span<const State> states,
                      const TrainingOptions&, bool is_last, Arena& saved) const;
  void backward(const ExecutionContext&, const Chunk&, const StackStates&, const TrainingOptions&,
                const Stack::Pass&);
  // Forward and backward of the long sequence b, chunk by chunk.
  void train_chunks(const ExecutionContext&, const Chunk& all, int64_t b, const TrainingOptions&,
                    Arena& saved);

  ModelConfig config_;
  Embedding embedding_;
  Stack stack_;
  Head head_;
  ParameterStore parameters_;
  Lora* lora_ = nullptr;
  kernels::CacheType cache_type_ = kernels::CacheType::kFloat32;
};

}  // namespace refrain

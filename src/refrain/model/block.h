// One block of the stack, pre-norm and residual (Touvron et al., 2023):
//
//   h = x + mixer(norm(x))        y = h + feed_forward(norm(h))
//
// or, bare:  y = mixer(x)
//
// Dropout, if the context asks for it, applies to what is added to the residual stream (bare: to
// the output of the mixer).
#pragma once
#include <memory>
#include <optional>

#include "refrain/layers/feed_forward.h"
#include "refrain/layers/norm.h"
#include "refrain/mixers/mixer.h"
#include "refrain/model/config.h"
#include "refrain/model/state_snapshot.h"

namespace refrain {

// What backward computes again from x and, if there are states, from copies of the initial states.
struct BlockRecompute {
  bool all = false;
  bool mixer = false, feed_forward = false;  // of a block that is not bare
};

// Where forward saves for backward, and what it leaves out. Without an arena (inference) it saves
// nothing.
struct SaveOptions {
  Arena* arena = nullptr;
  BlockRecompute recompute{};
};

// The states of a block and their gradients; null: none. As in Mixer::backward.
struct BlockStates {
  const State* value = nullptr;
  const State* gradient = nullptr;
};

class Block {
 public:
  Block(std::unique_ptr<Mixer> mixer, const ModelConfig&, int64_t index);

  void visit(const ParamVisitor&);

  // y = block(x), both [R, D], not the same memory.
  void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, const State*,
               SaveOptions) const;

  // d: dL/dy in, dL/dx out. x and the options as in forward.
  void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor d, BlockStates,
                SaveOptions) const;

  const Mixer& mixer() const { return *mixer_; }
  bool set_cache_type(kernels::CacheType type) { return mixer_->set_cache_type(type); }

  void finish_gradients() { mixer_->finish_gradients(); }
  void prepare_inference(ExecutionContext& ctx) { mixer_->prepare_inference(ctx); }

  size_t state_bytes(int64_t tokens) const { return mixer_->state_bytes(tokens); }

 private:
  struct Activations {
    Tensor h;                               // [R, D]: the residual stream between the two halves
    Tensor r1, r2;                          // [R]: of the norms
    FeedForward::Activations feed_forward;  // unless it is computed again
    std::optional<StateSnapshot> initial;   // if the mixer is to run again from them
  };
  Activations layout(const ExecutionContext&, const RaggedBatch&, bool states, Arena&,
                     BlockRecompute) const;
  // forward() and backward() without `recompute.all`. Without y, run() fills what is saved and
  // leaves out the products that give y alone.
  void run(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, const State*,
           SaveOptions) const;
  void run_back(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor d, BlockStates,
                SaveOptions) const;
  // The gradient before dropout; d itself without dropout.
  ConstTensor dropped(ExecutionContext&, const RaggedBatch&, ConstTensor d, uint64_t site) const;

  std::unique_ptr<Mixer> mixer_;
  FeedForward feed_forward_;
  Norm norm1_, norm2_;
  int64_t D_, blocks_;
  bool bare_;
  uint64_t mixer_site_, feed_forward_site_;  // what keys the dropout masks
};

}  // namespace refrain

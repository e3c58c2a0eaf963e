// The blocks of a model, one after another: x = block_l(x).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "refrain/model/block.h"
#include "refrain/model/config.h"
#include "refrain/model/recompute.h"

namespace refrain {

// The states of every block, or empty: `values` are read and advanced, `gradients` as in
// Mixer::backward.
struct StackStates {
  std::span<const State> values{}, gradients{};
};

class Stack {
 public:
  explicit Stack(const ModelConfig&);

  void visit(const ParamVisitor&);
  void prepare_inference(ExecutionContext&);
  const Mixer& mixer(size_t block) const { return blocks_[block].mixer(); }
  // Of all blocks that have a cache (Mixer::set_cache_type); false if none has.
  bool set_cache_type(kernels::CacheType);

  // Bytes of every block's state for a sequence of up to `tokens` tokens.
  std::vector<size_t> state_bytes(int64_t tokens) const;
  size_t state_bytes(size_t block, int64_t tokens) const {
    return blocks_[block].state_bytes(tokens);
  }
  bool bounded_state() const;  // no block's state grows with the sequence

  // The activations of a batch between the blocks.
  struct Pass {
    // [L + 1] of [R, D]: what block l reads; last, what L - 1 gives. If block 0 is computed again,
    // x.back() is in the place of x.front(), which backward makes again.
    std::vector<Tensor> x{};
    Arena* saved = nullptr;                // what backward will read; null in inference
    std::vector<size_t> marks{};           // [L]: where in `saved` block l's part begins
    const Recompute* recompute = nullptr;  // what is not saved
    size_t first = 0;  // block that backward goes down to: those below save nothing
    // Its backward comes next: the last block's activations are saved, for they are read before
    // there is anything else in their place.
    bool is_last = false;
  };
  // A pass that saves for backward the input of every block from `first` on. `is_last`: no other
  // pass comes between its forward and its backward.
  struct TrainingPass {
    const Recompute& recompute;
    size_t first = 0;
    bool is_last = false;
  };
  Pass training_pass(int64_t rows, const TrainingPass&, Arena& saved) const;
  // A pass with two alternating buffers.
  Pass inference_pass(int64_t rows, Arena& scratch) const;

  // From x.front(), which is filled, to x.back().
  void forward(ExecutionContext&, const RaggedBatch&, Pass&, std::span<const State> states) const;
  // d [R, D]: dL/d x.back() in, dL/d x[first] out. It may be x.back(). make_input(x) fills x [R,
  // D] with x.front() again.
  void backward(ExecutionContext&, const RaggedBatch&, const Pass&, const StackStates&, Tensor d,
                const std::function<void(Tensor)>& make_input) const;
  void finish_gradients();

 private:
  BlockRecompute recompute_of(const Pass&, size_t block) const;
  bool makes_input_again(const Recompute& r, size_t first) const {
    return first == 0 && r.blocks > 0 && blocks_.size() > 1;
  }

  int64_t width_;
  std::vector<Block> blocks_;
};

}  // namespace refrain

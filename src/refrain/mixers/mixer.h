// The contract of a mixer: the only part of a block that reads other tokens.
//
// One forward covers three forms. Without a state it maps whole sequences from their start
// (training). With a state it carries the state from batch to batch (prefill, truncated
// backpropagation). With one token per sequence it is generation. However a sequence is cut into
// chunks, the numbers are the same; tests/mixers/contract_test.cc checks that for every mixer.
#pragma once
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "refrain/kernels/attention/kv_cache.h"
#include "refrain/layers/execution_context.h"
#include "refrain/layers/param.h"

namespace refrain {

// What a mixer carries from token to token: a row of plain bytes per sequence, without pointers,
// zero at the start of a sequence. The first state_bytes(t) bytes are what t tokens need, so
// forking, saving or rolling back a sequence is a memcpy of them. Each sequence has its own row,
// because the sequences of a batch come and go independently.
struct State {
  std::span<std::byte* const> rows;  // one per chunk of the batch
  std::byte* bytes(int64_t b) const { return rows[static_cast<size_t>(b)]; }
  float* row(int64_t b) const { return reinterpret_cast<float*>(bytes(b)); }
};

// A part of what a mixer saves for backward. If ctx.recomputes(name), backward computes it again
// instead, with the same bits.
struct RecomputePart {
  std::string_view name;
  double flops;  // that doing so takes, as a share of the mixer's forward pass
};

// What plans and settings must know about a kind of mixer. It is the same for all settings of the
// kind.
struct MixerTraits {
  // The mixer goes through a sequence token by token. So the sequences of a batch share the reading
  // of weights in a step, the tokens of one sequence do not.
  bool sequential = false;
  // With ExecutionContext::checkpoint_interval it saves states instead of rows, and backward runs
  // forward again.
  bool keeps_states = false;
  bool grouped_queries = false;    // it reads MixerDims::kv_heads
  bool attention_dropout = false;  // and Dropout::attention_rate
  // All its products with learned matrices are Linear's, forward and backward: they may have
  // adapters, and be packed in training.
  bool linear_maps = false;
  // A sequence that is cut at multiples of this has the bits of the whole one.
  int64_t cut_multiple = 1;
  std::span<const RecomputePart> recompute{};
};

// Bytes of a row of a state.
struct StateRange {
  size_t first, bytes;
};

// What backward is given and what it gives.
struct MixerGradients {
  ConstTensor dy;  // [R, D]: dL/dy
  Tensor dx;       // [R, D]: dL/dx, overwritten
  // dL/d(final state) in, dL/d(initial state) out; null: no gradient enters or leaves through the
  // state.
  const State* dstate = nullptr;
};

class Mixer {
 public:
  virtual ~Mixer() = default;

  virtual const MixerTraits& traits() const = 0;

  // FLOPs per token of a forward pass over a sequence of `length` tokens, without its projections
  // (2 for every parameter). The default is a decayed update and a reading of the state, 4 for each
  // number of it.
  virtual double mixing_flops(int64_t length) const {
    return 4 * static_cast<double>(state_bytes(length)) / sizeof(float);
  }

  // False of an encoder, whose outputs depend on later tokens of the sequence too: it has whole
  // sequences without a state, and nothing else.
  virtual bool causal() const { return true; }

  virtual void visit(const ParamVisitor&) = 0;

  // y = mix(x), both [R, D]. `state`: null = every sequence starts from nothing, and no state is
  // stored; otherwise the state is read and advanced. `saved`: null in inference; otherwise it gets
  // what backward will read.
  virtual void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y,
                       const State* state, Arena* saved) const = 0;

  // Weight gradients are added to. `state` is the final state of forward; what a mixer needs of the
  // initial state, forward puts into `saved`, which starts at the same place here. The gradient of
  // a frozen weight is null: kernels skip it, and loops must do so too.
  virtual void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, const State* state,
                        const MixerGradients&, Arena& saved) const = 0;

  // Called after the last backward of an optimiser step, micro-batches included. For weights whose
  // gradient is a function of a sum over all rows.
  virtual void finish_gradients() {}

  // Called once before inference, when all weights are there and will not change any more: for what
  // is a function of weights alone.
  virtual void prepare_inference(ExecutionContext&) {}

  // Bytes of a row of the state for a sequence of up to `tokens` tokens.
  virtual size_t state_bytes(int64_t tokens) const = 0;

  // For inference: from now on keys and values are rounded to this type before they are attended
  // to, with a state or without, and states made from now on hold them in it. So whole, chunked and
  // stepped forms stay the same. False of a mixer that has no cache of keys and values: nothing
  // changes.
  virtual bool set_cache_type(kernels::CacheType) { return false; }
  // The numbers of a state that takes so many bytes.
  virtual std::vector<float> state_numbers(std::span<const std::byte> state) const {
    std::vector<float> numbers(state.size() / sizeof(float));
    if (!numbers.empty()) std::memcpy(numbers.data(), state.data(), numbers.size() * sizeof(float));
    return numbers;
  }

  // What of the state of `position` tokens the next `tokens` ones may overwrite. With these bytes
  // put back it is that state again. A cache that only grows overwrites nothing: then the states of
  // the tokens in between are still there as well. The default is everything.
  virtual std::vector<StateRange> overwritten(int64_t position, int64_t tokens) const {
    (void)tokens;
    return {{0, state_bytes(position)}};
  }
};

}  // namespace refrain

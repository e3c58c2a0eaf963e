// The contract of a token mixer: the only part of a block that looks along time.
//
// One forward covers the three forms. Without a state it maps whole sequences from their start
// (training); with one it carries it across windows (prefill, truncated backpropagation); with one
// token per sequence it is generation. However a sequence is cut into windows, the numbers are the
// same: tests/mixers/contract_test.cc holds every mixer to it.
#pragma once
#include <cstddef>
#include <span>
#include <string_view>

#include "refrain/layers/execution_context.h"
#include "refrain/layers/param.h"

namespace refrain {

// What a mixer carries from token to token: a row of plain bytes per sequence, without pointers,
// zero-filled at a sequence's start. The first state_bytes(t) bytes are what t tokens need, so
// forking, saving or rolling back a sequence is a memcpy of them. Rows are given one by one: the
// sequences of a batch come and go on their own.
struct State {
  std::span<std::byte* const> rows;  // one per piece of the window
  float* row(int64_t b) const { return reinterpret_cast<float*>(rows[static_cast<size_t>(b)]); }
};

// A part of what a mixer saves for backward that it can compute again instead, to the same bits,
// when ctx.recomputes(name).
struct RecomputePart {
  std::string_view name;
  double flops;  // that doing so takes, as a share of the mixer's forward pass
};

// What plans and settings must know of a kind of mixer; the same for all its settings.
struct MixerTraits {
  // It goes through a sequence token by token: a step shares its weights between the sequences of a
  // batch, not between their tokens.
  bool sequential = false;
  // With ExecutionContext::checkpoint_interval it saves states instead of rows; backward runs
  // forward again.
  bool keeps_states = false;
  bool grouped_queries = false;    // it reads MixerDims::kv_heads
  bool attention_dropout = false;  // and Dropout::attention_rate
  std::span<const RecomputePart> recompute{};
};

class Mixer {
 public:
  virtual ~Mixer() = default;

  virtual const MixerTraits& traits() const = 0;

  // FLOPs a token of a forward pass over a sequence of `length` tokens, beside its projections (2
  // for every parameter). The default: a decayed update and a reading of the state, 4 a number.
  virtual double mixing_flops(int64_t length) const {
    return 4 * static_cast<double>(state_bytes(length)) / sizeof(float);
  }

  virtual void visit(const ParamVisitor&) = 0;

  // y = mix(x), both [R, D]. `state`: null starts every sequence from nothing and keeps nothing,
  // otherwise it is read and advanced. `saved`: null in inference, otherwise takes what backward
  // will read.
  virtual void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y,
                       const State* state, Arena* saved) const = 0;

  // dx = dL/dx (overwritten); weight gradients are added to. `saved` stands where forward's stood.
  // `state` is the one forward left: what a mixer needs of the one it found, it puts in `saved`.
  // `dstate` (null: no gradient comes or goes by the state) holds dL/d(final state) and receives
  // dL/d(initial state). A frozen weight's gradient is null: kernels pass over it, and so must
  // loops.
  virtual void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, ConstTensor dy,
                        Tensor dx, const State* state, const State* dstate, Arena& saved) const = 0;

  // After the last backward of an optimiser step, its micro-batches included: for weights whose
  // gradient is a function of a sum over all rows.
  virtual void finish_gradients() {}

  // Bytes of a row for a sequence of up to `tokens` tokens.
  virtual size_t state_bytes(int64_t tokens) const = 0;
};

}  // namespace refrain

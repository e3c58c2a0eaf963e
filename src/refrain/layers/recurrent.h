// A layer of a classical recurrent cell: the weights of PyTorch's nn.RNN, nn.LSTM and nn.GRU, with
// their names, and the run of the cell over a batch (equations: kernels/sequence/recurrent.h).
//
//   weight_ih_l0 [G H, D], weight_hh_l0 [G H, H], bias_ih_l0, bias_hh_l0 [G H]
//
// A state is a row of floats, h [H] and then an lstm's c [H], zero at the start of a sequence.
#pragma once
#include <span>
#include <vector>

#include "refrain/kernels/sequence/recurrent.h"
#include "refrain/layers/linear.h"

namespace refrain {

class Recurrent {
 public:
  Recurrent(kernels::Cell cell, int64_t in, int64_t hidden, kernels::ActivationPrecision = {});

  void visit(const ParamVisitor&);
  kernels::Cell cell() const { return cell_; }
  int64_t hidden() const { return w_hh_.in; }
  const Linear& input() const { return w_ih_; }  // what a loop over time of its own needs
  const Linear& recurrence() const { return w_hh_; }
  int64_t state_floats() const { return kernels::states_of(cell_) * hidden(); }

  // The activations of a run; rows.h is its output. They are in the arenas that the run got.
  struct Activations {
    kernels::RecurrentRows rows;
    std::vector<kernels::RecurrentChunk> chunks;     // the batch's
    std::vector<kernels::RecurrentChunk> intervals;  // the same, cut every so many rows
    Tensor initial_state;  // [intervals, state_floats()]: the state before each interval
  };

  // x [R, D]. `state`: a row per chunk, read and advanced, or none. `saved` as in Mixer; with
  // ExecutionContext::checkpoint_interval the rows are in scratch instead.
  Activations forward(ExecutionContext&, const RaggedBatch&, ConstTensor x,
                      std::span<float* const> state, Arena* saved) const;
  // The activations of the same run for backward, from `saved`. With
  // ExecutionContext::checkpoint_interval they are computed again, the parts between checkpoints
  // side by side.
  Activations recompute_forward(ExecutionContext&, const RaggedBatch&, ConstTensor x,
                                Arena& saved) const;
  // The same for a run that is at hand: its initial states are read, its rows made again in
  // scratch.
  Activations recompute_forward(ExecutionContext&, ConstTensor x, Activations run) const;
  // dh [R, H] -> dx [R, D], overwritten; weight gradients are added to. `dstate`: a row per chunk,
  // dL/d(final state) in, dL/d(initial state) out, or none. The run's rows are overwritten.
  void backward(ExecutionContext&, ConstTensor x, const Activations&, ConstTensor dh, Tensor dx,
                std::span<float* const> dstate) const;
  // The rest of backward after a loop over time. It needs h of the step before every row
  // (states_before, in scratch), and the gradients of a and of p (the same, except for a gru).
  Tensor states_before(ExecutionContext&, const Activations&) const;
  void backward_weights(ExecutionContext&, ConstTensor x, ConstTensor h_before, ConstTensor da,
                        ConstTensor dp) const;

 private:
  kernels::RecurrentWeights weights() const {
    return {cell_, w_hh_.w.w, w_hh_.b.w, w_hh_.w.packed, nullptr, precision_};
  }
  Activations layout(const RaggedBatch&, int64_t every, Arena& found, Arena& rows) const;
  kernels::RecurrentRows layout_rows(int64_t rows, Arena&) const;

  kernels::Cell cell_;
  kernels::ActivationPrecision precision_;
  Linear w_ih_, w_hh_;
};

}  // namespace refrain

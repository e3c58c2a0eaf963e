// A layer of a classical recurrent cell: the weights of PyTorch's nn.RNN, nn.LSTM and nn.GRU, by
// their names, and the cell's run over a window (equations: kernels/sequence/recurrent.h).
//
//   weight_ih_l0 [G H, D], weight_hh_l0 [G H, H], bias_ih_l0, bias_hh_l0 [G H]
//
// A state is a row of floats, h [H] and then an lstm's c [H], zero at a sequence's start.
#pragma once
#include <span>
#include <vector>

#include "refrain/kernels/sequence/recurrent.h"
#include "refrain/layers/linear.h"

namespace refrain {

class Recurrent {
 public:
  Recurrent(kernels::Cell cell, int64_t in, int64_t hidden);

  void visit(const ParamVisitor&);
  kernels::Cell cell() const { return cell_; }
  int64_t hidden() const { return w_hh_.in; }
  const Linear& input() const { return w_ih_; }  // what a loop over time of its own needs
  const Linear& recurrence() const { return w_hh_; }
  int64_t state_floats() const { return kernels::states_of(cell_) * hidden(); }

  // What a run leaves: rows.h is its output. It lies in the arenas it was made with.
  struct Activations {
    kernels::RecurrentRows rows;
    std::vector<kernels::RecurrentPiece> pieces;    // the window's
    std::vector<kernels::RecurrentPiece> segments;  // the same, cut every so many rows
    Tensor initial_state;  // [segments, state_floats()]: the state before each segment
  };

  // x [R, D]. `state`: a row per piece, read and advanced, or none. `saved` as in Mixer; with
  // ExecutionContext::checkpoint_interval the rows are in scratch instead.
  Activations forward(ExecutionContext&, const RaggedBatch&, ConstTensor x,
                      std::span<float* const> state, Arena* saved) const;
  // The same run again, for backward, from where forward put it. With
  // ExecutionContext::checkpoint_interval it is computed again, all segments of all pieces side by
  // side.
  Activations recompute_forward(ExecutionContext&, const RaggedBatch&, ConstTensor x,
                                Arena& saved) const;
  // dh [R, H] -> dx [R, D], overwritten; weight gradients are added to. `dstate`: a row per piece,
  // dL/d(final state) in, dL/d(initial state) out, or none. The run's rows are used up.
  void backward(ExecutionContext&, ConstTensor x, const Activations&, ConstTensor dh, Tensor dx,
                std::span<float* const> dstate) const;
  // What is left of it after a loop over time: from h of the step before every row (states_before,
  // in scratch), and the gradients by a and by p (one and the same but for a gru).
  Tensor states_before(ExecutionContext&, const Activations&) const;
  void backward_weights(ExecutionContext&, ConstTensor x, ConstTensor h_before, ConstTensor da,
                        ConstTensor dp) const;

 private:
  kernels::RecurrentWeights weights() const { return {w_hh_.w.w, w_hh_.b.w, w_hh_.w.packed}; }
  Activations layout(const RaggedBatch&, int64_t every, Arena& found, Arena& rows) const;

  kernels::Cell cell_;
  Linear w_ih_, w_hh_;
};

}  // namespace refrain

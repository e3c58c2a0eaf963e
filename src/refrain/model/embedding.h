// The embedding, tokens as vectors: x = E[token], or E[token] + P[position] with learned positions
// (Radford et al., 2019), with dropout if the execution context asks for it.
//
// A tied table is also the matrix of the head, and has two chains of gradients, as input and as
// output. The gradient as input is stored here until finish_gradients() adds it to the other. So
// the sums do not depend on how the rows were split into calls.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "refrain/base/buffer.h"
#include "refrain/layers/execution_context.h"
#include "refrain/layers/param.h"

namespace refrain {

class Embedding {
 public:
  // `positions`: rows of P; 0: there is none.
  Embedding(int64_t vocab_size, int64_t width, bool tied, int64_t positions)
      : vocab_size_(vocab_size), width_(width), positions_(positions), tied_(tied) {}

  void visit(const ParamVisitor&);
  const Param& table() const { return table_; }  // [V, D]

  // x [R, D]. An Error where P has no row for a position.
  void forward(const ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
               Tensor x) const;
  // d [R, D] = dL/dx; it is overwritten.
  void backward(const ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
                Tensor d);

  // Memory of the gradient as input, which ParameterStore does not have.
  size_t gradient_bytes() const;
  void allocate_gradient();
  void clear_gradient();
  void finish_gradients();

 private:
  bool has_own_gradient() const { return tied_ && table_.trainable; }
  Tensor lookup_gradient();

  int64_t vocab_size_, width_, positions_;
  bool tied_;
  Param table_, position_table_;
  Buffer<float> lookup_gradient_;  // [V, D], when it has its own
};

}  // namespace refrain

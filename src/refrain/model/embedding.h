// Tokens as vectors: x = E[token], with dropout where the execution context asks for it.
//
// A tied table is the matrix of the head too and has two chains of gradients, as input and as
// output. That of the input is kept here until finish_gradients() adds it to the other, so that it
// does not matter how the rows came.
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
  Embedding(int64_t vocab_size, int64_t width, bool tied)
      : vocab_size_(vocab_size), width_(width), tied_(tied) {}

  void visit(const ParamVisitor&);
  const Param& table() const { return table_; }  // [V, D]

  // x [R, D].
  void forward(const ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
               Tensor x) const;
  // d [R, D] = dL/dx, which it changes.
  void backward(const ExecutionContext&, const RaggedBatch&, std::span<const int32_t> tokens,
                Tensor d);

  // The gradient that ParameterStore does not have.
  size_t gradient_bytes() const;
  void allocate_gradient();
  void clear_gradient();
  void finish_gradients();

 private:
  bool has_own_gradient() const { return tied_ && table_.trainable; }
  Tensor lookup_gradient();

  int64_t vocab_size_, width_;
  bool tied_;
  Param table_;
  Buffer<float> lookup_gradient_;  // [V, D], when it has its own
};

}  // namespace refrain

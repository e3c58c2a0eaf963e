// The head: from the output of the stack to logits and losses.
//
//   logits = norm(x) Wᵀ, W = E when tied;  after mixer-only blocks: logits = x Wᵀ + b
//
// It works on the rows that need logits, in slices. In training and evaluation the logits of a
// batch never exist whole.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/layers/execution_context.h"
#include "refrain/layers/linear.h"
#include "refrain/layers/norm.h"
#include "refrain/model/config.h"
#include "refrain/model/training_batch.h"

namespace refrain {

class Head {
 public:
  // `tied`: the table that is also the head's matrix; null: the head has its own.
  Head(const ModelConfig&, const Param* tied);

  void visit(const ParamVisitor&);

  // Logits [rows.size(), V] of the chosen rows of x [R, D].
  void logits(ExecutionContext&, ConstTensor x, std::span<const int32_t> rows, Tensor logits) const;

  // Each row's loss in nats, 0 where the target is negative; losses [R].
  void losses(ExecutionContext&, const RaggedBatch&, ConstTensor x,
              std::span<const int32_t> targets, Tensor losses) const;

  // The losses, and the gradients of scale * (their sum): those of the weights are added to; d [R,
  // D] is dL/dx, and may be x.
  struct Outputs {
    Tensor losses, d;
  };
  void train(const ExecutionContext&, const RaggedBatch&, ConstTensor x,
             std::span<const int32_t> targets, const TrainingOptions&, const Outputs&);

 private:
  // The input of the rows whose logits are needed: normed [n, D] = norm(x[rows]).
  struct Input {
    Tensor x, r, normed;  // [n, D], [n] reciprocal root mean squares, [n, D]
  };
  Input input(ExecutionContext&, ConstTensor x, std::span<const int32_t> rows) const;
  // With the table's matrix where it is tied.
  Linear map() const;

  int64_t vocab_size_, width_, slice_rows_;
  bool mixer_only_;
  const Param* tied_;
  Norm norm_;
  Linear map_;  // D -> V
};

}  // namespace refrain

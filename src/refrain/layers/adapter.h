// Low-rank additions to linear maps (LoRA; Hu et al., 2021), beside weights that stay as they are:
//
//   y = x Wᵀ + s (drop(x) Aᵀ) Bᵀ        A [r, in], B [outputs, r], s = alpha / r
//
// A map that is several in files (q, k, v in one product) has an addition for each of them that is
// to learn: parts, which cover their own outputs. Their A are one matrix, so one product serves
// all. A set has those of a whole model. It does not belong to the model: several sets may stand
// beside one, and an ExecutionContext says which of them a call uses.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "refrain/layers/execution_context.h"
#include "refrain/layers/param.h"

namespace refrain {

class Adapter {
 public:
  struct Part {
    int64_t first, outputs;  // of the map's outputs
    int64_t rank;
    float scale;
    int64_t at = 0;  // its rows of A, by the constructor
    Param b{};       // [outputs, rank]
  };
  // `site` keys the masks of dropout.
  Adapter(int64_t in, std::vector<Part> parts, float dropout, uint64_t site);

  int64_t in() const { return in_; }
  int64_t rank() const { return rank_; }  // of all parts
  Param& a() { return a_; }               // [rank, in]
  const Param& a() const { return a_; }
  std::vector<Part>& parts() { return parts_; }
  const std::vector<Part>& parts() const { return parts_; }

  // All that follows is for y and dy of the map's outputs from `first` on alone.
  // y += what it adds for x [R, in].
  void forward(const ExecutionContext&, const kernels::Operand& x, MatrixView<float> y,
               int64_t first) const;
  // Adds to the gradients of A and B.
  void backward_weight(const ExecutionContext&, const kernels::Operand& x,
                       const kernels::Operand& dy, int64_t first) const;
  // dx [R, in] += its share.
  void backward_input(const ExecutionContext&, const kernels::Operand& dy, MatrixView<float> dx,
                      int64_t first) const;

 private:
  bool drops(const ExecutionContext& ctx) const { return dropout_ > 0 && !ctx.row_ids.empty(); }
  // x with dropout, in scratch if there is any.
  kernels::Operand dropped(const ExecutionContext&, const kernels::Operand& x) const;
  void apply_dropout(const ExecutionContext&, MatrixView<float> x) const;
  // f(part, outputs of it within, where they are in y, how many) for the parts of such outputs.
  template <class F>
  void each_within(int64_t first, int64_t count, F&& f) const;
  // [R, rank]: s x Aᵀ, and dL/d(x Aᵀ).
  Tensor inner(const ExecutionContext&, const kernels::Operand& x) const;
  Tensor inner_gradient(const ExecutionContext&, const kernels::Operand& dy, int64_t first) const;
  void scale(Tensor u) const;

  int64_t in_, rank_ = 0;
  Param a_;
  std::vector<Part> parts_;
  float dropout_;
  uint64_t site_;
};

class AdapterSet {
 public:
  // Of the parameter of this index (Param::index), which has none yet.
  Adapter& add(int32_t index, int64_t in, std::vector<Adapter::Part> parts, float dropout);
  // Null if it has none.
  const Adapter* of(const Param& w) const {
    const auto i = static_cast<size_t>(w.index);
    return w.index >= 0 && i < adapters_.size() ? adapters_[i].get() : nullptr;
  }
  // f(part) of all, in the order of parameters.
  template <class F>
  void each_part(F&& f) const {
    for (const auto& adapter : adapters_)
      if (adapter)
        for (const Adapter::Part& part : adapter->parts()) f(part);
  }

 private:
  std::vector<std::unique_ptr<Adapter>> adapters_;  // by parameter
};

}  // namespace refrain

#include "refrain/model/embedding.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/elementwise/embedding.h"
#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/layers/dropout.h"

namespace refrain {
namespace {

constexpr uint64_t kDropoutSite = 0;  // blocks have those from 1 on

}  // namespace

void Embedding::visit(const ParamVisitor& v) {
  v({"embedding.weight",
     {vocab_size_, width_},
     Init::embedding(),
     false,
     {},
     tied_ ? ReadBy::kProducts : ReadBy::kEither},
    table_);
  if (positions_ > 0)
    v({"position_embedding.weight", {positions_, width_}, Init::embedding(), false},
      position_table_);
}

void Embedding::forward(const ExecutionContext& ctx, const RaggedBatch& batch,
                        std::span<const int32_t> tokens, Tensor x) const {
  if (positions_ > 0)
    for (const int32_t position : batch.position)
      if (position >= positions_)
        throw_error(
            "context: expected sequences of at most {} tokens, because positions are learned, "
            "found "
            "a token behind {} others",
            positions_, position);
  if (!ctx.planning()) {
    if (table_.packed)
      kernels::unpack_rows(table_.packed, tokens, x);
    else
      kernels::embedding_forward(tokens, table_.w, x);
  }
  if (positions_ > 0) {
    const Arena::Frame frame(ctx.scratch);
    const Tensor p = ctx.scratch.take({x.rows(), width_});
    if (!ctx.planning()) {
      kernels::embedding_forward(batch.position, position_table_.w, p);
      kernels::add(x, p, x);
    }
  }
  apply_dropout(ctx, batch, x, kDropoutSite);
}

void Embedding::backward(const ExecutionContext& ctx, const RaggedBatch& batch,
                         std::span<const int32_t> tokens, Tensor d) {
  apply_dropout(ctx, batch, d, kDropoutSite);
  if (ctx.planning()) return;
  kernels::embedding_backward(tokens, d, lookup_gradient());
  if (positions_ > 0) kernels::embedding_backward(batch.position, d, position_table_.g);
}

size_t Embedding::gradient_bytes() const {
  return has_own_gradient() ? static_cast<size_t>(table_.w.size()) * sizeof(float) : 0;
}

void Embedding::allocate_gradient() {
  lookup_gradient_ = Buffer<float>(gradient_bytes() / sizeof(float));
}

Tensor Embedding::lookup_gradient() {
  return has_own_gradient() ? Tensor(lookup_gradient_.data(), {vocab_size_, width_}) : table_.g;
}

void Embedding::clear_gradient() {
  parallel_ranges(static_cast<int64_t>(lookup_gradient_.size()), 1 << 18,
                  [&](int64_t begin, int64_t end) {
                    std::fill(lookup_gradient_.data() + begin, lookup_gradient_.data() + end, 0.0f);
                  });
}

void Embedding::finish_gradients() {
  if (has_own_gradient()) kernels::add(table_.g, lookup_gradient(), table_.g);
}

}  // namespace refrain

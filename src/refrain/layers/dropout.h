// Dropout at a place of the model, its site. The mask is a function of the step's key, the site,
// the row's identity and the column. So it does not depend on the micro-batch, the threads or
// recomputation.
#pragma once
#include "refrain/base/random.h"
#include "refrain/kernels/elementwise/dropout.h"
#include "refrain/layers/execution_context.h"

namespace refrain {

// Of the masks at a site, in this step.
inline uint64_t dropout_key(const ExecutionContext& ctx, uint64_t site) {
  return mix_key(ctx.dropout.key, "dropout site", site);
}

// x [R, D] in place; the same call computes the gradient.
inline void apply_dropout(const ExecutionContext& ctx, const RaggedBatch& w, Tensor x,
                          uint64_t site) {
  if (ctx.dropout.rate > 0 && !ctx.planning())
    kernels::dropout_apply(x, ctx.dropout.rate, dropout_key(ctx, site), w.row_id);
}

}  // namespace refrain

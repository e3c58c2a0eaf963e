// Softmax over the vocabulary and its cross entropy with one target per row, in nats:
//
//   nll = log sum_j exp(x_j) - x_target          p = exp(x - max) / sum_j exp(x_j - max)
//
// logits: [R, V]; a row's results depend on that row alone. Rows whose target is kIgnored have no
// loss and no gradient. NaN or +infinity in a row makes its loss NaN; -infinity is
// a class without probability.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/tensor.h"

namespace refrain::kernels {

inline constexpr int32_t kIgnored = -1;

// losses [R] = nll, for evaluation.
void cross_entropy_forward(ConstTensor logits, std::span<const int32_t> targets, Tensor losses);

// Training. With smoothing s the target distribution is (1 - s) onehot + s / V:
//
//   losses [R] = (1 - s) nll + s mean_j(-log p_j)      the optimised loss, not scaled
//   logits     = scale (p - (1 - s) onehot - s / V)    the gradient of scale * loss
//
// Both are 0 where the target is ignored. scale is 1 / number of supervised tokens in the whole
// optimiser batch.
void softmax_cross_entropy(Tensor logits, std::span<const int32_t> targets, float scale,
                           float label_smoothing, Tensor losses);

// Each row becomes softmax(row / temperature), temperature > 0.
void softmax_rows(Tensor logits, float temperature);

// Each row becomes log p.
void log_softmax_rows(Tensor logits);

// The largest of some logits and its place, the first where there are several.
struct LargestLogit {
  float value;  // -infinity if there is none
  int64_t index;
  bool all_numbers;  // false where NaN or +infinity is among them; the others then mean nothing
};
LargestLogit largest_logit(std::span<const float> logits);

// sum of e^(x - top), in the order of its `logits` for any number of threads.
double exp_sum(std::span<const float> logits, float top);

}  // namespace refrain::kernels

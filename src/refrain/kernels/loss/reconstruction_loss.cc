#include "refrain/kernels/loss/reconstruction_loss.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/parallel.h"

namespace refrain::kernels {
namespace {

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

double inverse(double length) { return length > 0 ? 1 / length : 0; }

}  // namespace

void reconstruction_loss(ReconstructionLoss kind, ConstTensor y, ConstTensor x, Tensor losses,
                         Tensor cosines, const ReconstructionGradient& gradient) {
  const int64_t E = y.cols(), kGrain = 64;
  const double mean = 1 / static_cast<double>(E);
  const auto one_row = [&](int64_t r) {
    const float *y_row = y.row(r), *x_row = x.row(r);
    const double to_unit_y = inverse(std::sqrt(dot(y_row, y_row, E)));
    const double to_unit_x = inverse(std::sqrt(dot(x_row, x_row, E)));
    const double cosine = dot(y_row, x_row, E) * to_unit_y * to_unit_x;
    const bool by_cosine = kind == ReconstructionLoss::kCosine;
    const double to_target = by_cosine ? to_unit_x : 1;
    double distance = 0;
    for (int64_t i = 0; i < E; ++i) {
      const double apart =
          static_cast<double>(y_row[i]) - to_target * static_cast<double>(x_row[i]);
      distance += apart * apart;
    }
    distance *= mean;
    cosines.data[r] = static_cast<float>(cosine);
    losses.data[r] = static_cast<float>(
        by_cosine ? kCosineShare * (1 - cosine) + kDistanceShare * distance : distance);
    if (!gradient.dy) return;
    // dcos/dy = x/(|x||y|) - cos y/|y|²
    const double of_x = by_cosine ? -kCosineShare * to_unit_x * to_unit_y : 0;
    const double of_y = by_cosine ? kCosineShare * cosine * to_unit_y * to_unit_y : 0;
    const double of_apart = 2 * mean * (by_cosine ? kDistanceShare : 1);
    for (int64_t i = 0; i < E; ++i) {
      const auto yi = static_cast<double>(y_row[i]), xi = static_cast<double>(x_row[i]);
      gradient.dy.row(r)[i] =
          static_cast<float>(static_cast<double>(gradient.scale) *
                             (of_x * xi + of_y * yi + of_apart * (yi - to_target * xi)));
    }
  };
  parallel_for((y.rows() + kGrain - 1) / kGrain,
               [&](int64_t part) {
                 const int64_t end = std::min(y.rows(), (part + 1) * kGrain);
                 for (int64_t r = part * kGrain; r < end; ++r) one_row(r);
               },
               12 * y.size());
}

}  // namespace refrain::kernels

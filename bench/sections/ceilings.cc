// What the machine can do at most, in this run and with these threads.
#include <cmath>
#include <cstring>

#include "bench/sections/sections.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/format_int16.h"
#include "refrain/kernels/peak.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {
namespace {

constexpr const char* kSection = "ceilings";

double multiply_adds(const Setup& setup, Report& report) {
  constexpr int64_t kSteps = 1 << 21;  // some milliseconds of every thread
  std::vector<double> sums(static_cast<size_t>(threads()));
  std::vector<int64_t> operations(sums.size());
  const Timing timing = time_of(setup.repetitions, [&] {
    parallel_for(threads(), [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      operations[at] = kernels::multiply_add_chains(kSteps, 0.5f, 1, sums[at]);
    });
  });
  float planted = 1;  // a factor of what the lanes hold
  setup.planted.in_output({&planted, 1});
  double total = 0;
  Check check;
  for (size_t i = 0; i < sums.size(); ++i) {
    const auto done = static_cast<double>(operations[i]);
    const double lanes = done / (2 * kSteps);
    check.near("sum of the lanes", sums[i] * static_cast<double>(planted), 2 * lanes, 1e-5 * lanes);
    total += done;
  }
  Row row{.section = kSection, .name = "multiply-adds", .shape = "in registers", .timing = timing};
  row.rate = total / timing.median / 1e9;
  row.unit = "GFLOP/s";
  report.add(row, check);
  return check.passed() ? total / timing.median : 0;
}

// Numbers that 16-bit integers with shared scales hold: multiples of 1 / largest, a 1 among each
// reduction group of a row's K.
void to_int16_grid(std::span<float> values, int64_t K) {
  constexpr auto kLargest = static_cast<float>(kernels::int16_largest(kernels::kInt16Features));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<int64_t>(i) % K % kernels::kInt16Features == 0
                    ? 1.0f
                    : std::round(values[i] * kLargest) / kLargest;
}

struct ProductShape {
  int64_t M, N, K;
};

double product(const Setup& setup, Report& report, const ProductShape& shape,
               kernels::ComputeType compute_type, double most) {
  const auto& [M, N, K] = shape;
  Buffer<float> x = uniform(M * K, 1), w = uniform(N * K, 2);
  const bool exact = compute_type == kernels::ComputeType::kFloat32;
  if (compute_type ==
      kernels::ComputeType::kBf16) {  // so that what is multiplied is what is checked
    kernels::round_to_bf16({x.data(), {M * K}});
    kernels::round_to_bf16({w.data(), {N * K}});
  }
  if (compute_type == kernels::ComputeType::kInt16) {
    for (Buffer<float>* operand : {&x, &w}) to_int16_grid(operand->span(), K);
  }
  Buffer<float> y(static_cast<size_t>(M * N));
  const ConstTensor tx(x.data(), {M, K}), tw(w.data(), {N, K});
  const Tensor ty(y.data(), {M, N});
  Workspace workspace;
  const Work work = [&] {
    workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
      kernels::linear_forward(tx, tw, ty, ctx.scratch, nullptr, {compute_type});
    });
  };
  Row row{.section = kSection,
          .name = "product" + in_compute_type(compute_type),
          .shape = fmt::format("{} x {} x {}", M, N, K)};
  Check check;
  work();
  setup.planted.in_output(ty);
  check_product(check, tx, MatrixView<const float>(tw).transposed(), ty);
  double rate = 0;
  if (check.passed()) {
    row.timing = time_of(setup.repetitions, work);
    rate = 2 * static_cast<double>(M * N) * static_cast<double>(K) / row.timing.median;
    row.rate = rate / 1e9;
    row.unit = "GFLOP/s";
    if (exact) row.ceiling = most / 1e9;
  }
  report.add(row, check);
  return rate;
}

// f(begin, end) over all elements, a few parts for every thread.
template <class F>
Timing streamed(const Setup& setup, F&& f) {
  const int64_t n = setup.stream_floats;
  const int64_t grain = std::max<int64_t>(1, n / (8 * threads()));
  return time_of(setup.repetitions, [&] { parallel_ranges(n, grain, f); });
}

double streaming(const Setup& setup, Report& report) {
  const int64_t n = setup.stream_floats;
  const Buffer<float> b = uniform(n, 1), c = uniform(n, 2);
  Buffer<float> a(static_cast<size_t>(n));
  double most = 0;
  const auto add = [&](const char* name, const Timing& timing, int64_t arrays, auto&& want) {
    const double rate = 4 * static_cast<double>(n * arrays) / timing.median;
    setup.planted.in_output(a.span());
    Check check;
    sample(n, 100, [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      check.near(fmt::format("element {}", i), static_cast<double>(a[at]),
                 static_cast<double>(want(at)), 1e-6);
    });
    Row row{.section = kSection,
            .name = name,
            .shape = fmt::format("{} x {:.0f} MiB", arrays,
                                 mebibytes(static_cast<size_t>(n) * sizeof(float))),
            .timing = timing};
    row.rate = rate / 1e9;
    row.unit = "GB/s";
    report.add(row, check);
    if (check.passed()) most = std::max(most, rate);
  };
  const float* from = b.data();
  const float* plus = c.data();
  float* to = a.data();
  add("copy",
      streamed(setup,
               [&](int64_t begin, int64_t end) {
                 std::memcpy(to + begin, from + begin,
                             static_cast<size_t>(end - begin) * sizeof(float));
               }),
      2, [&](size_t i) { return b[i]; });
  add("triad",
      streamed(setup,
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) to[i] = from[i] + 0.5f * plus[i];
               }),
      3, [&](size_t i) { return b[i] + 0.5f * c[i]; });
  return most;
}

}  // namespace

Ceilings measure_ceilings(const Setup& setup, Report& report) {
  Ceilings ceilings;
  ceilings.multiply_adds = multiply_adds(setup, report);
  const int64_t n = setup.product_size, half = std::max<int64_t>(1, n / 2);
  for (const ProductShape& shape :
       {ProductShape{n, n, n}, ProductShape{2 * n, n, half}, ProductShape{2 * n, half, n}})
    for (const kernels::ComputeType compute_type : kComputeTypes) {
      double& best = ceilings.product(compute_type);
      best = std::max(best, product(setup, report, shape, compute_type, ceilings.multiply_adds));
    }
  ceilings.streaming = streaming(setup, report);
  report.end_section();
  return ceilings;
}

}  // namespace refrain::bench

// The three products of a linear map beside oneDNN's sgemm, in one run, interleaved:
//
//   OMP_NUM_THREADS=2 build/dev/bench_gemm 2 [repetitions] [plant=weights]
//
// prints GFLOP/s (median) of both and their ratio, and of the same product in 16-bit integers, as a
// Markdown table. A product that differs from oneDNN's by more than float32 sums in another order,
// or the rounding of its operands, may is not timed.
#include "refrain/kernels/matmul/gemm.h"

#include <dnnl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "refrain/base/arena.h"
#include "refrain/base/buffer.h"
#include "refrain/base/random.h"
#include "refrain/base/thread_pool.h"
#include "support.h"

namespace {

using namespace refrain;
constexpr auto kFloat32 = kernels::ComputeType::kFloat32, kInt16 = kernels::ComputeType::kInt16;

// Of the second of two calls. Before the first, threads of the other engine get time to stop
// looking for work.
double seconds(const std::function<void()>& f) {
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  f();
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<long>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

Buffer<float> normal(int64_t n, uint64_t key) {
  Buffer<float> b(static_cast<size_t>(n));
  Random random(key);
  for (float& v : b.span()) v = static_cast<float>(random.normal());
  return b;
}

struct Row {
  std::string name;
  int64_t M, N, K;  // of the product
  std::function<void(kernels::ComputeType)> ours;
  std::function<void()> theirs;
  float* ours_out;
  const float* theirs_out;
  bool plant;  // an error, to see it refused
};

bool agree(const Row& row, kernels::ComputeType compute_type, double allowed) {
  row.ours(compute_type);
  row.theirs();
  if (row.plant)
    for (int64_t i = 0; i < row.M * row.N; ++i) row.ours_out[i] *= 1.02f;
  double worst = 0;
  for (int64_t i = 0; i < row.M * row.N; ++i)
    worst = std::max(worst, std::abs(static_cast<double>(row.ours_out[i]) -
                                     static_cast<double>(row.theirs_out[i])));
  if (worst > allowed) std::printf("%s: differs by %g, refused\n", row.name.c_str(), worst);
  return worst <= allowed;
}

bool measure(const Row& row, int repetitions) {
  // Sums of K products of normal numbers: about sqrt(K) large, sqrt(K) roundings of that size. A
  // weight gradient adds to what the calls before left, the same for both.
  const auto K = static_cast<double>(row.K);
  if (!agree(row, kFloat32, 4e-7 * K + 1e-6) || !agree(row, kInt16, 1e-2 * std::sqrt(K)))
    return false;
  std::vector<double> a, b, c;
  for (int i = 0; i < repetitions; ++i) {
    a.push_back(seconds([&] { row.ours(kFloat32); }));
    b.push_back(seconds(row.theirs));
    c.push_back(seconds([&] { row.ours(kInt16); }));
  }
  const double work =
      2e-9 * static_cast<double>(row.M) * static_cast<double>(row.N) * static_cast<double>(row.K);
  std::printf("| %-8s | %5ld | %5ld | %5ld | %6.0f | %6.0f | %5.2f | %5.0f |\n", row.name.c_str(),
              row.M, row.N, row.K, work / median(a), work / median(b), median(b) / median(a),
              work / median(c));
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const bool plant = !bench::take_plant(argc, argv).empty();
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 15;
  ThreadPool pool(threads);
  const ThreadPool::Scope scope(pool);
  Buffer<std::byte> memory(size_t{8} << 20);
  Arena scratch(memory.data(), memory.size());
  bool all = true;
  std::printf("| product  |     M |     N |     K |   ours | oneDNN | ratio | int16 |\n");
  std::printf("|----------|------:|------:|------:|-------:|-------:|------:|------:|\n");
  struct Shape {
    int64_t R, out, in;
  };
  for (const auto& [R, out, in] : {Shape{768, 384, 128},
                                   {768, 688, 128},
                                   {768, 128, 344},
                                   {4096, 1152, 384},
                                   {4096, 2048, 384},
                                   {4096, 384, 1024},
                                   {4096, 2304, 768},
                                   {4096, 768, 2048},
                                   {1024, 8192, 768}}) {
    const Buffer<float> x = normal(R * in, 1), w = normal(out * in, 2), dy = normal(R * out, 3);
    Buffer<float> y(static_cast<size_t>(R * out)), dx(static_cast<size_t>(R * in)),
        dw(static_cast<size_t>(out * in)), y2(y.size()), dx2(dx.size()), dw2(dw.size());
    const ConstTensor tx(x.data(), {R, in}), tw(w.data(), {out, in}), tdy(dy.data(), {R, out});
    const Tensor ty(y.data(), {R, out}), tdx(dx.data(), {R, in}), tdw(dw.data(), {out, in});
    const auto sgemm = [](char ta, char tb, int64_t M, int64_t N, int64_t K, const float* a,
                          int64_t lda, const float* b, int64_t ldb, float beta, float* c) {
      dnnl_sgemm(ta, tb, M, N, K, 1.0f, a, lda, b, ldb, beta, c, N);
    };
    const Shape s{R, out, in};
    const int32_t chunk[] = {0, static_cast<int32_t>(R)};
    all &= measure(
        {"x Wt", R, out, in,
         [&](auto p) { kernels::linear_forward(tx, tw, ty, scratch, nullptr, {p}); },
         [&] { sgemm('N', 'T', s.R, s.out, s.in, x.data(), s.in, w.data(), s.in, 0, y2.data()); },
         y.data(), y2.data(), plant},
        repetitions);
    all &= measure({"dY W", R, in, out,
                    [&](auto p) { kernels::linear_backward_input(tdy, tw, tdx, scratch, {p}); },
                    [&] {
                      sgemm('N', 'N', s.R, s.in, s.out, dy.data(), s.out, w.data(), s.in, 0,
                            dx2.data());
                    },
                    dx.data(), dx2.data(), plant},
                   repetitions);
    all &= measure({"+= dYt X", out, in, R,
                    [&](auto p) {
                      kernels::linear_backward_weight(tdy, tx, tdw, scratch, {p, chunk});
                    },
                    [&] {
                      sgemm('T', 'N', s.out, s.in, s.R, dy.data(), s.out, x.data(), s.in, 1,
                            dw2.data());
                    },
                    dw.data(), dw2.data(), plant},
                   repetitions);
  }
  return all ? 0 : 1;
}

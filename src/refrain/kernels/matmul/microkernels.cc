// The kernels of format_bf16.h, and which of them this machine can run. They are compiled for their
// instructions function by function; nothing else of the program needs them.
#include <algorithm>
#include <array>
#include <bit>

#include "refrain/kernels/isa.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/format_bf16_ref.h"
#include "refrain/kernels/matmul/gemm.h"

#if defined(__x86_64__) && defined(__linux__)
#define REFRAIN_MICROKERNELS 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace refrain::kernels {
namespace {

#ifdef REFRAIN_MICROKERNELS

// Tiles 0-3: C by quarters; 4, 5: the halves of A; 6, 7: of B. All have 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

__attribute__((target("amx-tile"))) void amx_begin() {
  static const TileConfig config;
  _tile_loadconfig(&config);
}
__attribute__((target("amx-tile"))) void amx_end() { _tile_release(); }

__attribute__((target("amx-tile,amx-bf16"))) void amx_block(const float* a, const float* b,
                                                            int64_t groups, float* c, int64_t c_row,
                                                            bool add) {
  const auto step = static_cast<size_t>(c_row) * sizeof(float);
  if (add) {
    _tile_loadd(0, c, step);
    _tile_loadd(1, c + 16, step);
    _tile_loadd(2, c + 16 * c_row, step);
    _tile_loadd(3, c + 16 * c_row + 16, step);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t g = 0; g < groups; ++g, a += kGroupPairs, b += kGroupPairs) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kGroupPairs / 2, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + kGroupPairs / 2, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, step);
  _tile_stored(1, c + 16, step);
  _tile_stored(2, c + 16 * c_row, step);
  _tile_stored(3, c + 16 * c_row + 16, step);
}

// by_columns: of Microkernel::block_of_columns. kRowsOfC: of Microkernel::strip.
template <bool by_columns, int64_t kRowsOfC = kBf16Block>
__attribute__((target("avx512f,avx512bf16"))) void avx512_block(const float* a, const float* b,
                                                                int64_t groups, float* c,
                                                                int64_t c_row, bool add) {
  constexpr int kRows = 8, kRowStep = by_columns ? 1 : 16, kPairStep = by_columns ? 16 : 1;
  // What likely comes next is fetched ahead: L2 answers too late for the multipliers. The last rows
  // fetch the panel behind b, all fetch the C that follows theirs, below or in the next columns.
  const float* const next = b + groups * kGroupPairs;
  for (int64_t i = 0; i < kRowsOfC; i += kRows, c += kRows * c_row) {
    const float* const first = a + i / 16 * (kGroupPairs / 2) + i % 16 * kRowStep;
    __m512 left[kRows], right[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      left[m] = add ? _mm512_loadu_ps(c + m * c_row) : _mm512_setzero_ps();
      right[m] = add ? _mm512_loadu_ps(c + m * c_row + 16) : _mm512_setzero_ps();
    }
    const bool last = i + kRows == kRowsOfC;
    const float* after = last ? c - i * c_row + kBf16Block : c + kRows * c_row;
    for (int m = 0; m < kRows; ++m, after += c_row) {
      _mm_prefetch(after, _MM_HINT_T0);
      _mm_prefetch(after + 16, _MM_HINT_T0);
    }
    for (int64_t g = 0; g < groups; ++g) {
      const float *rows = first + g * kGroupPairs, *columns = b + g * kGroupPairs;
      for (int64_t p = 0; p < 16; ++p) {
        if (last) {
          const float* line = next + g * kGroupPairs + p * 16;
          _mm_prefetch(line, _MM_HINT_T0);
          _mm_prefetch(line + kGroupPairs / 2, _MM_HINT_T0);
        }
        const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_ps(columns + p * 16));
        const auto b1 =
            reinterpret_cast<__m512bh>(_mm512_loadu_ps(columns + kGroupPairs / 2 + p * 16));
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          const auto pair =
              reinterpret_cast<__m512bh>(_mm512_set1_ps(rows[m * kRowStep + p * kPairStep]));
          left[m] = _mm512_dpbf16_ps(left[m], pair, b0);
          right[m] = _mm512_dpbf16_ps(right[m], pair, b1);
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      _mm512_storeu_ps(c + m * c_row, left[m]);
      _mm512_storeu_ps(c + m * c_row + 16, right[m]);
    }
  }
}

// B comes from far: it is read in the order in which it lies, or prefetchers do not follow.
template <int M>
__attribute__((target("avx512f,avx512bf16"))) void avx512_rows_of(const float* a, const float* b,
                                                                  int64_t groups, float* c,
                                                                  bool add) {
  __m512 sums[2][M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    sums[0][m] = add ? _mm512_loadu_ps(c + m * kBf16Block) : _mm512_setzero_ps();
    sums[1][m] = add ? _mm512_loadu_ps(c + m * kBf16Block + 16) : _mm512_setzero_ps();
  }
  for (int64_t g = 0; g < groups; ++g)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
      for (int64_t p = 0; p < 16; ++p, b += 16) {
        const auto columns = reinterpret_cast<__m512bh>(_mm512_loadu_ps(b));
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const auto pair =
              reinterpret_cast<__m512bh>(_mm512_set1_ps(a[(m * groups + g) * 16 + p]));
          sums[half][m] = _mm512_dpbf16_ps(sums[half][m], pair, columns);
        }
      }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    _mm512_storeu_ps(c + m * kBf16Block, sums[0][m]);
    _mm512_storeu_ps(c + m * kBf16Block + 16, sums[1][m]);
  }
}
template <int M = kMostRowsAtOnce>
void avx512_rows(const float* a, int64_t rows, const float* b, int64_t groups, float* c, bool add) {
  if (rows == M) return avx512_rows_of<M>(a, b, groups, c, add);
  if constexpr (M > 1) avx512_rows<M - 1>(a, rows, b, groups, c, add);
}

bool has_avx512_bf16() {
  uint32_t a, b, c, d;
  return __builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
         (a & 1u << 5);
}

// The processor has tiles, and the system lets this process use them.
bool has_amx() {
  uint32_t a, b, c, d;
  constexpr uint32_t kBf16 = 1u << 22, kTile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || (d & kTile) == 0)
    return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Small whole numbers: every sum is exact, whatever its order.
bool sums_are_right(const Microkernel& kernel) {
  constexpr int64_t kGroups = 2;
  alignas(64) float a[kGroups * kGroupPairs], b[kGroups * kGroupPairs];
  alignas(64) float got[kBf16Block * kBf16Block], want[kBf16Block * kBf16Block];
  const auto pair = [](int64_t i) {
    const auto half = [](int64_t n) {
      return uint32_t{BFloat16::of(static_cast<float>(n % 13 - 6)).bits};
    };
    return std::bit_cast<float>(half(7 * i) | half(5 * i + 3) << 16);
  };
  for (int64_t i = 0; i < kGroups * kGroupPairs; ++i) a[i] = pair(i), b[i] = pair(3 * i + 1);
  std::fill(got, got + kBf16Block * kBf16Block, 2.0f);
  std::fill(want, want + kBf16Block * kBf16Block, 2.0f);
  if (kernel.begin) kernel.begin();
  kernel.block(a, b, kGroups, got, kBf16Block, true);
  if (kernel.end) kernel.end();
  bf16_block_ref(a, b, kGroups, want, kBf16Block, true);
  return std::equal(got, got + kBf16Block * kBf16Block, want);
}

#endif

struct Found {
  std::array<Microkernel, 2> kernels{};
  size_t count = 0;

  Found() {
#ifdef REFRAIN_MICROKERNELS
    const Microkernel amx{"AMX", amx_block, amx_begin, amx_end};
    const Microkernel avx512{"AVX512-BF16", avx512_block<false>, nullptr,
                             nullptr,       avx512_block<true>,  avx512_block<false, kStripRows>,
                             avx512_rows<>};
    const Isa limit = isa_limit();
    if (limit >= Isa::kAmx && has_amx() && sums_are_right(amx)) kernels[count++] = amx;
    if (limit >= Isa::kAvx512Bf16 && has_avx512_bf16() && sums_are_right(avx512))
      kernels[count++] = avx512;
#endif
  }
};

}  // namespace

std::span<const Microkernel> microkernels() {
  static const Found found;
  return {found.kernels.data(), found.count};
}

const Microkernel* microkernel() {
  const auto all = microkernels();
  return all.empty() ? nullptr : &all.front();
}

bool has_bf16_units() { return microkernel() != nullptr; }

}  // namespace refrain::kernels

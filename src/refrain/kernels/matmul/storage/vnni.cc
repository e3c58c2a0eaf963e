// The panel of quantised.h on AVX512-VNNI, which multiplies 64 pairs of bytes, one with and one
// without a sign, and adds them up by fours.
#include "refrain/kernels/isa.h"
#include "refrain/kernels/matmul/storage/quantised.h"

#if defined(__x86_64__) && defined(__linux__)
#define REFRAIN_VNNI 1
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
// Some of GCC's intrinsics name an undefined vector that they do not read.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif

namespace refrain::kernels {

#ifdef REFRAIN_VNNI
namespace {

#define REFRAIN_TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

// Four of a row's q, in every lane.
REFRAIN_TARGET_VNNI inline __m512i quad(const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, sizeof(four));
  return _mm512_set1_epi32(four);
}
REFRAIN_TARGET_VNNI inline __m512 halves(const std::byte* from) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
}

template <Storage type, int M>
REFRAIN_TARGET_VNNI void rows_by_panel(const QuantisedRows& x, int64_t first, const std::byte* w,
                                       float* y) {
  constexpr bool kQ4 = type == Storage::kQ4;
  constexpr size_t kGroup = group_bytes(type);
  __m512 left[M], right[M];
  const int8_t* q[M];
  int64_t at[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    left[m] = right[m] = _mm512_setzero_ps();
    at[m] = (first + m) * x.groups;
    q[m] = x.q + at[m] * kWeightGroup;
  }
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t g = 0; g < x.groups; ++g, w += kGroup) {
    __m512i a[M], b[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
      a[m] = b[m] = kQ4 ? _mm512_setzero_si512() : _mm512_set1_epi32(x.offset[at[m] + g]);
    const auto* v = reinterpret_cast<const __m512i*>(w + (kQ4 ? 4 : 2) * kWeightPanel);
    if constexpr (kQ4) {
      for (int j = 0; j < 4; ++j) {
        const __m512i both0 = _mm512_load_si512(v + 2 * j);
        const __m512i both1 = _mm512_load_si512(v + 2 * j + 1);
        const __m512i low0 = _mm512_and_si512(both0, low), low1 = _mm512_and_si512(both1, low);
        const __m512i high0 = _mm512_and_si512(_mm512_srli_epi16(both0, 4), low);
        const __m512i high1 = _mm512_and_si512(_mm512_srli_epi16(both1, 4), low);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const __m512i x_low = quad(q[m] + 4 * j), x_high = quad(q[m] + 16 + 4 * j);
          a[m] = _mm512_dpbusd_epi32(a[m], low0, x_low);
          b[m] = _mm512_dpbusd_epi32(b[m], low1, x_low);
          a[m] = _mm512_dpbusd_epi32(a[m], high0, x_high);
          b[m] = _mm512_dpbusd_epi32(b[m], high1, x_high);
        }
      }
    } else {
      for (int j = 0; j < 8; ++j) {
        const __m512i w0 = _mm512_load_si512(v + 2 * j), w1 = _mm512_load_si512(v + 2 * j + 1);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const __m512i four = quad(q[m] + 4 * j);
          a[m] = _mm512_dpbusd_epi32(a[m], w0, four);
          b[m] = _mm512_dpbusd_epi32(b[m], w1, four);
        }
      }
    }
    const __m512 d0 = halves(w), d1 = halves(w + 32);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m512 s = _mm512_set1_ps(x.s[at[m] + g]);
      left[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a[m]), _mm512_mul_ps(d0, s), left[m]);
      right[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(b[m]), _mm512_mul_ps(d1, s), right[m]);
      if constexpr (kQ4) {
        const __m512 sum = _mm512_set1_ps(x.sum[at[m] + g]);
        left[m] = _mm512_fmadd_ps(halves(w + 64), sum, left[m]);
        right[m] = _mm512_fmadd_ps(halves(w + 96), sum, right[m]);
      }
      q[m] += kWeightGroup;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    _mm512_storeu_ps(y + m * kWeightPanel, left[m]);
    _mm512_storeu_ps(y + m * kWeightPanel + 16, right[m]);
  }
}

template <Storage type, int M = kMostRows>
void rows_of(const QuantisedRows& x, RowRange rows, const std::byte* w, float* y) {
  if (rows.count == M) return rows_by_panel<type, M>(x, rows.first, w, y);
  if constexpr (M > 1) rows_of<type, M - 1>(x, rows, w, y);
}

void panel(const QuantisedRows& x, RowRange rows, PackedWeights w, float* y) {
  if (w.type == Storage::kQ4)
    rows_of<Storage::kQ4>(x, rows, w.data, y);
  else
    rows_of<Storage::kQ8_0>(x, rows, w.data, y);
}

bool has_vnni() {
  return isa_limit() >= Isa::kAvx512Vnni && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace

QuantisedPanel* vnni_panel() {
  static QuantisedPanel* const found = has_vnni() ? panel : nullptr;
  return found;
}

#else

QuantisedPanel* vnni_panel() { return nullptr; }

#endif

}  // namespace refrain::kernels

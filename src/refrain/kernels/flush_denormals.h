// Denormal numbers, on which processors are a hundred times slower.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace refrain::kernels {

// While one of these lives they are zero on this thread, as operands and as results.
class FlushDenormals {
 public:
  FlushDenormals() { set_control(control_ | kFlush); }
  ~FlushDenormals() { set_control(control_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  using Control = unsigned;                  // MXCSR
  static constexpr Control kFlush = 0x8040;  // FTZ, DAZ
  static Control control() { return _mm_getcsr(); }
  static void set_control(Control to) { _mm_setcsr(to); }
#elif defined(__aarch64__)
  using Control = uint64_t;                   // FPCR
  static constexpr Control kFlush = 1 << 24;  // FZ
  static Control control() {
    Control now;
    asm volatile("mrs %0, fpcr" : "=r"(now));
    return now;
  }
  static void set_control(Control to) { asm volatile("msr fpcr, %0" : : "r"(to) : "memory"); }
#else  // slower, and as right
  using Control = unsigned;
  static constexpr Control kFlush = 0;
  static Control control() { return 0; }
  static void set_control(Control) {}
#endif

  const Control control_ = control();
};

}  // namespace refrain::kernels

// What reference implementations need to work for float, double and std::complex<double> alike.
// Comparisons look at the real part: the complex step leaves it as it is.
#pragma once
#include <complex>

namespace refrain::kernels {

inline double real_part(double x) { return x; }
inline double real_part(const std::complex<double>& x) { return x.real(); }

// The higher of two scores, whole. A softmax less the whole of its highest score has exactly 1
// there. Less its real part alone, a complex division may leave a rounding of the imaginary part,
// which large keys amplify.
template <class T>
T higher(T a, T b) {
  return real_part(a) < real_part(b) ? b : a;
}

}  // namespace refrain::kernels

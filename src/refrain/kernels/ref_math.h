// What reference implementations need to work for float, double and std::complex<double> alike.
// Comparisons look at the real part: the complex step leaves it as it is.
#pragma once
#include <complex>

namespace refrain::kernels {

inline double real_part(double x) { return x; }
inline double real_part(const std::complex<double>& x) { return x.real(); }

}  // namespace refrain::kernels

// The peak rate of the machine's multiply-add units: chains in registers that touch no memory.
// Benchmarks compare products with it.
#pragma once
#include <cstdint>

namespace refrain::kernels {

// Runs `steps` steps of a = a * factor + addend in every lane of enough vectors to hide the
// latency, on the calling thread. Returns the number of floating-point operations. `sum` gets the
// sum of the lanes, so that the compiler can leave nothing out; lanes start at 1 on average.
int64_t multiply_add_chains(int64_t steps, float factor, float addend, double& sum);

}  // namespace refrain::kernels

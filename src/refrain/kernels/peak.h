// What the machine's multiply-add units can do at most: chains that live in registers and touch no
// memory. Benchmarks hold products against it.
#pragma once
#include <cstdint>

namespace refrain::kernels {

// Takes `steps` steps of a = a * factor + addend in every lane of enough vectors to hide the
// latency of one, on the calling thread, and returns the floating-point operations that were. `sum`
// gets the sum of the lanes, so that nothing of it can be left out; lanes start at 1 on average.
int64_t multiply_add_chains(int64_t steps, float factor, float addend, double& sum);

}  // namespace refrain::kernels

#include "refrain/kernels/peak.h"

#include "support/kernel_testing.h"

namespace refrain {
namespace {

TEST(Peak, CountsTheOperationsItDoes) {
  for_each_target([] {
    double sum = 0;
    const int64_t operations = kernels::multiply_add_chains(10, 0.5f, 1, sum);
    ASSERT_GT(operations, 0);
    // Two operations a step and lane; after n steps a lane that began at 1 holds 2 - 2^-n.
    const double lanes = static_cast<double>(operations) / 20;
    EXPECT_EQ(sum, lanes * (2 - 0x1p-10));
    EXPECT_EQ(kernels::multiply_add_chains(20, 0.5f, 1, sum), 2 * operations);
  });
}

}  // namespace
}  // namespace refrain

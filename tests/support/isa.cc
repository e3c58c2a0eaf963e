// REFRAIN_ISA holds the tests to a lesser instruction set, as it does the program.
#include "refrain/kernels/isa.h"

#include <cstdlib>

namespace {

[[maybe_unused]] const bool limited = [] {
  const char* name = std::getenv("REFRAIN_ISA");
  if (!name) return false;
  // Another name than those that exist ends the tests here.
  refrain::kernels::limit_isa(refrain::kernels::isa_named(name).value());
  return true;
}();

}  // namespace

// What the system knows of this process.
#pragma once
#include <cstddef>

namespace refrain {

size_t peak_memory_bytes();  // largest resident set so far

}  // namespace refrain

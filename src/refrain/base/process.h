// Memory of this process and its machine, as the system reports it.
#pragma once
#include <cstddef>

namespace refrain {

size_t peak_memory_bytes();  // largest resident set so far
size_t resident_bytes();     // resident set now
size_t machine_bytes();      // physical memory

// Makes resident_bytes() a figure that does not grow by itself afterwards: gives back free heap,
// and reads every page of the program and its libraries that may run later.
void settle_memory();

}  // namespace refrain

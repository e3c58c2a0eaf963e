// What the system knows of this process and its machine.
#pragma once
#include <cstddef>

namespace refrain {

size_t peak_memory_bytes();  // largest resident set so far
size_t resident_bytes();     // resident set now
size_t machine_bytes();      // physical memory

// For a figure of resident memory that does not creep afterwards: gives back free heap, and reads
// every page of the program and its libraries that it may come to run.
void settle_memory();

}  // namespace refrain

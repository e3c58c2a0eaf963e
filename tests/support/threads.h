// The threads that the loops of tests run on.
#pragma once

namespace refrain {

// n from now on; 0, and before any call = one a core.
void set_threads(int n);

}  // namespace refrain

// What parallel loops (base/parallel.h) remark.
#pragma once
#include "refrain/base/notes.h"

namespace refrain {

// Where it goes that the system makes fewer threads than were asked for (a limit of processes, of
// memory). Loops run with those there are; the numbers are the same.
void set_parallel_notes(Notes notes);

}  // namespace refrain

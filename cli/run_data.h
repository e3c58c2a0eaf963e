// What a run is trained on. Its fingerprints are kept in the run directory, in data.json, and other
// data under the same name is refused when the run goes on.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "refrain/kernels/matmul/gemm.h"
#include "refrain/train/config.h"
#include "refrain/train/run_directory.h"

namespace refrain::cli {

struct RunData {
  std::string part;  // "train" or "valid"
  std::string name;  // what errors call it
  uint64_t fingerprint = 0;
};

// Keeps them when the run is new; else an Error that names what is other than it was.
void check_run_data(const RunDirectory& directory, bool goes_on, std::span<const RunData> data);

// Keeps in machine.json by which instruction sets it is trained; when that changes, to the bit its
// weights do, which a note says. A run from before it was kept begins the list.
void record_instructions(const RunDirectory&, bool goes_on, kernels::ComputeType);

// "2000" steps, or "30m" where minutes limit the run.
std::string length_text(const TrainConfig&, int64_t total_steps);

// Says where a run begins, and what of its schedule it will not come to.
struct Beginning {
  bool goes_on, resumed;           // resumed: from a checkpoint
  int64_t done, total;             // steps
  std::string max_steps_before{};  // as the run that goes on has recorded it
};
// What the settings of a run say; "" if nothing.
std::string recorded_max_steps(const RunDirectory&);
void note_beginning(const RunDirectory&, const Beginning&, const TrainConfig&);

}  // namespace refrain::cli

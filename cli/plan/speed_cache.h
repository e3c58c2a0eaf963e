// Calibrations of this machine, kept from run to run in the user's cache directory
// ($XDG_CACHE_HOME or ~/.cache, refrain/speed.json).
#pragma once
#include "refrain/train/calibration.h"

namespace refrain::cli {

// That of a model of these widths, from the cache or, when it has none or `again` is set, measured
// now. A cache that cannot be read or written costs time and nothing else.
Calibration machine_speed(const ModelConfig&, const TrainConfig&, bool again);

}  // namespace refrain::cli

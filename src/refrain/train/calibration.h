// How fast this machine works through what a plan counts: measured on a small model of the same
// widths, so that the time of a step can be told without taking one.
#pragma once
#include <cstdint>

#include "refrain/base/setting_map.h"
#include "refrain/model/config.h"
#include "refrain/train/config.h"
#include "refrain/train/plan.h"

namespace refrain {

struct Calibration {
  double seconds_per_operation = 0;  // of Plan::cost
  double seconds_per_parameter = 0;  // of clearing gradients and AdamW
};

// A second or two. The small model has a block of each kind of mixer and few tokens.
Calibration calibrate(const ModelConfig&, const TrainConfig&);

// Of an optimiser step of `tokens` tokens.
double predicted_seconds(const Calibration&, const Plan&, int64_t tokens, int64_t parameters);

}  // namespace refrain

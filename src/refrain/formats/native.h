// Our own config.json, for every model. "model_type" is "refrain", and names are those of
// ModelConfig. Each kind of mixer has an object of its name with its settings. If blocks of one
// kind differ, the object has the settings of the first block, and the pattern has what differs in
// the others.
#pragma once
#include "refrain/formats/family.h"

namespace refrain {

extern const Family kNativeFamily;

}  // namespace refrain

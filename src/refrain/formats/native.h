// Our own config.json, of every model: "model_type" is "refrain", names are those of ModelConfig,
// and the settings of each kind of mixer stand in an object that is named after it. Where blocks of
// one kind differ, the object has those of the first, and the pattern says what others have of
// their own.
#pragma once
#include "refrain/formats/family.h"

namespace refrain {

extern const Family kNativeFamily;

}  // namespace refrain

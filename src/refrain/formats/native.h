// Our own config.json, for every model. "model_type" is "refrain", and names are those of
// ModelConfig. Each kind of mixer has an object of its name with its settings. If blocks of one
// kind differ, the object has the settings of the first block, and the pattern has what differs in
// the others.
#pragma once
#include <string_view>

#include "refrain/formats/family.h"

namespace refrain {

extern const Family kNativeFamily;

// Whether a stack reads this setting of ModelConfig: a bare one has no feed-forward layer and no
// norm, unless a mixer has one, and only some mixers share keys between heads. Others are not
// written.
bool has_setting(const ModelConfig&, std::string_view setting);

}  // namespace refrain

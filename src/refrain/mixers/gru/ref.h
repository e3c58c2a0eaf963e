// The specification that gru.cc is held to, in plain loops.
#pragma once
#include "refrain/mixers/gru/gru.h"
#include "refrain/mixers/recurrent_ref.h"

namespace refrain {

template <class T>
using GruRef = RecurrentMixerRef<GruConfig, T>;

}  // namespace refrain

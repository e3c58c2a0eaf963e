// The specification of gru.cc, in plain loops.
#pragma once
#include "refrain/mixers/gru/gru.h"
#include "refrain/mixers/recurrent_ref.h"

namespace refrain {

template <class T>
using GruRef = RecurrentMixerRef<GruConfig, T>;

}  // namespace refrain

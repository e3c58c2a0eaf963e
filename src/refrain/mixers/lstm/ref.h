// The specification of lstm.cc, in plain loops.
#pragma once
#include "refrain/mixers/lstm/lstm.h"
#include "refrain/mixers/recurrent_ref.h"

namespace refrain {

template <class T>
using LstmRef = RecurrentMixerRef<LstmConfig, T>;

}  // namespace refrain

// The specification of rnn.cc, in plain loops.
#pragma once
#include "refrain/mixers/recurrent_ref.h"
#include "refrain/mixers/rnn/rnn.h"

namespace refrain {

template <class T>
using RnnRef = RecurrentMixerRef<RnnConfig, T>;

}  // namespace refrain

#include "refrain/mixers/rnn/rnn.h"

namespace refrain {

template class RecurrentMixer<RnnConfig>;

}  // namespace refrain

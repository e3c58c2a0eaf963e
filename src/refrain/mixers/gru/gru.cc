#include "refrain/mixers/gru/gru.h"

namespace refrain {

template class RecurrentMixer<GruConfig>;

}  // namespace refrain

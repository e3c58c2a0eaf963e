#include "refrain/mixers/lstm/lstm.h"

namespace refrain {

template class RecurrentMixer<LstmConfig>;

}  // namespace refrain

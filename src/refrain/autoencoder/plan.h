// How training of an autoencoder is cut to fit a budget of memory: into micro-batches, which never
// change a bit of the weights, and windows evaluated at a time. As for language models (plan.h)
// bytes are counted by running the step dry; nothing is computed again.
#pragma once
#include <cstdint>

#include "refrain/autoencoder/curriculum.h"
#include "refrain/autoencoder/word_autoencoder.h"
#include "refrain/train/plan.h"

namespace refrain {

// The model must have its gradients' memory, which is not of `room.process`. With a budget the
// largest micro-batch that fits, or an Error that names the least budget; without one the whole
// batch_size.
Plan plan_reconstruction(const WordAutoencoder&, const TrainConfig&, const Stages&, bool evaluates,
                         const Room& room);

}  // namespace refrain

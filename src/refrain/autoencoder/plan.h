// Plans for the training of an autoencoder within a memory budget: the micro-batch, which never
// changes a bit of the weights, and the number of windows evaluated at a time. Bytes are counted by
// a dry run, as for language models (train/plan.h). Nothing is recomputed.
#pragma once
#include <cstdint>

#include "refrain/autoencoder/curriculum.h"
#include "refrain/autoencoder/word_autoencoder.h"
#include "refrain/train/plan.h"

namespace refrain {

// The model must have the memory of its gradients, which is not part of `room.process`. With a
// budget: the largest micro-batch that fits, or an Error that names the least budget. Without one:
// the whole batch_size.
Plan plan_reconstruction(const WordAutoencoder&, const TrainConfig&, const Stages&, bool evaluates,
                         const Room& room);

}  // namespace refrain

// Plans for the training of an autoencoder within a memory budget: the micro-batch, which never
// changes a bit of the weights, what is recomputed, which does not either, and the number of
// windows evaluated at a time. Bytes are counted by a dry run, as for language models
// (train/plan.h).
#pragma once
#include <cstdint>
#include <vector>

#include "refrain/autoencoder/curriculum.h"
#include "refrain/autoencoder/word_autoencoder.h"
#include "refrain/train/plan.h"

namespace refrain {

// The model must have the memory of its gradients, which is not part of `room.process`. With a
// budget: of micro-batches and recomputations the cheapest that fit, or an Error that names the
// least budget. Without one: the whole batch_size, and what the settings say is recomputed.
Plan plan_reconstruction(const WordAutoencoder&, const TrainConfig&, const Stages&, bool evaluates,
                         const Room& room);

// Those of all micro-batches and recomputations that no other beats in both bytes and time, by
// bytes. `process` as in Room.
std::vector<Plan> reconstruction_frontier(const WordAutoencoder&, const TrainConfig&, const Stages&,
                                          bool evaluates, size_t process);
// Time of a step by a plan, in that of the whole batch_size with nothing recomputed.
double relative_step_time(const Plan&, const TrainConfig&);

// What a step computes by these settings and its plan: compute type, and what is recomputed.
void take_settings(ExecutionContext&, const TrainConfig&, const Plan&);

// Words of a window on average, from every place in the documents where one of `shortest` words may
// begin, when it has `length` words or what is left of its document; 0 without such a place.
double mean_window(const Documents&, int64_t shortest, int64_t length);

}  // namespace refrain

#include "refrain/autoencoder/plan.h"

#include <algorithm>

#include "refrain/base/bytes.h"

namespace refrain {
namespace {

// Of a window of the batch: where its words are; of a word of a micro-batch: id, loss, cosine.
constexpr int64_t kBytesPerWindow = 16, kBytesPerRow = 32;

StepBytes larger(const StepBytes& a, const StepBytes& b) { return a.total() > b.total() ? a : b; }

// The longest windows, with every step forced and with none: the decoder works in other ways.
StepBytes step_bytes(const WordAutoencoder& model, int64_t windows, int64_t length) {
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(windows, length);
  const std::vector<int32_t> ids(static_cast<size_t>(batch.rows()));
  const auto with = [&](uint8_t is_forced) {
    const std::vector<uint8_t> forced(static_cast<size_t>(length), is_forced);
    return count_bytes([&](ExecutionContext& ctx, Arena& saved) {
      Autoencoder::TrainingBatch training = model.training_batch(ctx, ids, saved);
      training.forced = forced;
      const Tensor per_row(nowhere(), {batch.rows()});
      model.model->train(ctx, batch, training, per_row, per_row, saved);
    });
  };
  return larger(with(0), with(1));
}

Plan measured(const WordAutoencoder& model, const TrainConfig& config, const Stages& stages,
              bool evaluates, size_t process, int64_t windows) {
  const int64_t longest = stages.longest();
  Plan plan;
  plan.sequences = windows;
  plan.step = step_bytes(model, windows, longest);
  plan.process = process + overhead_bytes();
  plan.model = model.model->parameters().training_bytes(config.moments());
  plan.batch =
      static_cast<size_t>(kBytesPerWindow * config.batch_size * config.gradient_accumulation_steps +
                          kBytesPerRow * windows * longest);
  // Evaluation takes what training has, or as little as it can.
  for (int64_t n = kWindowsTogether; evaluates; n = (n + 1) / 2) {
    plan.evaluation_sequences = n;
    plan.evaluation = scoring_bytes(model, n);
    if (n == 1 || plan.evaluation <= plan.step.total()) break;
  }
  return plan;
}

}  // namespace

Plan plan_reconstruction(const WordAutoencoder& model, const TrainConfig& config,
                         const Stages& stages, bool evaluates, const Room& room) {
  for (int64_t windows = config.batch_size;; windows = (windows + 1) / 2) {
    Plan plan = measured(model, config, stages, evaluates, room.process, windows);
    plan.budget = room.budget;
    if (room.budget == 0 || std::max(plan.total(), room.taken) <= room.budget) return plan;
    if (windows == 1)
      refuse_budget(
          room, plan,
          fmt::format("{} for weights, gradients and moments of {} parameters, {} for activations "
                      "of a window); a smaller model or shorter windows would need less",
                      bytes_text(plan.model), model.model->parameters().count(),
                      bytes_text(plan.activations())));
  }
}

}  // namespace refrain

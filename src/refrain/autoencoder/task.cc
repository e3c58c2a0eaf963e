#include "refrain/autoencoder/task.h"

#include <algorithm>
#include <cmath>

#include "refrain/autoencoder/plan.h"
#include "refrain/base/random.h"

namespace refrain {

ReconstructionTask::ReconstructionTask(WordAutoencoder& model, Documents train, Documents valid,
                                       const TrainConfig& config, const Curriculum& curriculum,
                                       const Plan& plan)
    : model_(model),
      train_(std::move(train)),
      valid_(std::move(valid)),
      config_(config),
      stages_(curriculum),
      plan_(plan) {
  for (const auto& document : train_) {
    places_before_.push_back(places_);
    const int64_t places = std::max<int64_t>(0, std::ssize(document) - stages_.shortest + 1);
    places_ += places;
    if (places > 0) words_ += static_cast<double>(document.size());
  }
  if (places_ == 0)
    throw_error(
        "expected a document to learn from of at least {} words that have vectors "
        "(min_window), found none",
        stages_.shortest);
  const auto has_window = [&](const auto& d) { return std::ssize(d) >= stages_.shortest; };
  if (!valid_.empty() && std::none_of(valid_.begin(), valid_.end(), has_window))
    throw_error(
        "expected a held-out document of at least {} words that have vectors "
        "(min_window), found none",
        stages_.shortest);
  total_steps_ = steps_of(parse_length(config_.max_steps));
}

int64_t ReconstructionTask::steps_of(const TrainingLength& length) const {
  if (length.unit == TrainingLength::kSteps) return static_cast<int64_t>(length.amount);
  if (length.unit != TrainingLength::kEpochs && length.unit != TrainingLength::kTokens)
    throw_error("max_steps: expected steps (2000), epochs (5e) or words (10Mt), found '{}'",
                config_.max_steps);
  double window = 0;  // stages are equal shares of the steps
  for (const int64_t longest : stages_.window)
    window += mean_window(train_, stages_.shortest, longest);
  window /= static_cast<double>(stages_.window.size());
  const double words =
      length.unit == TrainingLength::kEpochs ? length.amount * words_ : length.amount;
  return std::max<int64_t>(1, std::llround(words / (window * static_cast<double>(batch()))));
}

void ReconstructionTask::resume_from(const TrainerState& state, const std::string& name) {
  if (state.position != data::Batches::Position{})
    throw_error(
        "{}: epoch and batches_of_epoch: expected 0, for windows are drawn, found {} and {}", name,
        state.position.epoch, state.position.index);
  check_tokens_seen(state, batch() * stages_.longest(), name);
}

std::span<const int32_t> ReconstructionTask::draw_window(int64_t step, int64_t i) const {
  Random random(
      mix_key(mix_key(static_cast<uint64_t>(config_.seed), "window", static_cast<uint64_t>(step)),
              "of the batch", static_cast<uint64_t>(i)));
  const auto place = static_cast<int64_t>(random.below(static_cast<uint64_t>(places_)));
  // The last document that begins at or before it; those without a place share their successor's.
  const auto next = std::upper_bound(places_before_.begin(), places_before_.end(), place);
  const auto d = static_cast<size_t>(next - places_before_.begin() - 1);
  const std::span<const int32_t> rest =
      std::span<const int32_t>(train_[d]).subspan(static_cast<size_t>(place - places_before_[d]));
  const auto length = static_cast<size_t>(stages_.window_at(step, total_steps_));
  return rest.first(std::min(rest.size(), length));
}

StepGradient ReconstructionTask::next_gradient(const TrainerState& state, TaskMemory& memory) {
  std::vector<std::span<const int32_t>> windows;
  int64_t words = 0;
  for (int64_t i = 0; i < batch(); ++i) {
    windows.push_back(draw_window(state.step, i));
    words += std::ssize(windows.back());
  }
  std::vector<uint8_t> forced;
  Random coins(mix_key(static_cast<uint64_t>(config_.seed), "teacher forcing",
                       static_cast<uint64_t>(state.step)));
  const double chance = stages_.forcing_at(state.step, total_steps_);
  for (int64_t t = 0; t < stages_.longest(); ++t) forced.push_back(coins.uniform() < chance);

  int64_t longest = 0;
  for (const auto& window : windows) longest = std::max(longest, std::ssize(window));
  const Dropout dropout{.rate = static_cast<float>(config_.dropout),
                        .key = mix_key(static_cast<uint64_t>(config_.seed), "dropout",
                                       static_cast<uint64_t>(state.step))};

  double loss = 0, cosine = 0;
  std::vector<float> losses, cosines;
  model_.model->parameters().clear_gradients();
  for (int64_t first = 0; first < batch(); first += plan_.sequences) {
    const int64_t n = std::min(plan_.sequences, batch() - first);
    const WindowRows rows(std::span<const std::span<const int32_t>>(windows).subspan(
                              static_cast<size_t>(first), static_cast<size_t>(n)),
                          first);
    const int64_t R = rows.batch.rows();
    losses.resize(rows.ids.size());
    cosines.resize(rows.ids.size());
    memory.workspace.run(dropout, [&](ExecutionContext& ctx, Arena& saved) {
      take_settings(ctx, config_, plan_);
      Autoencoder::TrainingBatch training = model_.training_batch(ctx, rows.ids, saved);
      training.longest = longest;
      training.forced = forced;
      training.scale = 1 / static_cast<float>(words);
      model_.model->train(ctx, rows.batch, training, {losses.data(), {R}}, {cosines.data(), {R}},
                          saved);
    });
    for (size_t r = 0; r < losses.size(); ++r) {
      loss += static_cast<double>(losses[r]) / static_cast<double>(words);
      cosine += static_cast<double>(cosines[r]) / static_cast<double>(words);
    }
  }
  return {.loss = loss, .tokens = words, .metrics = {{"cosine", cosine}}};
}

double ReconstructionTask::epoch(const TrainerState& state) const {
  return static_cast<double>(state.tokens_seen) / words_;
}

EvaluationResult ReconstructionTask::evaluate(TaskMemory& memory, const ShouldStop& should_stop) {
  const ReconstructionScores scores = score_reconstruction(model_, valid_, memory.workspace,
                                                           plan_.evaluation_sequences, should_stop);
  return {.loss = scores.loss,
          .tokens = scores.words,
          .seconds = scores.seconds,
          .stopped = scores.stopped,
          .metrics = {{"eval_cosine", scores.cosine}, {"eval_recovery", scores.recovery}}};
}

void ReconstructionTask::write_weights(const std::string& path) const {
  model_.model->save_weights(path);
}

void ReconstructionTask::load_weights(const std::string& directory) {
  model_.model->load_weights(directory);
}

void ReconstructionTask::write_model_files(const std::string& directory) const {
  model_.write_files(directory);
}

}  // namespace refrain

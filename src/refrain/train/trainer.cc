#include "refrain/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "refrain/base/process.h"
#include "refrain/base/random.h"

namespace refrain {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

// The batch as the optimiser sees it: all of its micro-batches together.
data::BatchConfig optimiser_batch(const TrainConfig& c, int64_t context) {
  return {context, c.batch_size * c.gradient_accumulation_steps,
          c.max_tokens * c.gradient_accumulation_steps, true};
}

// The end of the micro-batch that begins with sequence `first`.
int64_t micro_batch_end(const data::Batch& batch, const TrainConfig& c, int64_t first) {
  const int64_t all = batch.sequences();
  if (c.max_tokens == 0) return std::min(all, first + c.batch_size);
  int64_t last = first, longest = 0;
  for (; last < all; ++last) {
    const auto b = static_cast<size_t>(last);
    longest = std::max<int64_t>(longest, batch.offset[b + 1] - batch.offset[b]);
    if (last > first && longest * (last - first + 1) > c.max_tokens) break;
  }
  return last;
}

// Sequences [first, last) of a batch as a window, with their tokens and targets.
struct Part {
  Part(const data::Batch& batch, int64_t first, int64_t last) {
    const auto begin = static_cast<size_t>(batch.offset[static_cast<size_t>(first)]);
    const auto end = static_cast<size_t>(batch.offset[static_cast<size_t>(last)]);
    tokens = std::span(batch.tokens).subspan(begin, end - begin);
    targets = std::span(batch.targets).subspan(begin, end - begin);
    std::vector<int32_t> offset;
    for (int64_t b = first; b <= last; ++b)
      offset.push_back(batch.offset[static_cast<size_t>(b)] - static_cast<int32_t>(begin));
    const std::vector<int32_t> start(static_cast<size_t>(last - first), 0);
    window = data_.set(offset, start, first);
  }
  std::span<const int32_t> tokens, targets;
  Window window;

 private:
  WindowData data_;
};

}  // namespace

Evaluation evaluate(const LanguageModel& model, const data::DataSet& data,
                    const data::BatchConfig& config, Workspace& workspace) {
  const auto begin = Clock::now();
  Evaluation result;
  data::Batch batch;
  std::vector<float> losses;
  double sum = 0;
  for (int64_t cursor = 0; data::next_in_order(data, config, batch, cursor);) {
    const Part part(batch, 0, batch.sequences());
    losses.resize(part.tokens.size());
    const Tensor row_losses(losses.data(), {part.window.rows()});
    workspace.run({}, [&](Context& ctx, Arena&) {
      model.losses(ctx, part.window, part.tokens, part.targets, {}, row_losses);
    });
    for (float loss : losses) sum += static_cast<double>(loss);
    result.tokens += batch.supervised;
  }
  if (result.tokens == 0) throw_error("evaluation: the data holds no token to predict");
  result.loss = sum / static_cast<double>(result.tokens);
  result.seconds = seconds_since(begin);
  return result;
}

Trainer::Trainer(LanguageModel& model, const data::DataSet& train,
                 std::optional<data::DataSet> valid, const TrainConfig& config,
                 const RunDirectory& directory, std::function<void(const std::string&)> describe)
    : model_(model),
      valid_(std::move(valid)),
      config_(config),
      directory_(directory),
      describe_(std::move(describe)),
      batch_config_(optimiser_batch(config, model.config().context)),
      batches_(train, batch_config_, mix_key(static_cast<uint64_t>(config.seed), "batches")),
      optimizer_(model, config) {
  config_.check();
  const TrainingLength length = parse_length(config_.max_steps);
  const auto per_epoch = static_cast<double>(batches_.batches_in_epoch());
  const double tokens_per_epoch =
      static_cast<double>(train.tokens() - (train.task() == "lm" ? 1 : train.sequences()));
  double steps = length.amount;
  if (length.unit == TrainingLength::kEpochs) steps = length.amount * per_epoch;
  if (length.unit == TrainingLength::kTokens)
    steps = length.amount * per_epoch / std::max(tokens_per_epoch, 1.0);
  total_steps_ = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(steps)));
}

bool Trainer::resume() {
  const std::optional<TrainerState> state = directory_.load_newest(model_, optimizer_);
  if (!state) return false;
  state_ = *state;
  saved_step_ = state_.step;
  batches_.seek(state_.position);
  directory_.cut_metrics(state_.step);
  return true;
}

Trainer::StepResult Trainer::step(const data::Batch& batch) {
  const float scale = 1.0f / static_cast<float>(std::max<int64_t>(batch.supervised, 1));
  const Dropout dropout{
      static_cast<float>(config_.dropout),
      mix_key(static_cast<uint64_t>(config_.seed), "dropout", static_cast<uint64_t>(state_.step))};
  const LanguageModel::Recompute recompute{config_.gradient_checkpointing == "blocks"};
  double sum = 0;
  std::vector<float> losses;
  model_.clear_gradients();
  for (int64_t first = 0, last = 0; first < batch.sequences(); first = last) {
    last = micro_batch_end(batch, config_, first);
    const Part part(batch, first, last);
    losses.resize(part.tokens.size());
    const Tensor row_losses(losses.data(), {part.window.rows()});
    workspace_.run(dropout, [&](Context& ctx, Arena& saved) {
      model_.train(ctx, part.window, part.tokens, part.targets, scale,
                   static_cast<float>(config_.label_smoothing), recompute, row_losses, saved);
    });
    for (float loss : losses) sum += static_cast<double>(loss);
  }
  model_.finish_gradients();
  const double loss = sum / static_cast<double>(std::max<int64_t>(batch.supervised, 1));
  const double norm = std::isfinite(loss)
                          ? optimizer_.step(learning_rate(config_, state_.step + 1, total_steps_))
                          : loss;
  if (!std::isfinite(loss) || !std::isfinite(norm))
    throw_error(
        "step {}: the {} is not a finite number; the weights of the last checkpoint are "
        "untouched (try a lower --learning-rate or more --warmup-steps)",
        state_.step + 1, std::isfinite(loss) ? "gradient" : "loss");
  return {loss, norm};
}

void Trainer::evaluate_and_keep(const TrainerEvents& events) {
  data::BatchConfig config = batch_config_;
  config.max_tokens = 0;
  config.batch_size = std::max<int64_t>(1, 4096 / config.context);
  const Evaluation result = evaluate(model_, *valid_, config, workspace_);
  last_evaluation_ = result;
  const bool best = state_.best_step == 0 || result.loss < state_.best_loss;
  if (best) {
    state_.best_loss = result.loss;
    state_.best_step = state_.step;
    state_.evaluations_without_gain = 0;
    directory_.save_best(model_, describe_);
  } else {
    ++state_.evaluations_without_gain;
  }
  directory_.record({{"step", state_.step},
                     {"eval_loss", result.loss},
                     {"eval_tokens", result.tokens},
                     {"eval_runtime", result.seconds}});
  events.on_evaluation(state_.step, result, best);
}

void Trainer::save(const TrainerEvents& events) {
  directory_.save(model_, optimizer_, state_, describe_, config_.save_total_limit);
  saved_step_ = state_.step;
  events.on_save(state_.step);
}

TrainingEnd Trainer::run(const TrainerEvents& events, int64_t stop_after) {
  data::Batch batch;
  Progress progress;
  progress.total_steps = total_steps_;
  auto since = Clock::now();
  const auto begin = since;
  const int64_t first_step = state_.step;
  int64_t tokens_since = 0;
  TrainingEnd end = TrainingEnd::kFinished;

  while (state_.step < total_steps_) {
    batches_.next(batch);
    const StepResult result = step(batch);
    ++state_.step;
    state_.position = batches_.position();
    state_.tokens_seen += batch.rows();
    tokens_since += batch.rows();

    progress.step = state_.step;
    progress.epoch = static_cast<double>(state_.position.epoch) +
                     static_cast<double>(state_.position.index) /
                         static_cast<double>(batches_.batches_in_epoch());
    progress.loss = result.loss;
    progress.grad_norm = result.grad_norm;
    progress.learning_rate = learning_rate(config_, state_.step, total_steps_);
    progress.tokens_seen = state_.tokens_seen;
    progress.tokens_per_second = static_cast<double>(tokens_since) / seconds_since(since);
    progress.seconds_left = seconds_since(begin) / static_cast<double>(state_.step - first_step) *
                            static_cast<double>(total_steps_ - state_.step);
    events.on_step(progress);
    const bool last = state_.step == total_steps_;
    if (state_.step % config_.logging_steps == 0 || last) {
      directory_.record({{"step", state_.step},
                         {"epoch", progress.epoch},
                         {"loss", result.loss},
                         {"grad_norm", result.grad_norm},
                         {"learning_rate", progress.learning_rate},
                         {"num_input_tokens_seen", state_.tokens_seen},
                         {"tokens_per_second", progress.tokens_per_second},
                         {"peak_memory_bytes", peak_memory_bytes()}});
      since = Clock::now();
      tokens_since = 0;
    }
    if (valid_ && ((config_.eval_steps > 0 && state_.step % config_.eval_steps == 0) || last)) {
      const auto pause = Clock::now();
      evaluate_and_keep(events);
      since += Clock::now() - pause;
    }
    if (config_.save_steps > 0 && state_.step % config_.save_steps == 0) save(events);

    if (config_.patience > 0 && state_.evaluations_without_gain >= config_.patience) {
      end = TrainingEnd::kPatience;
      break;
    }
    if (!last && (state_.step == stop_after || events.should_stop())) {
      end = TrainingEnd::kStopped;
      break;
    }
  }
  if (saved_step_ != state_.step) save(events);
  return end;
}

}  // namespace refrain

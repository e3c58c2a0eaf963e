#include "refrain/autoencoder/plan.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/bytes.h"

namespace refrain {
namespace {

// Of a window of the batch: where its words are; of a word of a micro-batch: id, loss, cosine.
constexpr int64_t kBytesPerWindow = 16, kBytesPerRow = 32;

StepBytes larger(const StepBytes& a, const StepBytes& b) { return a.total() > b.total() ? a : b; }

// The longest windows, with every step forced and with none: the decoder works in other ways.
StepBytes step_bytes(const WordAutoencoder& model, const TrainConfig& config, const Plan& plan,
                     int64_t length) {
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(plan.sequences, length);
  const std::vector<int32_t> ids(static_cast<size_t>(batch.rows()));
  const auto with = [&](uint8_t is_forced) {
    const std::vector<uint8_t> forced(static_cast<size_t>(length), is_forced);
    return count_bytes([&](ExecutionContext& ctx, Arena& saved) {
      ctx.dropout.rate = static_cast<float>(config.dropout);
      take_settings(ctx, config, plan);
      Autoencoder::TrainingBatch training = model.training_batch(ctx, ids, saved);
      training.forced = forced;
      const Tensor per_row(nowhere(), {batch.rows()});
      model.model->train(ctx, batch, training, per_row, per_row, saved);
    });
  };
  return larger(with(0), with(1));
}

// How a step is cut.
struct Cut {
  int64_t windows;
  Recompute recompute;
};

Plan measured(const WordAutoencoder& model, const TrainConfig& config, const Stages& stages,
              bool evaluates, size_t process, const Cut& cut) {
  const int64_t longest = stages.longest(), windows = cut.windows;
  Plan plan;
  plan.sequences = windows;
  plan.recompute = cut.recompute;
  plan.step = step_bytes(model, config, plan, longest);
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

// How a step may be cut, and what it costs of what it costs at least.
struct Choice {
  int64_t windows;
  Recompute recompute;
  double cost;
};

// Measured with 512 units and windows of 50: of fewer windows the loop reads its matrices as often
// for less, and the encoder's forward is a seventh of a step.
double cost_of(int64_t windows, const Recompute& recompute) {
  constexpr double kLoop = 3.2, kEncoder = 1.14, kProbabilities = 1.02;
  return (1 + kLoop / static_cast<double>(windows)) *
         (recompute.checkpoint_interval > 0 ? kEncoder : 1) *
         (recompute.parts.empty() ? 1 : kProbabilities);
}

// The cheapest first.
std::vector<Choice> choices(const AutoencoderConfig& model, const TrainConfig& config,
                            int64_t longest) {
  std::vector<Recompute> recomputations;
  if (const auto given = parse_checkpointing(config.gradient_checkpointing)) {
    recomputations = {*given};
  } else {
    // States every so many steps take as much as the steps between them, twice over.
    const auto every = static_cast<int64_t>(2 * std::sqrt(static_cast<double>(longest)));
    recomputations = {{}, {.checkpoint_interval = std::max<int64_t>(8, every)}};
    for (size_t i = 0; i < 2 && model.reads_encoder() && !model.flash; ++i) {
      Recompute more = recomputations[i];
      more.parts = {std::string(Recompute::kProbabilities)};
      recomputations.push_back(more);
    }
  }
  std::vector<Choice> all;
  for (int64_t windows = config.batch_size;; windows = (windows + 1) / 2) {
    for (const Recompute& recompute : recomputations)
      all.push_back({windows, recompute, cost_of(windows, recompute)});
    if (windows == 1) break;
  }
  std::ranges::stable_sort(all, {}, &Choice::cost);
  return all;
}

}  // namespace

void take_settings(ExecutionContext& ctx, const TrainConfig& config, const Plan& plan) {
  ctx.compute_type = config.matmul_type();
  ctx.checkpoint_interval = plan.recompute.checkpoint_interval;
  ctx.recompute = plan.recompute.parts;
}

double mean_window(const Documents& documents, int64_t shortest, int64_t length) {
  double words = 0, places = 0;
  for (const auto& document : documents) {
    const int64_t n = std::ssize(document), its = std::max<int64_t>(0, n - shortest + 1);
    const int64_t whole = std::clamp<int64_t>(n - length + 1, 0, its);
    // The others have n - whole words left, and one less at every next place, down to the shortest.
    words += static_cast<double>(whole) * static_cast<double>(length) +
             static_cast<double>(its - whole) * static_cast<double>(n - whole + shortest) / 2;
    places += static_cast<double>(its);
  }
  return places > 0 ? words / places : 0;
}

std::vector<Plan> reconstruction_frontier(const WordAutoencoder& model, const TrainConfig& config,
                                          const Stages& stages, bool evaluates, size_t process) {
  std::vector<Plan> worth;
  for (const Choice& choice : choices(model.model->config(), config, stages.longest())) {
    const Plan plan =
        measured(model, config, stages, evaluates, process, {choice.windows, choice.recompute});
    if (worth.empty() || plan.total() < worth.back().total()) worth.push_back(plan);
  }
  std::ranges::reverse(worth);
  return worth;
}

double relative_step_time(const Plan& plan, const TrainConfig& config) {
  return cost_of(plan.sequences, plan.recompute) / cost_of(config.batch_size, {});
}

Plan plan_reconstruction(const WordAutoencoder& model, const TrainConfig& config,
                         const Stages& stages, bool evaluates, const Room& room) {
  Plan least;
  for (const Choice& choice : choices(model.model->config(), config, stages.longest())) {
    Plan plan = measured(model, config, stages, evaluates, room.process,
                         {choice.windows, choice.recompute});
    plan.budget = room.budget;
    if (room.budget == 0 || std::max(plan.total(), room.taken) <= room.budget) return plan;
    if (least.sequences == 0 || plan.total() < least.total()) least = plan;
  }
  refuse_budget(
      room, least,
      fmt::format("{} for weights, gradients and moments of {} parameters, {} for activations "
                  "of a window); a smaller model or shorter windows would need less",
                  bytes_text(least.model), model.model->parameters().count(),
                  bytes_text(least.activations())));
}

}  // namespace refrain

#include "refrain/train/calibration.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "refrain/train/optimizer.h"

namespace refrain {
namespace {

constexpr int64_t kTokens = 1024, kVocabulary = 4096;
constexpr int kRepetitions = 3;

// The least of a few, after one that is not counted.
template <class F>
double seconds_of(F&& work) {
  using Clock = std::chrono::steady_clock;
  double least = 0;
  for (int i = 0; i <= kRepetitions; ++i) {
    const auto start = Clock::now();
    work();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (i == 1 || (i > 1 && seconds < least)) least = seconds;
  }
  return least;
}

}  // namespace

Calibration calibrate(const ModelConfig& config, const TrainConfig& training) {
  ModelConfig small = config;
  small.resolve();
  std::map<std::string, MixerConfig> distinct;
  for (const MixerConfig& mixer : small.mixers) distinct.emplace(mixer.kind(), mixer);
  small.mixers.clear();
  for (const auto& [kind, mixer] : distinct) small.mixers.push_back(mixer);
  small.layers = std::ssize(small.mixers);
  small.context = std::min(small.context, kTokens);
  small.vocab_size = std::min(small.vocab_size, kVocabulary);

  LanguageModel model(small);
  model.initialise(1);
  model.allocate_gradients();
  TrainConfig settings = training;
  settings.max_tokens = settings.tbptt = 0;
  settings.carry_state = false;
  settings.gradient_accumulation_steps = 1;
  settings.batch_size = std::max<int64_t>(1, kTokens / small.context);
  settings.gradient_checkpointing = "off";
  const Plan plan = Planner(model, settings, false, 0).unbounded();

  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(settings.batch_size, small.context);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < batch.rows(); ++i)
    tokens.push_back(static_cast<int32_t>(i * 7919 % small.vocab_size));
  std::vector<float> losses(tokens.size());
  const TrainingOptions options{.scale = 1e-4f, .compute_type = settings.matmul_type()};
  Workspace workspace;
  Calibration result;
  const double step = seconds_of([&] {
    workspace.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      model.train(ctx, batch, {tokens, tokens}, options, {losses.data(), {batch.rows()}}, saved);
    });
  });
  result.seconds_per_operation = step / (plan.cost * static_cast<double>(batch.rows()));
  Optimizer optimizer(model.parameters(), settings);
  const double update = seconds_of([&] {
    model.clear_gradients();
    optimizer.step(0);
  });
  result.seconds_per_parameter = update / static_cast<double>(model.parameters().count());
  return result;
}

double predicted_seconds(const Calibration& calibration, const Plan& plan, int64_t tokens,
                         int64_t parameters) {
  return calibration.seconds_per_operation * plan.cost * static_cast<double>(tokens) +
         calibration.seconds_per_parameter * static_cast<double>(parameters);
}

}  // namespace refrain

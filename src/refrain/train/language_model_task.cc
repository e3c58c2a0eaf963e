#include "refrain/train/language_model_task.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/random.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/formats/peft.h"
#include "refrain/io/safetensors.h"
#include "refrain/train/batch_part.h"

namespace refrain {
namespace {

// The end of the micro-batch that begins with sequence `first`.
int64_t micro_batch_end(const data::Batch& batch, const Plan& plan, int64_t first, bool packs) {
  const int64_t all = batch.sequences();
  if (plan.tokens == 0) return std::min(all, first + plan.sequences);
  int64_t last = first, longest = 0;
  for (; last < all; ++last) {
    const auto b = static_cast<size_t>(last);
    longest = std::max<int64_t>(longest, batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]);
    const int64_t rows = batch.cu_seqlens[b + 1] - batch.cu_seqlens[static_cast<size_t>(first)];
    if (last > first && (packs ? rows : longest * (last - first + 1)) > plan.tokens) break;
  }
  return last;
}

// States are bytes; files have numbers.
std::vector<int64_t> stream_shape(const SequenceState& state) {
  return {static_cast<int64_t>(state.bytes().size() / sizeof(float))};
}
std::string stream_name(size_t b) { return fmt::format("stream.{}", b); }

// What an evaluation cannot do without, tried before the first step.
void check_held_out(const data::DataSet& data, data::BatchConfig config) {
  config.max_tokens = 0;
  config.batch_size = 1;
  data::Batch batch;
  int64_t cursor = 0;
  while (data.tokens() >= 2 && data::next_in_order(data, config, batch, cursor))
    if (batch.supervised > 0) return;
  throw_error(
      "held-out data: expected a token to predict in sequences of at most "
      "{} tokens, found none in {} {}",
      config.context, data.has_pairs() ? data.sequences() : data.tokens(),
      data.has_pairs() ? "sequences" : "tokens");
}

}  // namespace

data::BatchConfig optimiser_batch(const TrainConfig& c, int64_t context) {
  return {.context = context,
          .batch_size = c.batch_size * c.gradient_accumulation_steps,
          .max_tokens = c.batch_tokens(context) * c.gradient_accumulation_steps,
          .packing = c.packs,
          .buckets = c.buckets,
          .stream_chunk = c.carry_state ? c.gradient_length(context) : 0};
}

LanguageModelTask::LanguageModelTask(LanguageModel& model, const data::DataSet& train,
                                     std::optional<data::DataSet> valid, const TrainConfig& config,
                                     const Plan& plan, WriteModelFiles write_model_files)
    : model_(model),
      valid_(std::move(valid)),
      config_(config),
      plan_(plan),
      write_model_files_(std::move(write_model_files)),
      batch_config_(optimiser_batch(config, model.config().context)),
      batches_by_length_(train.has_pairs() && batch_config_.max_tokens > 0),
      batches_(train, batch_config_, mix_key(static_cast<uint64_t>(config.seed), "batches")) {
  if (config_.carry_state && !model.bounded_state())
    throw_error(
        "carry_state: expected mixers whose state does not grow with the text, and no learned "
        "positions");
  if (valid_) check_held_out(*valid_, batch_config_);
  const TrainingLength length = parse_length(config_.max_steps);
  const auto per_epoch = static_cast<double>(batches_.batches_in_epoch());
  const double tokens_per_epoch =
      static_cast<double>(train.tokens() - (train.task() == "lm" ? 1 : train.sequences()));
  double steps = length.amount;
  if (length.unit == TrainingLength::kEpochs) steps = length.amount * per_epoch;
  if (length.unit == TrainingLength::kTokens)
    steps = length.amount * per_epoch / std::max(tokens_per_epoch, 1.0);
  total_steps_ = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(steps)));
  if (length.unit == TrainingLength::kMinutes) total_steps_ = kEndless;
}

void LanguageModelTask::resume_from(const TrainerState& state, const std::string& name) {
  const auto epoch = static_cast<int64_t>(state.position.epoch);
  batches_.seek({state.position.epoch, 0});
  const int64_t batches = batches_.batches_in_epoch(), index = state.position.index;
  if (index > batches)
    throw_error("{}: batches_of_epoch: expected at most the {} of epoch {}, found {}", name,
                batches, epoch, index);
  // By sequences an epoch has as many batches as another, or, of running text, one more or less.
  const int64_t before = state.step - index;
  const bool by_count = !batches_by_length_;
  if (epoch == 0 ? before != 0
                 : by_count && (before / epoch < batches - 1 || before / epoch > batches + 1))
    throw_error("{}: epoch: after {} steps of {} batches an epoch, found epoch {}, batch {}", name,
                state.step, batches, epoch, index);
  const int64_t longest = config_.carry_state ? batch_config_.stream_chunk : batch_config_.context;
  const int64_t most = batch_config_.max_tokens > 0 ? std::max(batch_config_.max_tokens, longest)
                                                    : batch_config_.batch_size * longest;
  check_tokens_seen(state, most, name);
  batches_.seek(state.position);
}

StepGradient LanguageModelTask::next_gradient(const TrainerState& state, TaskMemory& memory) {
  batches_.next(batch_);
  const data::Batch& batch = batch_;
  const TrainingOptions options{
      .scale = 1.0f / static_cast<float>(std::max<int64_t>(batch.supervised, 1)),
      .label_smoothing = static_cast<float>(config_.label_smoothing),
      .compute_type = config_.matmul_type(),
      .recompute = plan_.recompute,
      .head_rows = plan_.head_rows,
      .offload = config_.offload_states ? &memory.scratch_file : nullptr};
  const Dropout dropout{
      static_cast<float>(config_.dropout), static_cast<float>(config_.attention_dropout),
      mix_key(static_cast<uint64_t>(config_.seed), "dropout", static_cast<uint64_t>(state.step))};
  double sum = 0;
  std::vector<float> losses;
  streams_are_whole_ = false;
  model_.clear_gradients();
  // Chunk by chunk, and each of them micro-batch by micro-batch: so the order of the rows does
  // not depend on the micro-batches.
  const int64_t longest = longest_of(batch);
  const bool truncated = !config_.carry_state && config_.tbptt > 0 && config_.tbptt < longest;
  const bool has_states = truncated || config_.carry_state;
  const int64_t length = truncated ? config_.tbptt : longest;
  if (truncated) begin_sequences(model_, batch.sequences(), longest, states_);
  if (config_.carry_state && batch.past_length == 0)
    begin_sequences(model_, batch.sequences(), kEndlessStream, states_);
  for (int64_t begin = 0; begin < longest; begin += length) {
    for (int64_t first = 0, last = 0; first < batch.sequences(); first = last) {
      last = micro_batch_end(batch, plan_, first, config_.packs);
      for (bool done = false; !done;) {
        const BatchPart part(batch, first, last, begin, begin + length);
        const StateView view =
            view_of(states_, first, has_states ? last : first, model_.config().layers);
        const auto states = has_states ? view.states() : std::span<const State>();
        losses.resize(part.tokens.size());
        const Tensor row_losses(losses.data(), {part.ragged.rows()});
        const TrainingBatch its{.tokens = part.tokens, .targets = part.targets, .states = states};
        const auto train = [&](ExecutionContext& ctx, Arena& saved) {
          model_.train(ctx, part.ragged, its, options, row_losses, saved);
        };
        // Sequences of other lengths than the plan's may take more; half of them take less.
        done = last - first == 1 || memory.workspace.fits(dropout, train);
        if (done)
          memory.workspace.run(dropout, train);
        else
          last = first + (last - first) / 2;
      }
      for (float loss : losses) sum += static_cast<double>(loss);
    }
  }
  model_.finish_gradients();
  streams_are_whole_ = true;
  return {.loss = sum / static_cast<double>(std::max<int64_t>(batch.supervised, 1)),
          .tokens = batch.rows(),
          .position = batches_.position()};
}

double LanguageModelTask::epoch(const TrainerState& state) const {
  const data::Batches::Position& at = state.position;
  return static_cast<double>(at.epoch) +
         static_cast<double>(at.index) / static_cast<double>(batches_.batches_in_epoch());
}

EvaluationResult LanguageModelTask::evaluate(TaskMemory& memory, const ShouldStop& should_stop) {
  if (config_.carry_state)
    return evaluate_streams(model_, *valid_,
                            {.streams = batch_config_.batch_size,
                             .chunk_length = evaluation_chunk(model_, config_),
                             .together = plan_.evaluation_sequences},
                            memory.workspace, should_stop);
  data::BatchConfig config = batch_config_;
  config.max_tokens = 0;
  config.batch_size = plan_.evaluation_sequences;
  return refrain::evaluate(model_, *valid_, config, memory.workspace,
                           evaluation_chunk(model_, config_), should_stop);
}

void LanguageModelTask::save_progress(const std::string& directory) const {
  if (!config_.carry_state) return;
  if (!streams_are_whole_) throw_error("{}: a step has ended within itself", directory);
  std::vector<io::TensorToWrite> streams;
  for (const SequenceState& state : states_)
    streams.push_back({stream_name(streams.size()), stream_shape(state),
                       reinterpret_cast<const float*>(state.bytes().data())});
  io::write_safetensors(directory + "/" + kStreams, streams, {});
}

void LanguageModelTask::load_progress(const std::string& directory) {
  if (!config_.carry_state) return;
  const io::Safetensors file(directory + "/" + kStreams);
  begin_sequences(model_, batch_config_.batch_size, kEndlessStream, states_);
  for (size_t b = 0; b < states_.size(); ++b) {
    const io::TensorInfo* info = file.find(stream_name(b));
    if (!info || info->dtype != "F32" || info->shape != stream_shape(states_[b]))
      throw_error("{}: expected a tensor '{}' of {} numbers, the state of a stream", file.path(),
                  stream_name(b), stream_shape(states_[b])[0]);
    std::ranges::copy(file.bytes(*info), states_[b].bytes().begin());
  }
}

void LanguageModelTask::write_weights(const std::string& path) const {
  if (model_.lora())
    save_adapter_weights(path, *model_.lora(), model_);
  else
    save_weights(path, model_);
}

void LanguageModelTask::load_weights(const std::string& directory) {
  if (model_.lora())
    load_adapter_weights(directory, *model_.lora(), model_);
  else
    refrain::load_weights(directory, model_);
}

}  // namespace refrain

#include "refrain/train/language_model_task.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/clock.h"
#include "refrain/base/random.h"
#include "refrain/formats/checkpoint.h"

namespace refrain {
namespace {

// The end of the micro-batch that begins with sequence `first`.
int64_t micro_batch_end(const data::Batch& batch, const Plan& plan, int64_t first) {
  const int64_t all = batch.sequences();
  if (plan.tokens == 0) return std::min(all, first + plan.sequences);
  int64_t last = first, longest = 0;
  for (; last < all; ++last) {
    const auto b = static_cast<size_t>(last);
    longest = std::max<int64_t>(longest, batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]);
    if (last > first && longest * (last - first + 1) > plan.tokens) break;
  }
  return last;
}

int64_t longest_of(const data::Batch& batch) {
  int64_t longest = 0;
  for (size_t b = 0; b + 1 < batch.cu_seqlens.size(); ++b)
    longest = std::max<int64_t>(longest, batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]);
  return longest;
}

// Tokens [begin, end) of each of the sequences [first, last) of a batch, with their targets. Of a
// shorter sequence there are fewer.
struct Part {
  Part(const data::Batch& batch, int64_t first, int64_t last, int64_t begin, int64_t end) {
    std::vector<int32_t> offset = {0}, start;
    for (int64_t b = first; b < last; ++b) {
      const int32_t from = batch.cu_seqlens[static_cast<size_t>(b)];
      const int64_t length = batch.cu_seqlens[static_cast<size_t>(b) + 1] - from;
      const int64_t t0 = std::min(begin, length), t1 = std::min(end, length);
      tokens.insert(tokens.end(), batch.tokens.begin() + from + t0,
                    batch.tokens.begin() + from + t1);
      targets.insert(targets.end(), batch.targets.begin() + from + t0,
                     batch.targets.begin() + from + t1);
      offset.push_back(static_cast<int32_t>(tokens.size()));
      start.push_back(static_cast<int32_t>(t0));
    }
    ragged = data_.set(offset, start, first);
  }
  std::vector<int32_t> tokens, targets;
  RaggedBatch ragged;

 private:
  RaggedBatchBuilder data_;
};

// The states of sequences [first, last), as a model takes them.
StateView view_of(std::vector<SequenceState>& states, int64_t first, int64_t last, int64_t blocks) {
  std::vector<SequenceState*> some;
  for (int64_t b = first; b < last; ++b) some.push_back(&states[static_cast<size_t>(b)]);
  return StateView(some, blocks);
}

// As many states as the batch has sequences, empty.
void begin_sequences(const LanguageModel& model, const data::Batch& batch,
                     std::vector<SequenceState>& states) {
  const int64_t capacity = longest_of(batch);
  for (SequenceState& state : states) {
    if (state.capacity() < capacity)
      state = SequenceState(model, capacity);
    else
      state.reset();
  }
  while (static_cast<int64_t>(states.size()) < batch.sequences())
    states.emplace_back(model, capacity);
}

// What an evaluation cannot do without, tried before the first step.
void check_held_out(const data::DataSet& data, data::BatchConfig config) {
  config.max_tokens = 0;
  config.batch_size = 1;
  data::Batch batch;
  int64_t cursor = 0;
  while (data.tokens() >= 2 && data::next_in_order(data, config, batch, cursor))
    if (batch.supervised > 0) return;
  throw_error(
      "held-out data (--valid, --valid-split): expected a token to predict in sequences of at most "
      "{} tokens, found none in {} {}",
      config.context, data.has_pairs() ? data.sequences() : data.tokens(),
      data.has_pairs() ? "sequences" : "tokens");
}

}  // namespace

data::BatchConfig optimiser_batch(const TrainConfig& c, int64_t context) {
  return {.context = context,
          .batch_size = c.batch_size * c.gradient_accumulation_steps,
          .max_tokens = c.max_tokens * c.gradient_accumulation_steps,
          .buckets = c.buckets};
}

EvaluationResult evaluate(const LanguageModel& model, const data::DataSet& data,
                          const data::BatchConfig& config, Workspace& workspace,
                          int64_t chunk_length, const ShouldStop& should_stop) {
  const bool in_chunks = chunk_length > 0;
  const auto start = Clock::now();
  EvaluationResult result;
  data::Batch batch;
  std::vector<float> losses;
  std::vector<SequenceState> states;
  double sum = 0;
  for (int64_t cursor = 0; data::next_in_order(data, config, batch, cursor);) {
    const int64_t all = batch.sequences(), longest = longest_of(batch);
    if (in_chunks) begin_sequences(model, batch, states);
    const int64_t length = in_chunks ? chunk_length : longest;
    for (int64_t begin = 0; begin < longest; begin += length) {
      if (should_stop && should_stop()) return {.stopped = true};
      const Part part(batch, 0, all, begin, begin + length);
      const StateView view = view_of(states, 0, in_chunks ? all : 0, model.config().layers);
      losses.resize(part.tokens.size());
      const Tensor row_losses(losses.data(), {part.ragged.rows()});
      workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
        model.losses(ctx, part.ragged, part.tokens, part.targets,
                     in_chunks ? view.states() : std::span<const State>(), row_losses);
      });
      for (float loss : losses) sum += static_cast<double>(loss);
    }
    result.tokens += batch.supervised;
  }
  if (result.tokens == 0) throw_error("evaluation: the data holds no token to predict");
  result.loss = sum / static_cast<double>(result.tokens);
  result.seconds = seconds_since(start);
  return result;
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
      batches_by_length_(train.has_pairs() && config.max_tokens > 0),
      batches_(train, batch_config_, mix_key(static_cast<uint64_t>(config.seed), "batches")) {
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
  const int64_t most = batch_config_.max_tokens > 0
                           ? std::max(batch_config_.max_tokens, batch_config_.context)
                           : batch_config_.batch_size * batch_config_.context;
  check_tokens_seen(state, most, name);
  batches_.seek(state.position);
}

StepGradient LanguageModelTask::next_gradient(const TrainerState& state, TaskMemory& memory) {
  batches_.next(batch_);
  const data::Batch& batch = batch_;
  const TrainingOptions options{
      .scale = 1.0f / static_cast<float>(std::max<int64_t>(batch.supervised, 1)),
      .label_smoothing = static_cast<float>(config_.label_smoothing),
      .compute_type = config_.compute_type(),
      .recompute = plan_.recompute,
      .head_rows = plan_.head_rows,
      .offload = config_.offload_states ? &memory.scratch_file : nullptr};
  const Dropout dropout{
      static_cast<float>(config_.dropout), static_cast<float>(config_.attention_dropout),
      mix_key(static_cast<uint64_t>(config_.seed), "dropout", static_cast<uint64_t>(state.step))};
  double sum = 0;
  std::vector<float> losses;
  model_.clear_gradients();
  // Chunk by chunk, and each of them micro-batch by micro-batch: so the order of the rows does
  // not depend on the micro-batches.
  const int64_t longest = longest_of(batch);
  const bool truncated = config_.tbptt > 0 && config_.tbptt < longest;
  const int64_t length = truncated ? config_.tbptt : longest;
  if (truncated) begin_sequences(model_, batch, states_);
  for (int64_t begin = 0; begin < longest; begin += length) {
    for (int64_t first = 0, last = 0; first < batch.sequences(); first = last) {
      last = micro_batch_end(batch, plan_, first);
      for (bool done = false; !done;) {
        const Part part(batch, first, last, begin, begin + length);
        const StateView view =
            view_of(states_, first, truncated ? last : first, model_.config().layers);
        const auto states = truncated ? view.states() : std::span<const State>();
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
  data::BatchConfig config = batch_config_;
  config.max_tokens = 0;
  config.batch_size = plan_.evaluation_sequences;
  return refrain::evaluate(model_, *valid_, config, memory.workspace,
                           evaluation_chunk(model_, config_), should_stop);
}

void LanguageModelTask::write_weights(const std::string& path) const { save_weights(path, model_); }

void LanguageModelTask::load_weights(const std::string& directory) {
  refrain::load_weights(directory, model_);
}

}  // namespace refrain

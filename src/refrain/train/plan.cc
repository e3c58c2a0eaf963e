#include "refrain/train/plan.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/bytes.h"
#include "refrain/base/parallel.h"
#include "refrain/io/scratch_file.h"
#include "refrain/model/operations.h"
#include "refrain/train/batch_part.h"

namespace refrain {
namespace {

// A process of the same work has a few pages more at one time than at another.
constexpr size_t kUnsteadyBytes = size_t{16} << 10;
// What several threads have taken at their most, when they read a text, varies by more.
constexpr size_t kUnsteadyPeak = size_t{256} << 10;

// What threads touch of their stacks; what the heap takes for small things, a checkpoint's header
// among them, and loses between them, and pages of data on their way.
constexpr size_t kStackBytes = size_t{192} << 10, kHeapBytes = size_t{512} << 10;
// Of a batch: ids and targets; of a micro-batch: copies of them, losses, a batch, the rows with a
// target.
constexpr int64_t kBytesPerBatchToken = 8, kBytesPerToken = 48;

// A few rows cannot hide what a product spends on packing its weights; a step of a recurrence over
// few sequences reads its weights for little work.
constexpr double kPackingRows = 96, kPackingHeadRows = 64, kReadingSequences = 8;

// Rows a thread from which on more in a micro-batch are no faster, or hardly: products have enough
// of them to hide what packing weights costs, and more go through memory where fewer stay in
// caches. Rounding weights to int16 takes longer to hide (twice as many rows gain 2 % there); a
// recurrence that goes step by step shares its weights between all sequences there are.
constexpr int64_t kEnoughRows = 512, kEnoughRowsInt16 = 1024, kEnoughRowsOfSteps = 8192;

bool any_sequential(const LanguageModel& model) {
  for (int64_t l = 0; l < model.config().layers; ++l)
    if (model.mixer(static_cast<size_t>(l)).traits().sequential) return true;
  return false;
}

// FLOPs a token that a mixer computes again inside, of the `flops` of its forward pass.
double recomputed_inside(const MixerTraits& traits, double flops, const Recompute& r) {
  double again = 0;
  if (r.checkpoint_interval > 0 && traits.keeps_states) again += flops;
  for (const RecomputePart& part : traits.recompute)
    if (std::ranges::find(r.parts, part.name) != r.parts.end()) again += flops * part.flops;
  return again;
}

// n, half of it, ... down to `least`.
std::vector<int64_t> halvings(int64_t n, int64_t least) {
  std::vector<int64_t> all;
  for (; n > least; n = (n + 1) / 2) all.push_back(n);
  all.push_back(std::max<int64_t>(least, 1));
  return all;
}

}  // namespace

size_t overhead_bytes() {
  return kHeapBytes + kStackBytes * static_cast<size_t>(std::max(threads(), 1));
}

void refuse_budget(const Room& room, const Plan& least, const std::string& parts) {
  const size_t needed =
      std::max(least.total() + kUnsteadyBytes, room.taken > 0 ? room.taken + kUnsteadyPeak : 0);
  std::string why = fmt::format("{} for the program and its data, {}",
                                bytes_text(least.process + least.batch), parts);
  if (room.taken > least.total())
    why = fmt::format(
        "reading the data has taken {}; another process can do that beforehand, and write a "
        "tokenizer and a token file)",
        bytes_text(room.taken));
  throw_error("{}: {} is too little: this run needs at least {} ({}", room.flag,
              bytes_text_below(room.budget), bytes_text_above(needed), why);
}

int64_t evaluation_chunk(const LanguageModel& model, const TrainConfig& config) {
  if (config.carry_state) return config.gradient_length(model.config().context);
  if (config.tbptt > 0) return config.tbptt;
  const bool is_long = model.config().context > TrainingOptions::kChunkLength;
  return is_long && model.bounded_state() ? TrainingOptions::kChunkLength : 0;
}

Planner::Planner(LanguageModel& model, const TrainConfig& config, bool evaluates, size_t process,
                 size_t taken)
    : model_(model), config_(config), evaluates_(evaluates), process_(process), taken_(taken) {
  const int64_t context = model.config().context;
  longest_ = config.gradient_length(context);
  if (const int64_t tokens = config.batch_tokens(context); tokens > 0)
    optimiser_tokens_ = tokens * config.gradient_accumulation_steps;
  else
    optimiser_sequences_ = config.batch_size * config.gradient_accumulation_steps;
}

int64_t Planner::enough_rows() const {
  const bool int16 = config_.matmul_type() == kernels::ComputeType::kInt16;
  const int64_t a_thread = any_sequential(model_) ? kEnoughRowsOfSteps
                           : int16                ? kEnoughRowsInt16
                                                  : kEnoughRows;
  return a_thread * std::max(threads(), 2);
}

// Of streams in their middle, where states have their full size; else of beginnings.
RaggedBatch Planner::batch_of(RaggedBatchBuilder& data, int64_t sequences, int64_t length) const {
  if (!config_.carry_state) return data.whole(sequences, length);
  std::vector<int32_t> cu_seqlens = {0};
  for (int64_t b = 1; b <= sequences; ++b) cu_seqlens.push_back(static_cast<int32_t>(b * length));
  const std::vector<int32_t> past(static_cast<size_t>(sequences), 1 << 29);
  return data.set(cu_seqlens, past);
}

StepBytes Planner::step_bytes(const Plan& plan, int64_t sequences, int64_t length) const {
  RaggedBatchBuilder data;
  const RaggedBatch batch = batch_of(data, sequences, length);
  const std::vector<int32_t> ids(static_cast<size_t>(batch.rows()));
  const std::vector<std::byte*> rows(static_cast<size_t>(sequences), nowhere<std::byte>());
  const std::vector<State> states(
      config_.tbptt > 0 || config_.carry_state ? static_cast<size_t>(model_.config().layers) : 0,
      State{rows});
  io::ScratchFile file("");  // nothing is written in a dry run
  const TrainingOptions options{.compute_type = config_.matmul_type(),
                                .recompute = plan.recompute,
                                .head_rows = plan.head_rows,
                                .offload = config_.offload_states ? &file : nullptr};
  return count_bytes([&](ExecutionContext& ctx, Arena& saved) {
    ctx.dropout.rate = static_cast<float>(config_.dropout);
    ctx.dropout.attention_rate = static_cast<float>(config_.attention_dropout);
    model_.train(ctx, batch, {ids, ids, states}, options, {nowhere(), {batch.rows()}}, saved);
  });
}

size_t Planner::evaluation_bytes(int64_t sequences) const {
  const int64_t chunk = evaluation_chunk(model_, config_);
  const int64_t context = model_.config().context;
  const int64_t length = chunk > 0 && (config_.carry_state || chunk < context) ? chunk : context;
  RaggedBatchBuilder data;
  const RaggedBatch batch = batch_of(data, sequences, length);
  const std::vector<int32_t> ids(static_cast<size_t>(batch.rows()));
  const std::vector<std::byte*> rows(static_cast<size_t>(sequences), nowhere<std::byte>());
  const std::vector<State> states(chunk > 0 ? static_cast<size_t>(model_.config().layers) : 0,
                                  State{rows});
  return count_bytes([&](ExecutionContext& ctx, Arena&) {
           model_.losses(ctx, batch, ids, ids, states, {nowhere(), {batch.rows()}});
         })
      .total();
}

Plan Planner::measured(Plan plan) const {
  const int64_t context = model_.config().context;
  int64_t rows = plan.tokens, all = optimiser_tokens_, sequences = 0;
  if (plan.tokens > 0) {
    // Few long sequences take most, or many short ones; which depends on the mixers.
    const int64_t length = std::min(longest_, plan.tokens), brief = std::min<int64_t>(16, length);
    const StepBytes few = step_bytes(plan, std::max<int64_t>(1, plan.tokens / length), length);
    const StepBytes many = step_bytes(plan, plan.tokens / brief, brief);
    plan.step = few.total() > many.total() ? few : many;
    sequences = all / brief;
  } else {
    rows = plan.sequences * longest_;
    sequences = optimiser_sequences_;
    all = sequences * (config_.carry_state ? longest_ : context);
    plan.step = step_bytes(plan, plan.sequences, longest_);
  }
  plan.logits_rows =
      std::min(rows, plan.head_rows > 0 ? plan.head_rows : head_rows(model_.config()));
  plan.model = model_.training_bytes(config_.moments());
  plan.batch = static_cast<size_t>(kBytesPerBatchToken * all + kBytesPerToken * rows);
  size_t state = 0;
  for (int64_t l = 0; l < model_.config().layers; ++l)
    state += model_.state_bytes(l, config_.carry_state ? kEndlessStream : context);
  if (config_.tbptt > 0 || config_.carry_state)
    plan.batch += static_cast<size_t>(sequences) * state;
  plan.process = process_ + overhead_bytes();
  // Evaluation takes what training has, or as little as it can.
  const int64_t evaluated = config_.carry_state ? longest_ : context;
  for (int64_t n = std::max<int64_t>(1, TrainingOptions::kChunkLength / evaluated); evaluates_;
       n = (n + 1) / 2) {
    plan.evaluation_sequences = n;
    plan.evaluation = evaluation_bytes(n);
    if (n == 1 || plan.evaluation <= plan.step.total()) break;
  }
  if (evaluates_ && evaluation_chunk(model_, config_) > 0)
    plan.batch += static_cast<size_t>(plan.evaluation_sequences) * state;
  plan.cost = cost(plan);
  return plan;
}

double Planner::cost(const Plan& plan) const {
  const int64_t context = model_.config().context;
  const std::vector<BlockOperations> blocks = block_operations(model_, context);
  const Recompute& r = plan.recompute;
  const bool chunks =
      r.chunks && model_.bounded_state() && longest_ > TrainingOptions::kChunkLength;
  const bool alone = model_.bounded_state() && longest_ > TrainingOptions::kChunkLength;
  const double rows = static_cast<double>(alone             ? TrainingOptions::kChunkLength
                                          : plan.tokens > 0 ? plan.tokens
                                                            : plan.sequences * longest_);
  const double sequences = alone ? 1 : rows / static_cast<double>(longest_);
  double all = 0;
  for (size_t l = 0; l < blocks.size(); ++l) {
    const MixerTraits& traits = model_.mixer(l).traits();
    double mixer = blocks[l].mixer, feed_forward = blocks[l].feed_forward;
    if (traits.sequential) mixer *= 1 + kReadingSequences / sequences;
    double again = 0;
    // All of its products but the last.
    const double feed_forward_again = feed_forward * (model_.config().gated() ? 2.0 / 3 : 1.0 / 2);
    const bool comes_next = l + 1 == blocks.size() && (!alone || chunks);  // Stack::Pass::is_last
    if (static_cast<int64_t>(l) < r.blocks && !comes_next) {
      again = mixer + feed_forward_again;
    } else {
      if (r.mixers) again += mixer;
      if (r.feed_forwards) again += feed_forward_again;
    }
    again += recomputed_inside(traits, mixer, r);
    if (chunks) again += mixer + feed_forward;
    all += kTrainingPasses * (mixer + feed_forward) + again;
  }
  const double head_rows = plan.head_rows > 0 ? static_cast<double>(plan.head_rows) : 256;
  const double head = kTrainingPasses * head_operations(model_.config());
  return all * (1 + kPackingRows / rows) +
         head * (1 + kPackingHeadRows / std::min(rows, head_rows));
}

Plan Planner::unbounded() const {
  const auto fast = [&](int64_t most, int64_t rows_of_one, int64_t least) {
    const std::vector<int64_t> sizes = halvings(most, least);
    const auto enough = [&](int64_t n) { return n * rows_of_one <= enough_rows(); };
    const auto found = std::ranges::find_if(sizes, enough);
    return found == sizes.end() ? sizes.back() : *found;
  };
  Plan plan;
  if (const int64_t tokens = config_.batch_tokens(model_.config().context); tokens > 0)
    plan.tokens = fast(tokens, 1, std::min(longest_, tokens));
  else
    plan.sequences = fast(config_.batch_size, longest_, 1);
  plan.recompute = parse_checkpointing(config_.gradient_checkpointing).value_or(Recompute());
  return measured(plan);
}

const std::vector<Plan>& Planner::frontier() const& {
  if (!all_.empty()) return all_;
  const int64_t layers = model_.config().layers;
  bool keeps_states = false;
  std::vector<std::string> parts;  // that some mixer can compute again
  for (size_t l = 0; l < static_cast<size_t>(layers); ++l) {
    const MixerTraits& traits = model_.mixer(l).traits();
    keeps_states |= traits.keeps_states;
    for (const RecomputePart& part : traits.recompute)
      if (std::ranges::find(parts, part.name) == parts.end()) parts.emplace_back(part.name);
  }
  std::vector<Recompute> choices;
  if (const auto given = parse_checkpointing(config_.gradient_checkpointing)) {
    choices.push_back(*given);
  } else {
    choices.push_back({});
    if (!model_.config().bare()) {
      choices.push_back({.feed_forwards = true});
      choices.push_back({.mixers = true, .feed_forwards = true});
    }
    const int64_t stride = std::max<int64_t>(1, layers / 8);
    for (int64_t n = 1; n < layers; n += stride) choices.push_back({.blocks = n});
    choices.push_back({.blocks = Recompute::kAllBlocks});
    for (size_t i = 0, n = choices.size(); keeps_states && i < n; ++i)
      for (const int64_t every : {64, 256}) {
        Recompute more = choices[i];
        more.checkpoint_interval = every;
        choices.push_back(more);
      }
    if (!parts.empty()) choices.push_back({.parts = parts});
    if (model_.bounded_state() && longest_ > TrainingOptions::kChunkLength)
      for (size_t i = 0, n = choices.size(); i < n; ++i) {
        Recompute more = choices[i];
        more.chunks = true;
        choices.push_back(more);
      }
  }
  const bool by_tokens = optimiser_tokens_ > 0;
  for (const int64_t part :
       by_tokens ? halvings(optimiser_tokens_, longest_) : halvings(optimiser_sequences_, 1)) {
    const int64_t rows = by_tokens ? part : part * longest_;
    const bool smallest = by_tokens ? part <= longest_ : part == 1;
    if (rows > enough_rows() && !smallest) continue;
    for (const Recompute& recompute : choices)
      for (const int64_t head_rows : {0, 64}) {
        Plan plan;
        (by_tokens ? plan.tokens : plan.sequences) = part;
        plan.recompute = recompute;
        plan.head_rows = head_rows;
        all_.push_back(measured(plan));
      }
  }
  std::sort(all_.begin(), all_.end(), [](const Plan& a, const Plan& b) {
    return std::pair(a.total(), a.cost) < std::pair(b.total(), b.cost);
  });
  std::vector<Plan> best;
  for (const Plan& plan : all_)
    if (best.empty() || plan.cost < best.back().cost) best.push_back(plan);
  all_ = std::move(best);
  return all_;
}

Plan Planner::within(size_t budget, const char* flag) const {
  const std::vector<Plan>& plans = frontier();
  const auto beyond = std::find_if(plans.begin(), plans.end(),
                                   [&](const Plan& plan) { return plan.total() > budget; });
  if (beyond == plans.begin() || taken_ > budget) {
    const Plan& least = plans.front();
    refuse_budget(
        {budget, process_, taken_, flag}, least,
        fmt::format("{} for weights, gradients and moments of {} parameters, {} for activations of "
                    "{} tokens at a time); a smaller model, context or vocabulary would need "
                    "less",
                    bytes_text(least.model), model_.parameters().count(),
                    bytes_text(least.activations()), longest_));
  }
  Plan plan = *(beyond - 1);
  plan.budget = budget;
  return plan;
}

std::string to_text(const Recompute& r) {
  std::string text;
  const auto item = [&](bool set, const std::string& word) {
    if (set) text += (text.empty() ? "" : ",") + word;
  };
  item(r.blocks == Recompute::kAllBlocks, "blocks");
  item(r.blocks > 0 && r.blocks != Recompute::kAllBlocks, fmt::format("blocks:{}", r.blocks));
  item(r.mixers, "mixers");
  item(r.feed_forwards, "feed_forwards");
  for (const std::string& part : r.parts) item(true, part);
  item(r.chunks, "chunks");
  item(r.checkpoint_interval > 0, fmt::format("{}", r.checkpoint_interval));
  return text.empty() ? "off" : text;
}

io::Json to_json(const Plan& plan) {
  io::Json json = {{"memory_budget_bytes", plan.budget},
                   {"gradient_checkpointing", to_text(plan.recompute)},
                   {"logits_rows", plan.logits_rows},
                   {"evaluation_sequences", plan.evaluation_sequences},
                   {"operations_per_token", plan.cost},
                   {"bytes",
                    {{"process", plan.process},
                     {"model", plan.model},
                     {"batch", plan.batch},
                     {"saved", plan.step.saved},
                     {"scratch", plan.step.scratch},
                     {"evaluation", plan.evaluation},
                     {"total", plan.total()}}}};
  json[plan.tokens > 0 ? "micro_batch_tokens" : "micro_batch_sequences"] =
      plan.tokens > 0 ? plan.tokens : plan.sequences;
  return json;
}

}  // namespace refrain

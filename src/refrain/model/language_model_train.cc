// Training of a LanguageModel: a batch at once, or long sequences chunk by chunk.
#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "refrain/io/scratch_file.h"
#include "refrain/model/language_model.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

template <class T>
std::span<T> part(std::span<T> all, int64_t first, int64_t count) {
  return all.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
}

// One sequence's state in every block, as a batch of one sequence takes it.
class SequenceStateRef {
 public:
  // Zeros, from the arena.
  SequenceStateRef(const ExecutionContext& ctx, std::span<const size_t> bytes, Arena& arena) {
    for (const size_t n : bytes) {
      rows_.push_back(arena.take<std::byte>({static_cast<int64_t>(n)}).data);
      if (!ctx.planning() && n > 0) std::memset(rows_.back(), 0, n);
    }
    make_states();
  }
  // Sequence b's of a batch's states.
  SequenceStateRef(std::span<const State> states, int64_t b) {
    for (const State& state : states) rows_.push_back(state.rows[static_cast<size_t>(b)]);
    make_states();
  }
  SequenceStateRef(const SequenceStateRef&) = delete;
  SequenceStateRef& operator=(const SequenceStateRef&) = delete;

  std::span<const State> states() const { return states_; }
  std::byte* row(size_t block) const { return rows_[block]; }

 private:
  void make_states() {
    for (std::byte*& row : rows_) states_.push_back({{&row, 1}});
  }
  std::vector<std::byte*> rows_;
  std::vector<State> states_;
};

// The states that chunks begin with, in memory or on disk.
class StateCheckpoints {
 public:
  StateCheckpoints(const ExecutionContext& ctx, std::span<const size_t> bytes, size_t chunks,
                   io::ScratchFile* file, Arena& arena)
      : dry_(ctx.planning()), bytes_(bytes), file_(file) {
    for (const size_t n : bytes) each_ += n;
    if (!file) memory_ = arena.take<std::byte>({static_cast<int64_t>(chunks * each_)}).data;
  }
  void put(size_t chunk, const SequenceStateRef& from) {
    move(chunk, [&](size_t at, size_t l) {
      if (file_)
        file_->write(at, {from.row(l), bytes_[l]});
      else
        std::memcpy(memory_ + at, from.row(l), bytes_[l]);
    });
  }
  void get(size_t chunk, const SequenceStateRef& to) const {
    move(chunk, [&](size_t at, size_t l) {
      if (file_)
        file_->read(at, {to.row(l), bytes_[l]});
      else
        std::memcpy(to.row(l), memory_ + at, bytes_[l]);
    });
  }

 private:
  template <class F>
  void move(size_t chunk, F&& one) const {
    size_t at = chunk * each_;
    for (size_t l = 0; l < bytes_.size() && !dry_; at += bytes_[l++])
      if (bytes_[l] > 0) one(at, l);
  }
  bool dry_;
  std::span<const size_t> bytes_;
  size_t each_ = 0;
  io::ScratchFile* file_;
  std::byte* memory_ = nullptr;
};

}  // namespace

// Part of a batch, as a batch of its own, with what belongs to its rows.
struct LanguageModel::Chunk {
  Chunk(const RaggedBatch& all, const TrainingBatch& its, Tensor its_losses)
      : batch(all),
        tokens(its.tokens),
        targets(its.targets),
        losses(its_losses),
        states(its.states.begin(), its.states.end()) {}
  Chunk(Chunk&&) = default;

  // Sequences [first, last).
  Chunk sequences(int64_t first, int64_t last) const {
    std::vector<int32_t> cu_seqlens = {0}, past_lengths;
    for (int64_t b = first; b < last; ++b) {
      cu_seqlens.push_back(cu_seqlens.back() + static_cast<int32_t>(batch.length(b)));
      past_lengths.push_back(static_cast<int32_t>(batch.past_length(b)));
    }
    Chunk some(*this, first, batch.first(first), cu_seqlens, past_lengths);
    for (const State& state : states)
      some.states.push_back({part(state.rows, first, last - first)});
    return some;
  }
  // Tokens [begin, end) of sequence b, without its states.
  Chunk positions(int64_t b, int64_t begin, int64_t end) const {
    const int32_t cu_seqlens[] = {0, static_cast<int32_t>(end - begin)};
    const int32_t past_lengths[] = {static_cast<int32_t>(begin)};
    return {*this, b, batch.first(b) + begin - batch.past_length(b), cu_seqlens, past_lengths};
  }

  RaggedBatch batch;
  std::span<const int32_t> tokens, targets;  // [R]
  Tensor losses;                             // [R]
  std::vector<State> states{};               // per block, or empty

 private:
  // From row `row` of sequence b on.
  Chunk(const Chunk& all, int64_t b, int64_t row, std::span<const int32_t> cu_seqlens,
        std::span<const int32_t> past_lengths) {
    batch = builder_.set(cu_seqlens, past_lengths, all.sequence(b));
    tokens = part(all.tokens, row, batch.rows());
    targets = part(all.targets, row, batch.rows());
    losses = all.losses.slice(row, batch.rows());
  }
  // Of the optimiser batch. An empty sequence has no row that says it; the next one with rows does.
  int64_t sequence(int64_t b) const {
    int64_t next = b;
    while (next < batch.sequences() && batch.length(next) == 0) ++next;
    if (next == batch.sequences()) return 0;
    return static_cast<int64_t>(batch.row_id[static_cast<size_t>(batch.first(next))] >> 32) -
           (next - b);
  }
  RaggedBatchBuilder builder_;
};

void LanguageModel::train(const ExecutionContext& context, const RaggedBatch& batch,
                          const TrainingBatch& training, const TrainingOptions& options,
                          Tensor losses, Arena& saved) {
  if (cache_type_ != kernels::CacheType::kFloat32)
    throw_error("cache_type: expected f32 in training, found {}", kernels::name_of(cache_type_));
  ExecutionContext ctx = with_adapters(context);
  ctx.training = true;
  ctx.checkpoint_interval = options.recompute.checkpoint_interval;
  ctx.recompute = options.recompute.parts;
  ctx.compute_type = options.compute_type;
  const bool bounded = bounded_state();
  const auto is_long = [&](int64_t b) { return bounded && batch.length(b) > options.chunk_length; };
  const Chunk all(batch, training, losses);
  for (int64_t first = 0, last = 0; first < batch.sequences(); first = last) {
    last = first + 1;
    Arena::Frame frame(saved);
    if (is_long(first)) {
      train_chunks(ctx, all, first, options, saved);
      continue;
    }
    // Short sequences go together, up to the next long one.
    while (last < batch.sequences() && !is_long(last)) ++last;
    const auto train_together = [&](const Chunk& some) {
      const Stack::Pass pass = forward(ctx, some, some.states, options, true, saved);
      backward(ctx, some, {.values = some.states}, options, pass);
    };
    if (last - first == batch.sequences())
      train_together(all);
    else
      train_together(all.sequences(first, last));
  }
}

size_t LanguageModel::first_learning_block() const {
  if (embedding_.table().trainable) return 0;
  auto first = static_cast<size_t>(config_.layers);
  for (const ParameterStore::Entry& entry : trained().entries())
    if (entry.param->trainable) first = std::min(first, block_of(entry.spec.name).value_or(first));
  return first;
}

Stack::Pass LanguageModel::forward(const ExecutionContext& ctx, const Chunk& chunk,
                                   std::span<const State> states, const TrainingOptions& options,
                                   bool is_last, Arena& saved) const {
  ExecutionContext own = ctx;
  own.row_ids = chunk.batch.row_id;
  return run(
      own, chunk.batch, chunk.tokens, states,
      stack_.training_pass(
          chunk.batch.rows(),
          {.recompute = options.recompute, .first = first_learning_block(), .is_last = is_last},
          saved));
}

void LanguageModel::backward(const ExecutionContext& context, const Chunk& chunk,
                             const StackStates& states, const TrainingOptions& options,
                             const Stack::Pass& pass) {
  ExecutionContext ctx = context;
  ctx.cu_seqlens = chunk.batch.cu_seqlens;
  ctx.row_ids = chunk.batch.row_id;
  const Tensor d = pass.x.back();  // which only the head reads
  head_.train(ctx, chunk.batch, pass.x.back(), chunk.targets, options, {chunk.losses, d});
  stack_.backward(ctx, chunk.batch, pass, states, d,
                  [&](Tensor x) { embedding_.forward(ctx, chunk.batch, chunk.tokens, x); });
  if (embedding_.table().trainable) embedding_.backward(ctx, chunk.batch, chunk.tokens, d);
}

// Forward from the first chunk to the last, backward from the last to the first.
void LanguageModel::train_chunks(const ExecutionContext& ctx, const Chunk& all, int64_t b,
                                 const TrainingOptions& options, Arena& saved) {
  const int64_t start = all.batch.past_length(b), end = start + all.batch.length(b);
  const int64_t length = options.chunk_length;
  std::vector<Chunk> chunks;  // cut at multiples of `length` of the sequence
  for (int64_t begin = start, next; begin < end; begin = next) {
    next = std::min(end, begin / length * length + length);
    chunks.push_back(all.positions(b, begin, next));
  }
  const size_t N = chunks.size();

  const std::vector<size_t> bytes = stack_.state_bytes(end);
  std::optional<SequenceStateRef> states;
  if (all.states.empty())
    states.emplace(ctx, bytes, saved);
  else
    states.emplace(all.states, b);
  const SequenceStateRef dstates(ctx, bytes, saved);
  const auto forward_of = [&](size_t j) {
    const bool is_last = options.recompute.chunks || j + 1 == N;
    return forward(ctx, chunks[j], states->states(), options, is_last, saved);
  };
  const auto backward_of = [&](size_t j, const Stack::Pass& pass) {
    backward(ctx, chunks[j], {states->states(), dstates.states()}, options, pass);
  };

  // What chunk j begins with; the last, what the sequence leaves.
  StateCheckpoints checkpoints(ctx, bytes, N + 1, options.offload, saved);
  if (!options.recompute.chunks) {
    std::vector<Stack::Pass> passes;
    for (size_t j = 0; j < N; ++j) {
      checkpoints.put(j, *states);
      passes.push_back(forward_of(j));
    }
    checkpoints.put(N, *states);
    for (size_t j = N; j-- > 0;) {
      checkpoints.get(j + 1, *states);
      backward_of(j, passes[j]);
    }
  } else {
    for (size_t j = 0; j + 1 < N; ++j) {
      checkpoints.put(j, *states);
      Arena::Frame frame(ctx.scratch);
      ExecutionContext own = ctx;
      own.row_ids = chunks[j].batch.row_id;
      run(own, chunks[j].batch, chunks[j].tokens, states->states(),
          stack_.inference_pass(chunks[j].batch.rows(), ctx.scratch));
    }
    checkpoints.put(N - 1, *states);
    for (size_t j = N; j-- > 0;) {
      Arena::Frame frame(saved);
      checkpoints.get(j, *states);
      const Stack::Pass pass = forward_of(j);
      if (j + 1 == N) checkpoints.put(N, *states);
      backward_of(j, pass);
    }
  }
  checkpoints.get(N, *states);
}

}  // namespace refrain

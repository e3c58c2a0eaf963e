// Training of a LanguageModel: a window at once, or long sequences segment by segment.
#include <algorithm>
#include <cstring>

#include "refrain/io/scratch_file.h"
#include "refrain/kernels/elementwise/embedding.h"
#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/elementwise/rms_norm.h"
#include "refrain/kernels/loss/cross_entropy.h"
#include "refrain/layers/dropout.h"
#include "refrain/model/language_model.h"
#include "refrain/model/target_rows.h"

namespace refrain {
namespace {

constexpr uint64_t kEmbeddingSite = 0;

template <class T>
std::span<T> part(std::span<T> all, int64_t first, int64_t count) {
  return all.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
}

// Pieces [first, last) of a batch as a batch of their own, of one piece tokens [begin, end) only.
struct SubBatch {
  SubBatch(const RaggedBatch& w, int64_t first, int64_t last) : row(w.first(first)) {
    std::vector<int32_t> offset = {0}, start;
    for (int64_t b = first; b < last; ++b) {
      offset.push_back(static_cast<int32_t>(w.first(b) + w.length(b) - row));
      start.push_back(static_cast<int32_t>(w.past_length(b)));
    }
    batch = data_.set(offset, start, sequence(w));
  }
  SubBatch(const RaggedBatch& w, int64_t piece, int64_t begin, int64_t end)
      : row(w.first(piece) + begin - w.past_length(piece)) {
    const int32_t offset[] = {0, static_cast<int32_t>(end - begin)};
    const int32_t start[] = {static_cast<int32_t>(begin)};
    batch = data_.set(offset, start, sequence(w));
  }

  int64_t row;  // of the whole window, where this begins
  RaggedBatch batch;

 private:
  int64_t sequence(const RaggedBatch& w) const {
    return row < w.rows() ? static_cast<int64_t>(w.row_id[static_cast<size_t>(row)] >> 32) : 0;
  }
  RaggedBatchBuilder data_;
};

LanguageModel::Lesson part_of(const LanguageModel::Lesson& lesson, const SubBatch& sub) {
  LanguageModel::Lesson some = lesson;
  some.tokens = part(lesson.tokens, sub.row, sub.batch.rows());
  some.targets = part(lesson.targets, sub.row, sub.batch.rows());
  return some;
}

// One sequence's state in every block, as a window of one piece takes it.
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
  // Piece b's of a window's states.
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

// The states that segments begin with, in memory or on disk.
class StateCheckpoints {
 public:
  StateCheckpoints(const ExecutionContext& ctx, std::span<const size_t> bytes, size_t segments,
                   io::ScratchFile* file, Arena& arena)
      : dry_(ctx.planning()), bytes_(bytes), file_(file) {
    for (const size_t n : bytes) each_ += n;
    if (!file) memory_ = arena.take<std::byte>({static_cast<int64_t>(segments * each_)}).data;
  }
  void put(size_t segment, const SequenceStateRef& from) {
    move(segment, [&](size_t at, size_t l) {
      if (file_)
        file_->write(at, {from.row(l), bytes_[l]});
      else
        std::memcpy(memory_ + at, from.row(l), bytes_[l]);
    });
  }
  void get(size_t segment, const SequenceStateRef& to) const {
    move(segment, [&](size_t at, size_t l) {
      if (file_)
        file_->read(at, {to.row(l), bytes_[l]});
      else
        std::memcpy(to.row(l), memory_ + at, bytes_[l]);
    });
  }

 private:
  template <class F>
  void move(size_t segment, F&& one) const {
    size_t at = segment * each_;
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

bool LanguageModel::bounded_state() const {
  constexpr int64_t kLong = int64_t{1} << 30;
  return std::all_of(blocks_.begin(), blocks_.end(), [](const Block& block) {
    return block.state_bytes(kLong) == block.state_bytes(2 * kLong);
  });
}

void LanguageModel::train(const ExecutionContext& context, const RaggedBatch& w,
                          const Lesson& lesson, Tensor losses, Arena& saved) {
  ExecutionContext ctx = context;
  ctx.checkpoint_interval = lesson.recompute.checkpoint_interval;
  ctx.recompute = lesson.recompute.parts;
  ctx.compute_type = lesson.compute_type;
  const auto is_long = [&](int64_t b) { return w.length(b) > lesson.segment; };
  const bool segments = bounded_state();
  for (int64_t first = 0, last = 0; first < w.sequences(); first = last) {
    // Short sequences go together, up to the next long one.
    last = first + 1;
    if (segments && is_long(first)) {
      train_segments(ctx, w, first, lesson, losses, saved);
      continue;
    }
    while (last < w.sequences() && !(segments && is_long(last))) ++last;
    const bool all = first == 0 && last == w.sequences();
    Arena::Frame frame(saved);
    if (all) {
      const Pass pass = forward(ctx, w, lesson, lesson.states, saved);
      backward(ctx, w, lesson, pass, lesson.states, {}, losses, saved);
      continue;
    }
    const SubBatch some(w, first, last);
    std::vector<State> states;
    for (const State& state : lesson.states)
      states.push_back(
          {state.rows.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first))});
    const Lesson its = part_of(lesson, some);
    const Pass pass = forward(ctx, some.batch, its, states, saved);
    backward(ctx, some.batch, its, pass, states, {}, losses.slice(some.row, some.batch.rows()),
             saved);
  }
}

BlockRecompute LanguageModel::recompute_of(const Lesson& lesson, size_t block) const {
  const Recompute& recompute = lesson.recompute;
  return {.all = static_cast<int64_t>(block) < recompute.blocks,
          .mixer = recompute.mixers,
          .feed_forward = recompute.feed_forwards};
}

LanguageModel::Pass LanguageModel::forward(const ExecutionContext& context, const RaggedBatch& w,
                                           const Lesson& lesson, std::span<const State> states,
                                           Arena& saved) const {
  ExecutionContext ctx = context;
  Pass pass;
  for (size_t l = 0; l <= blocks_.size(); ++l)
    pass.x.push_back(saved.take({w.rows(), config_.d_model}));
  if (!ctx.planning()) kernels::embedding_forward(lesson.tokens, embedding_.w, pass.x[0]);
  apply_dropout(ctx, w, pass.x[0], kEmbeddingSite);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    pass.marks.push_back(saved.mark());
    blocks_[l].forward(ctx, w, pass.x[l], pass.x[l + 1], states.empty() ? nullptr : &states[l],
                       &saved, recompute_of(lesson, l));
  }
  return pass;
}

void LanguageModel::backward(const ExecutionContext& context, const RaggedBatch& w,
                             const Lesson& lesson, const Pass& pass, std::span<const State> states,
                             std::span<const State> dstates, Tensor losses, Arena& saved) {
  ExecutionContext ctx = context;
  ctx.pieces = w.cu_seqlens;
  Arena::Frame frame(ctx.scratch);
  const Tensor d = ctx.scratch.take({w.rows(), config_.d_model});
  train_head(ctx, w, pass.x.back(), lesson, losses, d);
  for (size_t l = blocks_.size(); l-- > 0;) {
    saved.rewind(pass.marks[l]);
    blocks_[l].backward(ctx, w, pass.x[l], d, states.empty() ? nullptr : &states[l],
                        dstates.empty() ? nullptr : &dstates[l], saved, recompute_of(lesson, l));
  }
  apply_dropout(ctx, w, d, kEmbeddingSite);
  if (!ctx.planning()) kernels::embedding_backward(lesson.tokens, d, lookup_gradient());
}

// Forward from the first segment to the last, backward from the last to the first.
void LanguageModel::train_segments(const ExecutionContext& context, const RaggedBatch& w, int64_t b,
                                   const Lesson& lesson, Tensor losses, Arena& saved) {
  ExecutionContext ctx = context;
  Arena::Frame frame(saved);
  const int64_t start = w.past_length(b), end = start + w.length(b), S = lesson.segment;
  std::vector<int64_t> cuts = {start};  // at multiples of S of the sequence
  while (cuts.back() < end) cuts.push_back(std::min(end, cuts.back() / S * S + S));
  const size_t N = cuts.size() - 1;

  std::vector<size_t> bytes;
  for (const Block& block : blocks_) bytes.push_back(block.state_bytes(end));
  std::optional<SequenceStateRef> states;
  if (lesson.states.empty())
    states.emplace(ctx, bytes, saved);
  else
    states.emplace(lesson.states, b);
  const SequenceStateRef dstates(ctx, bytes, saved);

  std::vector<SubBatch> parts;
  parts.reserve(N);
  for (size_t j = 0; j < N; ++j) parts.emplace_back(w, b, cuts[j], cuts[j + 1]);
  const auto forward_of = [&](size_t j) {
    return forward(ctx, parts[j].batch, part_of(lesson, parts[j]), states->states(), saved);
  };
  const auto backward_of = [&](size_t j, const Pass& pass) {
    const SubBatch& some = parts[j];
    backward(ctx, some.batch, part_of(lesson, some), pass, states->states(), dstates.states(),
             losses.slice(some.row, some.batch.rows()), saved);
  };

  // What segment j begins with; the last, what the sequence leaves.
  StateCheckpoints kept(ctx, bytes, N + 1, lesson.spill, saved);
  if (!lesson.recompute.segments) {
    std::vector<Pass> passes;
    for (size_t j = 0; j < N; ++j) {
      kept.put(j, *states);
      passes.push_back(forward_of(j));
    }
    kept.put(N, *states);
    for (size_t j = N; j-- > 0;) {
      kept.get(j + 1, *states);
      backward_of(j, passes[j]);
    }
  } else {
    for (size_t j = 0; j + 1 < N; ++j) {
      kept.put(j, *states);
      advance_states(ctx, parts[j].batch, part_of(lesson, parts[j]), states->states());
    }
    kept.put(N - 1, *states);
    for (size_t j = N; j-- > 0;) {
      Arena::Frame segment(saved);
      kept.get(j, *states);
      const Pass pass = forward_of(j);
      if (j + 1 == N) kept.put(N, *states);
      backward_of(j, pass);
    }
  }
  kept.get(N, *states);
}

// Carries the states over a window as forward() does, and keeps nothing else.
void LanguageModel::advance_states(const ExecutionContext& context, const RaggedBatch& w,
                                   const Lesson& lesson, std::span<const State> states) const {
  ExecutionContext ctx = context;
  Arena::Frame frame(ctx.scratch);
  Tensor x = ctx.scratch.take({w.rows(), config_.d_model});
  Tensor y = ctx.scratch.take({w.rows(), config_.d_model});
  if (!ctx.planning()) kernels::embedding_forward(lesson.tokens, embedding_.w, x);
  apply_dropout(ctx, w, x, kEmbeddingSite);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    blocks_[l].forward(ctx, w, x, y, &states[l], nullptr, {});
    std::swap(x, y);
  }
}

// In slices of the supervised rows, forward and backward at once: the logits never exist whole.
void LanguageModel::train_head(const ExecutionContext& context, const RaggedBatch& w, ConstTensor x,
                               const Lesson& lesson, Tensor losses, Tensor d) {
  ExecutionContext ctx = context;
  Arena::Frame frame(ctx.scratch);
  const TargetRows all(w, lesson.targets);
  const int64_t n = all.size(), D = config_.d_model;
  REFRAIN_CHECK(lesson.head_rows == 0 || lesson.head_rows >= kernels::kRowGroup);
  const int64_t slice = std::min(n, lesson.head_rows > 0 ? lesson.head_rows : slice_rows());
  const Tensor logits = ctx.scratch.take({slice, config_.vocab_size});
  const Tensor dnormed = ctx.scratch.take({slice, D}), row_losses = ctx.scratch.take({slice});
  if (!ctx.planning()) {
    std::fill(d.begin(), d.end(), 0.0f);
    std::fill(losses.begin(), losses.end(), 0.0f);
  }
  for (int64_t first = 0, count = 0; first < n; first += count) {
    Arena::Frame slice_frame(ctx.scratch);
    const std::vector<int32_t> pieces = all.pieces(first, std::min(n, first + slice));
    ctx.pieces = pieces;
    count = pieces.back();
    const std::span<const int32_t> rows = all.rows(first, count);
    const HeadInput in = head_input(ctx, x, rows);
    const Tensor part_logits = logits.slice(0, count), dpart = dnormed.slice(0, count);
    head_forward(ctx, in.normed, part_logits);
    if (!ctx.planning())
      kernels::softmax_cross_entropy(part_logits, all.targets(first, count), lesson.scale,
                                     lesson.label_smoothing, row_losses.slice(0, count));
    kernels::linear_backward_input(part_logits, head().w, dpart, ctx.scratch, ctx.over_features());
    kernels::linear_backward_weight(part_logits, in.normed, head().g, ctx.scratch, ctx.over_rows());
    if (config_.bare() && !ctx.planning()) kernels::column_sum_add(part_logits, head_bias_.g);
    if (ctx.planning()) continue;
    Tensor dx = dpart;
    if (!config_.bare()) {
      dx = in.normed;  // which nobody reads any more
      kernels::rms_norm_backward(in.x, norm_.w, in.r, dpart, dx, norm_.g, false);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int32_t row = rows[static_cast<size_t>(i)];
      std::copy_n(dx.row(i), D, d.row(row));
      losses.data[row] = row_losses.data[i];
    }
  }
}

}  // namespace refrain

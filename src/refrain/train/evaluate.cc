#include "refrain/train/evaluate.h"

#include <algorithm>
#include <vector>

#include "refrain/base/clock.h"
#include "refrain/base/error.h"
#include "refrain/train/batch_part.h"

namespace refrain {

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
    if (in_chunks) begin_sequences(model, all, longest, states);
    const int64_t length = in_chunks ? chunk_length : longest;
    for (int64_t begin = 0; begin < longest; begin += length) {
      if (should_stop && should_stop()) return {.stopped = true};
      const BatchPart part(batch, 0, all, begin, begin + length);
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

EvaluationResult evaluate_streams(const LanguageModel& model, const data::DataSet& data,
                                  const StreamOptions& options, Workspace& workspace,
                                  const ShouldStop& should_stop) {
  const auto start = Clock::now();
  const int64_t targets = data.tokens() - 1;
  if (targets < 1) throw_error("evaluation: the data holds no token to predict");
  REFRAIN_CHECK(model.bounded_state() && !data.has_pairs());
  const int64_t wanted = std::clamp<int64_t>(options.streams, 1, targets);
  const int64_t length = (targets + wanted - 1) / wanted;
  const int64_t streams = (targets + length - 1) / length;  // the last may be shorter
  std::vector<double> sums(static_cast<size_t>(streams));   // so that `together` changes no bit
  std::vector<SequenceState> states;
  std::vector<float> losses;
  data::Batch batch;
  for (int64_t first = 0, last = 0; first < streams; first = last) {
    last = std::min(streams, first + std::max<int64_t>(1, options.together));
    begin_sequences(model, last - first, kEndlessStream, states);
    for (int64_t begin = 0; begin < length; begin += options.chunk_length) {
      if (should_stop && should_stop()) return {.stopped = true};
      batch.clear();
      batch.past_length = begin;
      for (int64_t b = first; b < last; ++b) {
        const int64_t own = std::min(length, targets - b * length);
        const int64_t rows = std::clamp<int64_t>(own - begin, 0, options.chunk_length);
        if (rows > 0)
          data::add_rows(data, b * length + begin, rows, batch);
        else
          batch.cu_seqlens.push_back(batch.cu_seqlens.back());
      }
      const BatchPart part(batch, 0, last - first, 0, options.chunk_length);
      const StateView view = view_of(states, 0, last - first, model.config().layers);
      losses.resize(part.tokens.size());
      const Tensor row_losses(losses.data(), {part.ragged.rows()});
      workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
        model.losses(ctx, part.ragged, part.tokens, part.targets, view.states(), row_losses);
      });
      for (int64_t b = first; b < last; ++b)
        for (int64_t r = part.ragged.first(b - first), n = part.ragged.length(b - first); n > 0;
             --n, ++r)
          sums[static_cast<size_t>(b)] += static_cast<double>(losses[static_cast<size_t>(r)]);
    }
  }
  EvaluationResult result{.tokens = targets};
  for (const double sum : sums) result.loss += sum / static_cast<double>(targets);
  result.seconds = seconds_since(start);
  return result;
}

}  // namespace refrain

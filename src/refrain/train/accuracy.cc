#include "refrain/train/accuracy.h"

#include <algorithm>
#include <vector>

namespace refrain {

Accuracy measure_accuracy(const LanguageModel& model, const data::DataSet& data,
                          const data::BatchConfig& config, Workspace& workspace) {
  Accuracy result;
  data::Batch batch;
  RaggedBatchBuilder builder;
  for (int64_t cursor = 0; data::next_in_order(data, config, batch, cursor);) {
    const std::vector<int32_t> start(static_cast<size_t>(batch.sequences()), 0);
    const RaggedBatch ragged = builder.set(batch.cu_seqlens, start);
    std::vector<int32_t> rows;
    for (size_t row = 0; row < batch.targets.size(); ++row)
      if (batch.targets[row] != data::kIgnore) rows.push_back(static_cast<int32_t>(row));
    std::vector<bool> correct(batch.targets.size(), true);
    workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
      const Tensor logits = ctx.scratch.take({std::ssize(rows), model.config().vocab_size});
      model.logits(ctx, ragged, batch.tokens, {}, rows, logits);
      if (ctx.planning()) return;
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto row = static_cast<size_t>(rows[i]);
        const float* of_row = logits.row(static_cast<int64_t>(i));
        const auto likeliest = std::max_element(of_row, of_row + logits.cols()) - of_row;
        correct[row] = likeliest == batch.targets[row];
        result.correct += correct[row];
      }
    });
    result.total += batch.supervised;
    result.sequences += batch.sequences();
    for (size_t b = 0; b + 1 < batch.cu_seqlens.size(); ++b)
      result.exact_match +=
          std::all_of(correct.begin() + batch.cu_seqlens[b],
                      correct.begin() + batch.cu_seqlens[b + 1], [](bool r) { return r; });
  }
  return result;
}

}  // namespace refrain

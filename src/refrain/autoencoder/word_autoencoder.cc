#include "refrain/autoencoder/word_autoencoder.h"

#include <algorithm>
#include <cmath>

#include "refrain/autoencoder/curriculum.h"
#include "refrain/base/clock.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/kernels/elementwise/embedding.h"

namespace refrain {
namespace {

constexpr const char* kTask = "/refrain.json";

// Rows whose cosines to all words exist at a time, where so many windows are scored together.
int64_t rows_compared(int64_t together) { return 8 * together; }

void find_nearest(ConstTensor y, ConstTensor table, ExecutionContext& ctx,
                  std::vector<int32_t>* nearest) {
  const int64_t V = table.rows(), E = table.cols();
  // |y| does not matter, |x| does.
  const Tensor units = ctx.scratch.take({V, E}), scores = ctx.scratch.take({y.rows(), V});
  for (int64_t v = 0; v < V && !ctx.planning(); ++v) {
    double squares = 0;
    for (int64_t i = 0; i < E; ++i)
      squares += static_cast<double>(table.row(v)[i]) * static_cast<double>(table.row(v)[i]);
    const auto to_unit = static_cast<float>(squares > 0 ? 1 / std::sqrt(squares) : 0);
    for (int64_t i = 0; i < E; ++i) units.row(v)[i] = to_unit * table.row(v)[i];
  }
  Linear compare{E, V};
  compare.w.w = units;
  compare.forward(ctx, y, scores);
  for (int64_t r = 0; r < y.rows() && !ctx.planning(); ++r)
    nearest->push_back(
        static_cast<int32_t>(std::max_element(scores.row(r), scores.row(r) + V) - scores.row(r)));
}

}  // namespace

Autoencoder::TrainingBatch WordAutoencoder::training_batch(const ExecutionContext& ctx,
                                                           std::span<const int32_t> ids,
                                                           Arena& saved) const {
  const Tensor x = saved.take({std::ssize(ids), model->config().width});
  if (!ctx.planning()) kernels::embedding_forward(ids, table(), x);
  Autoencoder::TrainingBatch training{.x = x};
  if (model->config().vocab_size > 0) training.tokens = ids;
  return training;
}

void WordAutoencoder::write_files(const std::string& directory) const {
  model->save_config(directory);
  words.save(directory);
  io::write_file(
      directory + kTask,
      io::to_text({{"task", "reconstruct"}, {"window", window}, {"min_window", min_window}}));
}

WordAutoencoder WordAutoencoder::load(const std::string& directory) {
  const std::string path = directory + kTask;
  const io::Json json = io::read_json(path);
  if (io::get_string(json, "task", path) != "reconstruct")
    throw_error("{}: task: expected \"reconstruct\", found {}", path, io::describe(json["task"]));
  const int64_t shortest = io::get_int(json, "min_window", path, 1, kLongestWindow);
  const int64_t window = io::get_int(json, "window", path, shortest, kLongestWindow);
  Embeddings words = Embeddings::load(directory);
  std::unique_ptr<Autoencoder> model = Autoencoder::load(directory);
  const AutoencoderConfig& config = model->config();
  if (config.vocab_size > 0 ? config.vocab_size != words.size()
                            : words.values().empty() || config.width != words.width())
    throw_error(
        "{}: the model's vectors ([{}, {}]) and its words ([{}, {}]) do not belong together",
        directory, config.vocab_size, config.width, words.size(), words.width());
  return {std::move(model), std::move(words), window, shortest};
}

WindowRows::WindowRows(std::span<const std::span<const int32_t>> windows, int64_t first) {
  std::vector<int32_t> offsets = {0};
  for (const std::span<const int32_t> one : windows) {
    ids.insert(ids.end(), one.begin(), one.end());
    offsets.push_back(static_cast<int32_t>(ids.size()));
  }
  batch = builder_.set(offsets, std::vector<int32_t>(windows.size(), 0), first);
}

std::vector<std::span<const int32_t>> cut_windows(std::span<const int32_t> document, int64_t window,
                                                  int64_t shortest) {
  std::vector<std::span<const int32_t>> all;
  while (std::ssize(document) >= shortest) {
    const auto n = std::min(document.size(), static_cast<size_t>(window));
    all.push_back(document.first(n));
    document = document.subspan(n);
  }
  return all;
}

std::vector<float> reconstruct_windows(const WordAutoencoder& model,
                                       std::span<const std::span<const int32_t>> windows,
                                       Workspace& workspace, std::vector<std::vector<float>>* map) {
  const int64_t E = model.model->config().width;
  std::vector<float> all;
  std::vector<std::vector<float>> part_map;
  for (size_t first = 0; first < windows.size(); first += kWindowsTogether) {
    const size_t n = std::min<size_t>(kWindowsTogether, windows.size() - first);
    const WindowRows rows(windows.subspan(first, n));
    const int64_t R = rows.batch.rows();
    all.resize(all.size() + static_cast<size_t>(R * E));
    const Tensor y(all.data() + all.size() - static_cast<size_t>(R * E), {R, E});
    workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
      const Tensor x = ctx.scratch.take({R, E});
      if (!ctx.planning()) kernels::embedding_forward(rows.ids, model.table(), x);
      model.model->reconstruct(ctx, rows.batch, x, y, map ? &part_map : nullptr);
    });
    if (map) std::move(part_map.begin(), part_map.end(), std::back_inserter(*map));
  }
  return all;
}

std::vector<int32_t> nearest_words(ConstTensor y, ConstTensor table, Workspace& workspace,
                                   int64_t together) {
  std::vector<int32_t> nearest;
  for (int64_t first = 0; first < y.rows(); first += together) {
    const ConstTensor part = y.slice(first, std::min(together, y.rows() - first));
    workspace.run({},
                  [&](ExecutionContext& ctx, Arena&) { find_nearest(part, table, ctx, &nearest); });
  }
  return nearest;
}

ReconstructionScores score_reconstruction(const WordAutoencoder& model, const Documents& documents,
                                          Workspace& workspace, int64_t together,
                                          const ShouldStop& should_stop) {
  const auto start = Clock::now();
  ReconstructionScores scores;
  std::vector<std::span<const int32_t>> windows;
  for (const auto& document : documents)
    for (const auto& one : cut_windows(document, model.window, model.min_window))
      windows.push_back(one);
  if (windows.empty())
    throw_error("expected a document of at least {} words that have vectors, found none",
                model.min_window);
  const int64_t E = model.model->config().width;
  std::vector<float> x, losses, cosines;
  for (size_t first = 0; first < windows.size(); first += static_cast<size_t>(together)) {
    if (should_stop && should_stop()) return {.stopped = true};
    const size_t n = std::min(static_cast<size_t>(together), windows.size() - first);
    const auto part = std::span(windows).subspan(first, n);
    const std::vector<float> made = reconstruct_windows(model, part, workspace);
    const WindowRows rows(part);
    const int64_t R = rows.batch.rows();
    const ConstTensor y(made.data(), {R, E});
    x.resize(made.size());
    losses.resize(rows.ids.size());
    cosines.resize(rows.ids.size());
    kernels::embedding_forward(rows.ids, model.table(), {x.data(), {R, E}});
    model.model->score(y, {x.data(), {R, E}}, {losses.data(), {R}}, {cosines.data(), {R}});
    const std::vector<int32_t> nearest =
        nearest_words(y, model.table(), workspace, rows_compared(together));
    for (size_t r = 0; r < rows.ids.size(); ++r) {
      scores.loss += static_cast<double>(losses[r]);
      scores.cosine += static_cast<double>(cosines[r]);
      scores.recovery += nearest[r] == rows.ids[r] ? 1 : 0;
    }
    scores.words += R;
  }
  for (double* mean : {&scores.loss, &scores.cosine, &scores.recovery})
    *mean /= static_cast<double>(scores.words);
  scores.windows = std::ssize(windows);
  scores.seconds = seconds_since(start);
  return scores;
}

size_t scoring_bytes(const WordAutoencoder& model, int64_t together) {
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(together, model.window);
  const int64_t R = batch.rows(), E = model.model->config().width;
  const StepBytes made = count_bytes([&](ExecutionContext& ctx, Arena&) {
    const Tensor x = ctx.scratch.take({R, E});
    model.model->reconstruct(ctx, batch, x, {nowhere(), {R, E}});
  });
  const int64_t compared = std::min(R, rows_compared(together));
  const StepBytes nearest = count_bytes([&](ExecutionContext& ctx, Arena&) {
    find_nearest({nowhere(), {compared, E}}, model.table(), ctx, nullptr);
  });
  const auto kept = static_cast<size_t>(R * (2 * E + 4)) * sizeof(float);
  return std::max(made.total(), nearest.total()) + kept;
}

}  // namespace refrain

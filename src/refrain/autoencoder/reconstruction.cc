#include "refrain/autoencoder/reconstruction.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <sstream>

#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/kernels/elementwise/embedding.h"

namespace refrain {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kTask = "/refrain.json";
constexpr int64_t kLongest = 1 << 16;

double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

template <class T>
std::vector<T> parse_list(const char* name, const std::string& text, T low, T high) {
  std::vector<T> all;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    T value;
    SettingMap::parse(name, word, value);
    if (!(value >= low && value <= high))
      throw_error("{}: expected {} to {}, found {}", name, low, high, value);
    all.push_back(value);
  }
  if (all.empty()) throw_error("{}: expected a number or more, found none", name);
  return all;
}

template <class T>
T stage_of(const std::vector<T>& stages, int64_t step, int64_t total) {
  const auto n = std::ssize(stages);
  return stages[static_cast<size_t>(std::min(n - 1, n * step / std::max<int64_t>(total, 1)))];
}

// Windows end to end, as a model takes them.
struct Rows {
  Rows(std::span<const std::span<const int32_t>> windows, int64_t first_sequence) {
    std::vector<int32_t> offset = {0};
    for (const std::span<const int32_t> one : windows) {
      ids.insert(ids.end(), one.begin(), one.end());
      offset.push_back(static_cast<int32_t>(ids.size()));
    }
    batch = data_.set(offset, std::vector<int32_t>(windows.size(), 0), first_sequence);
  }
  std::vector<int32_t> ids;
  RaggedBatch batch;

 private:
  RaggedBatchBuilder data_;
};

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
  kernels::linear_forward(y, units, scores, ctx.scratch);
  for (int64_t r = 0; r < y.rows() && !ctx.planning(); ++r)
    nearest->push_back(
        static_cast<int32_t>(std::max_element(scores.row(r), scores.row(r) + V) - scores.row(r)));
}

}  // namespace

Stages::Stages(const Curriculum& c) : shortest(c.min_window) {
  if (shortest < 1 || shortest > kLongest)
    throw_error("min_window: expected 1 to {}, found {}", kLongest, shortest);
  window = parse_list<int64_t>("window", c.window, shortest, kLongest);
  forcing = parse_list<double>("teacher_forcing", c.teacher_forcing, 0, 1);
}
int64_t Stages::window_at(int64_t step, int64_t total) const {
  return stage_of(window, step, total);
}
double Stages::forcing_at(int64_t step, int64_t total) const {
  return stage_of(forcing, step, total);
}
int64_t Stages::longest() const { return *std::max_element(window.begin(), window.end()); }

void WordAutoencoder::describe(const std::string& directory) const {
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
  const int64_t shortest = io::get_int(json, "min_window", path, 1, kLongest);
  const int64_t window = io::get_int(json, "window", path, shortest, kLongest);
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
    const Rows rows(windows.subspan(first, n), 0);
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
    const Rows rows(part, 0);
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

void train_on_words(const WordAutoencoder& words, ExecutionContext& ctx, const RaggedBatch& w,
                    std::span<const int32_t> ids, std::span<const uint8_t> forced, float scale,
                    Tensor losses, Tensor cosines, Arena& saved) {
  Autoencoder& model = *words.model;
  const Tensor x = saved.take({w.rows(), model.config().width});
  if (!ctx.planning()) kernels::embedding_forward(ids, words.table(), x);
  Autoencoder::Lesson lesson{.x = x, .forced = forced, .scale = scale};
  if (model.config().vocab_size > 0) lesson.tokens = ids;
  model.train(ctx, w, lesson, losses, cosines, saved);
}

ReconstructionTrainer::ReconstructionTrainer(WordAutoencoder& model, Documents train,
                                             Documents valid, const TrainConfig& config,
                                             const Curriculum& curriculum,
                                             const RunDirectory& directory, const Plan& plan)
    : model_(model),
      train_(std::move(train)),
      valid_(std::move(valid)),
      config_(config),
      stages_(curriculum),
      directory_(directory),
      plan_(plan),
      optimizer_(model_.model->parameters(), config) {
  config_.check();
  const TrainingLength length = parse_length(config_.max_steps);
  if (length.unit != TrainingLength::kSteps)
    throw_error("max_steps: expected steps (2000), as windows are drawn, found '{}'",
                config_.max_steps);
  total_steps_ = static_cast<int64_t>(length.amount);
  for (const auto& document : train_) {
    places_before_.push_back(places_);
    places_ += std::max<int64_t>(0, std::ssize(document) - stages_.shortest + 1);
  }
  if (plan_.budget > 0) workspace_.fix(plan_.activations());
  if (places_ == 0)
    throw_error(
        "expected a document to learn from of at least {} words that have vectors "
        "(min_window), found none",
        stages_.shortest);
  const auto has_window = [&](const auto& d) { return std::ssize(d) >= stages_.shortest; };
  if (!valid_.empty() && std::none_of(valid_.begin(), valid_.end(), has_window))
    throw_error(
        "expected a held-out document of at least {} words that have vectors "
        "(min_window), found none",
        stages_.shortest);
  check_evaluations(config_, !valid_.empty());
}

bool ReconstructionTrainer::resume() {
  const std::optional<TrainerState> state = directory_.load_newest(
      [&](const std::string& from) { model_.model->load_weights(from); }, optimizer_,
      [&](const TrainerState& s, const std::string& name) {
        if (s.position != data::Batches::Position{})
          throw_error(
              "{}: epoch and batches_of_epoch: expected 0, for windows are drawn, found {} "
              "and {}",
              name, s.position.epoch, s.position.index);
        const int64_t windows = config_.batch_size * config_.gradient_accumulation_steps;
        check_tokens_seen(s, windows * stages_.longest(), name);
      });
  if (!state) return false;
  state_ = *state;
  return true;
}

std::span<const int32_t> ReconstructionTrainer::draw_window(int64_t i) const {
  Random random(mix_key(
      mix_key(static_cast<uint64_t>(config_.seed), "window", static_cast<uint64_t>(state_.step)),
      "of the batch", static_cast<uint64_t>(i)));
  const auto place = static_cast<int64_t>(random.below(static_cast<uint64_t>(places_)));
  // The last document that begins at or before it; those without a place share their successor's.
  const auto next = std::upper_bound(places_before_.begin(), places_before_.end(), place);
  const auto d = static_cast<size_t>(next - places_before_.begin() - 1);
  const std::span<const int32_t> rest =
      std::span<const int32_t>(train_[d]).subspan(static_cast<size_t>(place - places_before_[d]));
  const auto length = static_cast<size_t>(stages_.window_at(state_.step, total_steps_));
  return rest.first(std::min(rest.size(), length));
}

TrainingLoop::Gradient ReconstructionTrainer::next_gradient() {
  const int64_t batch = config_.batch_size * config_.gradient_accumulation_steps;
  std::vector<std::span<const int32_t>> windows;
  int64_t words = 0;
  for (int64_t i = 0; i < batch; ++i) {
    windows.push_back(draw_window(i));
    words += std::ssize(windows.back());
  }
  std::vector<uint8_t> forced;
  Random coins(mix_key(static_cast<uint64_t>(config_.seed), "teacher forcing",
                       static_cast<uint64_t>(state_.step)));
  const double chance = stages_.forcing_at(state_.step, total_steps_);
  for (int64_t t = 0; t < stages_.longest(); ++t) forced.push_back(coins.uniform() < chance);

  double loss = 0, cosine = 0;
  std::vector<float> losses, cosines;
  model_.model->parameters().clear_gradients();
  for (int64_t first = 0; first < batch; first += plan_.sequences) {
    const int64_t n = std::min(plan_.sequences, batch - first);
    const Rows rows(std::span<const std::span<const int32_t>>(windows).subspan(
                        static_cast<size_t>(first), static_cast<size_t>(n)),
                    first);
    const int64_t R = rows.batch.rows();
    losses.resize(rows.ids.size());
    cosines.resize(rows.ids.size());
    workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      train_on_words(model_, ctx, rows.batch, rows.ids, forced, 1 / static_cast<float>(words),
                     {losses.data(), {R}}, {cosines.data(), {R}}, saved);
    });
    for (size_t r = 0; r < losses.size(); ++r) {
      loss += static_cast<double>(losses[r]) / static_cast<double>(words);
      cosine += static_cast<double>(cosines[r]) / static_cast<double>(words);
    }
  }
  return {.loss = loss, .tokens = words, .metrics = {{"cosine", cosine}}};
}

TrainingLoop::Score ReconstructionTrainer::evaluate_held_out(const ShouldStop& should_stop) {
  const ReconstructionScores scores =
      score_reconstruction(model_, valid_, workspace_, plan_.evaluation_sequences, should_stop);
  return {.evaluation = {scores.loss, scores.words, scores.seconds, scores.stopped},
          .metrics = {{"eval_cosine", scores.cosine}, {"eval_recovery", scores.recovery}}};
}

TrainingEnd ReconstructionTrainer::run(const TrainerEvents& events, int64_t stop_after) {
  TrainingLoop::Learner learner{
      .next_gradient = [this] { return next_gradient(); },
      .epoch =
          [this] { return static_cast<double>(state_.tokens_seen) / static_cast<double>(places_); },
      .write_weights = [this](const std::string& path) { model_.model->save_weights(path); },
      .describe = [this](const std::string& to) { model_.describe(to); }};
  if (!valid_.empty())
    learner.evaluate = [this](const ShouldStop& stop) { return evaluate_held_out(stop); };
  return TrainingLoop(std::move(learner), config_, total_steps_, directory_, optimizer_, state_)
      .run(events, stop_after);
}

}  // namespace refrain

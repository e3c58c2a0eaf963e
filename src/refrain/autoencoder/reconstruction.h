// Training of a sequence autoencoder: windows of words drawn from documents, a curriculum, and the
// loop of training_loop.h around them.
//
// Window i of step s is a function of (seed, s, i): it starts at a word of the data drawn with
// equal chances among those with room for the shortest window behind them, and is as long as the
// stage of the curriculum says or as its document has words left. Whether step t of the decoder is
// forced is a coin of (seed, s, t), the same for all windows. So threads, micro-batches, and where
// a run was stopped and resumed never change a bit.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "refrain/autoencoder/autoencoder.h"
#include "refrain/autoencoder/embeddings.h"
#include "refrain/model/workspace.h"
#include "refrain/train/plan.h"
#include "refrain/train/training_loop.h"

namespace refrain {

struct Curriculum {
  std::string window = "20 35 50";
  std::string teacher_forcing = "0.9 0.7 0.3 0.1";
  int64_t min_window = 5;

  template <class V>
  void visit(V&& v) {
    v("window", window, "words of a window, stage after stage in equal shares of the steps");
    v("teacher_forcing", teacher_forcing,
      "chance that a step of the decoder is given the true word before it, likewise");
    v("min_window", min_window, "words that a window must have at least");
  }
};

// A curriculum taken apart; an Error names what is out of range.
struct Stages {
  explicit Stages(const Curriculum&);
  std::vector<int64_t> window;
  std::vector<double> forcing;
  int64_t shortest;

  // Of step `step` (from 0) of `total`.
  int64_t window_at(int64_t step, int64_t total) const;
  double forcing_at(int64_t step, int64_t total) const;
  int64_t longest() const;
};

// Ids of visible words, document by document.
using Documents = std::vector<std::vector<int32_t>>;

struct ReconstructionScores {
  double loss = 0, cosine = 0;
  double recovery = 0;  // share of words whose vector is the nearest, by cosine, to the output
  int64_t words = 0, windows = 0;
  double seconds = 0;
  bool stopped = false;  // before its end: the other numbers say nothing
};

// A model with all that it needs to read words.
struct WordAutoencoder {
  std::unique_ptr<Autoencoder> model;
  Embeddings words;
  int64_t window, min_window;

  // [words, width], learned or given.
  ConstTensor table() const {
    return model->config().vocab_size > 0 ? model->table() : words.table();
  }
  // Everything but the weights: config.json, the words, refrain.json (task, window, min_window).
  void describe(const std::string& directory) const;
  static WordAutoencoder load(const std::string& directory);
};

// Windows of a document, one after another; a rest that is too short is left out.
std::vector<std::span<const int32_t>> cut_windows(std::span<const int32_t> document, int64_t window,
                                                  int64_t shortest);

// What the model makes of windows without being given a word: outputs [words, width], row by row.
// `map` as in Autoencoder::reconstruct.
std::vector<float> reconstruct_windows(const WordAutoencoder&,
                                       std::span<const std::span<const int32_t>> windows,
                                       Workspace&, std::vector<std::vector<float>>* map = nullptr);

// For every row of y [n, width] the word whose vector has the highest cosine to it. So many rows
// `together`, which bounds memory.
std::vector<int32_t> nearest_words(ConstTensor y, ConstTensor table, Workspace&,
                                   int64_t together = 256);

// Windows that are reconstructed together, where nothing else is query for.
inline constexpr int64_t kWindowsTogether = 32;

// An Error when no document has a whole window. What comes out does not depend on `together`, which
// bounds memory.
ReconstructionScores score_reconstruction(const WordAutoencoder&, const Documents&, Workspace&,
                                          int64_t together = kWindowsTogether,
                                          const ShouldStop& = {});
// Most of the memory that it takes with windows of the model's length.
size_t scoring_bytes(const WordAutoencoder&, int64_t together);

// Adds to the model's gradients those of scale * (sum of the losses of words `ids`, [R], laid out
// as the window says); losses and cosines [R].
void train_on_words(const WordAutoencoder&, ExecutionContext&, const RaggedBatch&,
                    std::span<const int32_t> ids, std::span<const uint8_t> forced, float scale,
                    Tensor losses, Tensor cosines, Arena& saved);

class ReconstructionTrainer {
 public:
  ReconstructionTrainer(WordAutoencoder&, Documents train, Documents valid, const TrainConfig&,
                        const Curriculum&, const RunDirectory&, const Plan&);

  // As Trainer's.
  bool resume();
  TrainingEnd run(const TrainerEvents&, int64_t stop_after = 0);
  const TrainerState& state() const { return state_; }
  int64_t total_steps() const { return total_steps_; }
  int64_t places() const { return places_; }  // where windows may start

 private:
  std::span<const int32_t> draw_window(int64_t i) const;
  TrainingLoop::Gradient next_gradient();
  TrainingLoop::Score evaluate_held_out(const ShouldStop&);

  WordAutoencoder& model_;
  Documents train_, valid_;
  std::vector<int64_t> places_before_;  // of each document: in those before it
  int64_t places_ = 0;
  TrainConfig config_;
  Stages stages_;
  const RunDirectory& directory_;
  Plan plan_;
  Optimizer optimizer_;
  Workspace workspace_;
  TrainerState state_;
  int64_t total_steps_ = 0;
};

}  // namespace refrain

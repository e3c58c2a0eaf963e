// A sequence autoencoder together with its words: its directory, reconstruction of windows of
// words, and scores.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "refrain/autoencoder/autoencoder.h"
#include "refrain/autoencoder/embeddings.h"
#include "refrain/model/workspace.h"
#include "refrain/train/training_task.h"

namespace refrain {

// Ids of visible words, document by document.
using Documents = std::vector<std::vector<int32_t>>;

struct ReconstructionScores {
  double loss = 0, cosine = 0;
  double recovery = 0;  // share of words whose vector is the nearest, by cosine, to the output
  int64_t words = 0, windows = 0;
  double seconds = 0;
  bool stopped = false;  // before its end: the other numbers say nothing
};

// A model with everything that it needs to read words.
struct WordAutoencoder {
  std::unique_ptr<Autoencoder> model;
  Embeddings words;
  int64_t window, min_window;

  // [words, width], learned or given.
  ConstTensor table() const {
    return model->config().vocab_size > 0 ? model->table() : words.table();
  }
  // A training batch of the words `ids` [R]; their vectors are allocated from `saved`.
  Autoencoder::TrainingBatch training_batch(const ExecutionContext&, std::span<const int32_t> ids,
                                            Arena& saved) const;

  // Everything but the weights: config.json, the words, refrain.json (task, window, min_window).
  void write_files(const std::string& directory) const;
  static WordAutoencoder load(const std::string& directory);
};

// The windows of a document, one after another; a rest that is too short is left out.
std::vector<std::span<const int32_t>> cut_windows(std::span<const int32_t> document, int64_t window,
                                                  int64_t shortest);

// Windows laid end to end, as a model takes them.
class WindowRows {
 public:
  // The first is window `first` of its optimiser batch.
  explicit WindowRows(std::span<const std::span<const int32_t>> windows, int64_t first = 0);
  std::vector<int32_t> ids;  // [R]
  RaggedBatch batch;

 private:
  RaggedBatchBuilder builder_;
};

// Reconstructs windows without forced steps: outputs [words, width], row by row. `map` as in
// Autoencoder::reconstruct.
std::vector<float> reconstruct_windows(const WordAutoencoder&,
                                       std::span<const std::span<const int32_t>> windows,
                                       Workspace&, std::vector<std::vector<float>>* map = nullptr);

// For every row of y [n, width] the word whose vector has the highest cosine to it. `together` rows
// at a time, which limits memory.
std::vector<int32_t> nearest_words(ConstTensor y, ConstTensor table, Workspace&,
                                   int64_t together = 256);

// The default number of windows that are reconstructed together.
inline constexpr int64_t kWindowsTogether = 32;

// An Error if no document has a whole window. The result does not depend on `together`, which
// limits memory.
ReconstructionScores score_reconstruction(const WordAutoencoder&, const Documents&, Workspace&,
                                          int64_t together = kWindowsTogether,
                                          const ShouldStop& = {});
// Most of the memory that scoring needs, with windows of the model's length.
size_t scoring_bytes(const WordAutoencoder&, int64_t together);

}  // namespace refrain

// A sequence autoencoder with the words that it reads: its directory, what it makes of windows of
// words, and how well.
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

// A model with all that it needs to read words.
struct WordAutoencoder {
  std::unique_ptr<Autoencoder> model;
  Embeddings words;
  int64_t window, min_window;

  // [words, width], learned or given.
  ConstTensor table() const {
    return model->config().vocab_size > 0 ? model->table() : words.table();
  }
  // To train the model on words `ids` [R]; their vectors are taken from `saved`.
  Autoencoder::TrainingBatch training_batch(const ExecutionContext&, std::span<const int32_t> ids,
                                            Arena& saved) const;

  // Everything but the weights: config.json, the words, refrain.json (task, window, min_window).
  void write_files(const std::string& directory) const;
  static WordAutoencoder load(const std::string& directory);
};

// Windows of a document, one after another; a rest that is too short is left out.
std::vector<std::span<const int32_t>> cut_windows(std::span<const int32_t> document, int64_t window,
                                                  int64_t shortest);

// Windows end to end, as a model takes them.
class WindowRows {
 public:
  // The first is window `first` of its optimiser batch.
  explicit WindowRows(std::span<const std::span<const int32_t>> windows, int64_t first = 0);
  std::vector<int32_t> ids;  // [R]
  RaggedBatch batch;

 private:
  RaggedBatchBuilder builder_;
};

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

}  // namespace refrain

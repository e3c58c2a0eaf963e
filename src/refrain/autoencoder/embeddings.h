// Words and their vectors: the tables with which a sequence autoencoder reads words.
//
// A word is a run of letters, digits and inner apostrophes, in lower case (for ASCII; bytes of
// other scripts stay as they are and count as letters). Any other visible character is a word of
// its own: "Don't stop, Emily!" is don't | stop | , | emily | !
//
// A document is a file, or a part of a file that two or more blank lines separate from the next
// (one blank line separates the stanzas of a poem). Training and test data consist of documents.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "refrain/base/tensor.h"

namespace refrain {

using Words = std::vector<std::string>;

Words words_of(std::string_view text);
// The documents of all files, in order; documents without a word are left out. Text that is not
// UTF-8 is an Error. In plain text two blank lines separate documents; in files of objects
// (source.h) each object is one.
std::vector<Words> read_documents(std::span<const std::string> paths);
uint64_t fingerprint_of(std::span<const Words> documents);
// The second part is documents from the end on, until they hold `share` of all words. The first
// document stays in the first part. If the others hold too little (or there are none), the first
// document is cut, so that both parts have `least` words or more. If it has too few words for that,
// the first part is empty.
std::pair<std::vector<Words>, std::vector<Words>> split_documents(std::vector<Words> all,
                                                                  double share, size_t least = 1);
// Every word once, the most frequent first, words of the same count in alphabetical order.
Words vocabulary_of(std::span<const Words> documents);

class Embeddings {
 public:
  static constexpr int32_t kNoVector = -1;

  // values [words, width]. An Error names a word that occurs twice.
  Embeddings(Words words, int64_t width, std::vector<float> values, const std::string& name);

  int64_t size() const { return static_cast<int64_t>(words_.size()); }
  int64_t width() const { return width_; }
  const std::string& word(int32_t id) const { return words_[static_cast<size_t>(id)]; }
  int32_t id_of(std::string_view word) const;  // kNoVector: it has none
  std::span<const float> values() const { return values_; }
  ConstTensor table() const { return {values_.data(), {size(), width_}}; }
  // Ids of the words that have a vector; the others are hidden.
  std::vector<int32_t> visible(const Words& words) const;

  // Writes vocab.txt (one word per line, by id) and embeddings.safetensors ("embeddings", F32
  // [words, width]) into a directory. Without values (a table that a model learns) only the words
  // are written, and load() reads only them.
  void save(const std::string& directory) const;
  static Embeddings load(const std::string& directory);

 private:
  Words words_;
  int64_t width_;
  std::vector<float> values_;
  std::unordered_map<std::string, int32_t> ids_;
};

// Reads a file in GloVe's text format: on each line a word and its numbers, separated by a space.
// Keeps those words of `wanted` that it has. `width`: numbers of a vector, 0 = as on the first
// line. Lines of another width, invalid numbers, a repeated word and an empty file are Errors that
// name the line.
Embeddings read_embeddings(const std::string& path, const Words& wanted, int64_t width);

// Fixed vectors: the vector of a word is a function of (seed, word), normal, of unit length on
// average.
Embeddings random_embeddings(const Words& words, int64_t width, uint64_t seed);

}  // namespace refrain

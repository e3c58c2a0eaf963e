// Words and their vectors: the tables that a sequence autoencoder reads words with.
//
// A word is a run of letters, digits and apostrophes inside it, in lower case (ASCII's; bytes of
// other scripts stay as they are and count as letters); any other visible character is a word of
// its own: "Don't stop, Emily!" is don't | stop | , | emily | !
//
// A document is a file, or a part of one that two blank lines or more keep from the next (one blank
// line parts the stanzas of a poem). Documents are what training and test data are made of.
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
// Of all files, in order; those without a word are left out. Text that is not UTF-8 is an Error. In
// plain text two blank lines part documents; files of objects (source.h) have one in each.
std::vector<Words> read_documents(std::span<const std::string> paths);
uint64_t fingerprint_of(std::span<const Words> documents);
// Documents from the end on are the second, until they hold `share` of all words. The first is left:
// where the others hold too little, as when it is the only one, it is cut, so that both parts have
// `least` words or more. Where it has not so many, nothing is left to be the first part.
std::pair<std::vector<Words>, std::vector<Words>> split_documents(std::vector<Words> all,
                                                                  double share, size_t least = 1);
// Every word once, the most frequent first, words of one count by the alphabet.
Words vocabulary_of(std::span<const Words> documents);

class Embeddings {
 public:
  static constexpr int32_t kNoVector = -1;

  // values [words, width]. An Error names a word that is there twice.
  Embeddings(Words words, int64_t width, std::vector<float> values, const std::string& name);

  int64_t size() const { return static_cast<int64_t>(words_.size()); }
  int64_t width() const { return width_; }
  const std::string& word(int32_t id) const { return words_[static_cast<size_t>(id)]; }
  int32_t id_of(std::string_view word) const;  // kNoVector: it has none
  std::span<const float> values() const { return values_; }
  ConstTensor table() const { return {values_.data(), {size(), width_}}; }
  // Ids of the words that have a vector; the others are hidden.
  std::vector<int32_t> visible(const Words& words) const;

  // vocab.txt (a word a line, by id) and embeddings.safetensors ("embeddings", F32 [words, width])
  // of a directory. Without values (a table that a model learns) only the words are written, and
  // load() finds them alone.
  void save(const std::string& directory) const;
  static Embeddings load(const std::string& directory);

 private:
  Words words_;
  int64_t width_;
  std::vector<float> values_;
  std::unordered_map<std::string, int32_t> ids_;
};

// A file in GloVe's text format: a line for every word, the word and its numbers with a space
// between them. Keeps the words of `wanted` that it has. `width`: numbers of a vector, 0 for those
// of the first line. Lines of another width, numbers that are none, a word for the second time and
// an empty file are Errors that name the line.
Embeddings read_embeddings(const std::string& path, const Words& wanted, int64_t width);

// Fixed vectors: a word's is a function of (seed, word), normal of unit length on average.
Embeddings random_embeddings(const Words& words, int64_t width, uint64_t seed);

}  // namespace refrain

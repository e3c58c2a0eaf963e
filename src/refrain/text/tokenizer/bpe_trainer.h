// Learns merges from words and their frequencies.
//
// The most frequent pair of neighbours becomes a token, again and again. Of equally frequent pairs
// the one with the smaller ids (left, then right) comes first. Counts are 64-bit sums over words,
// so the merges do not depend on the order of the words.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/text/tokenizer/bpe.h"

namespace refrain::text {

// Distinct words and their counts.
class WordCounts {
 public:
  explicit WordCounts(int64_t max_words) : max_words_(max_words), table_(1024) {}

  void add(std::string_view word);  // Error when there are more than max_words
  size_t size() const { return words_.size(); }
  std::string_view word(size_t i) const { return text_of(words_[i]); }
  int64_t count(size_t i) const { return words_[i].count; }

 private:
  struct Word {
    size_t at, bytes;
    uint64_t hash;
    int64_t count;
  };
  std::string_view text_of(const Word& word) const { return {text_.data() + word.at, word.bytes}; }
  void grow();

  int64_t max_words_;
  std::string text_;  // all words, one after another
  std::vector<Word> words_;
  std::vector<uint32_t> table_;  // by hash, open addressing: index of the word + 1, 0 = free
};

class BpeTrainer {
 public:
  // `tokens` are the alphabet (and everything else that has an id already). A pair is merged only
  // if allowed(merged text, right token's text).
  using Allowed = std::function<bool(std::string_view merged, std::string_view right)>;
  BpeTrainer(std::vector<std::string> tokens, Allowed allowed);

  void add_word(std::span<const int32_t> ids, int64_t count);

  // Merges until there are `vocab_size` tokens or no more pairs. Once only.
  void run(size_t vocab_size);

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<Merge>& merges() const { return merges_; }

 private:
  struct Pair {
    uint64_t key;
    int64_t count = 0;              // neighbours that are this pair now
    int32_t first = -1, last = -1;  // its occurrences in the order found, some of them gone since
    int32_t raised = -1;            // the merge that last made more of them
  };
  struct Occurrence {
    int32_t at, word, next;
  };
  struct Candidate {
    int64_t count;
    uint64_t key;
    uint32_t pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  int32_t next_of(int32_t at) const;      // where the next token starts; -1 at the word's end
  int32_t previous_of(int32_t at) const;  // -1 at the word's start
  void found(int32_t left, int32_t right, int32_t at, int32_t word);
  void lost(int32_t left, int32_t right, int32_t word);
  void join(int32_t at, int32_t next, int32_t merged);
  void merge_all(uint32_t pair, int32_t merged);

  std::vector<std::string> tokens_;
  Allowed allowed_;
  std::vector<Merge> merges_;

  // All words, a boundary before, between and after them. A token merged from n symbols has its id
  // in the first of its n slots and -n in the second and in the last, so that both neighbours are a
  // step away; whatever is between is negative.
  std::vector<int32_t> slots_;
  std::vector<int64_t> counts_;  // of words
  PairTable index_;              // into pairs_
  std::vector<Pair> pairs_;
  std::vector<Occurrence> occurrences_;
  std::vector<uint32_t> raised_;  // pairs that the present merge made more of
};

}  // namespace refrain::text

// The two tables of byte-pair encoding: pairs of ids to numbers, and merges by rank.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace refrain::text {

// `left` and `right` become `merged`. A merge's rank is its place in the list.
struct Merge {
  int32_t left, right, merged;
};

inline uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

inline uint64_t mix_bits(uint64_t x) {
  x *= 0x9FB21C651E98DF25u;
  return x ^ x >> 32;
}

inline uint64_t hash_bytes(std::string_view bytes, uint64_t seed = 0) {
  const char* at = bytes.data();
  size_t left = bytes.size();
  uint64_t hash = left ^ seed, eight = 0;
  for (; left >= 8; left -= 8, at += 8) {
    std::memcpy(&eight, at, 8);
    hash = mix_bits(hash ^ eight);
  }
  eight = 0;
  for (size_t i = 0; i < left; ++i) eight = eight << 8 | static_cast<uint8_t>(at[i]);
  return mix_bits(mix_bits(hash ^ eight));
}

// A hash table from pairs of ids (not negative) to numbers: open addressing, at most half full. If
// somebody chose pairs to collide, the table changes to another order, which nobody knows in
// advance.
class PairTable {
 public:
  static constexpr uint32_t kAbsent = UINT32_MAX;

  explicit PairTable(size_t pairs = 0);

  uint32_t find(int32_t left, int32_t right) const {
    const uint64_t key = pair_key(left, right);
    for (size_t i = mix_bits(key ^ seed_) & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].number;
      if (slots_[i].key == kFree) return kAbsent;
    }
  }
  // The pair's number, which is `number` if the pair is new.
  uint32_t& insert(int32_t left, int32_t right, uint32_t number);

 private:
  static constexpr uint64_t kFree = UINT64_MAX;
  struct Slot {
    uint64_t key = kFree;
    uint32_t number = kAbsent;
  };
  void rebuild(size_t slots);
  bool put(const Slot& slot);  // false when its place is too far from where it is looked for

  std::vector<Slot> slots_;
  uint64_t seed_ = 0;
  size_t mask_ = 0, size_ = 0;
};

// A hash table from texts to ids, of which it holds neither: the texts are those of the ids. Nobody
// knows the order in advance, so nobody can choose texts that collide.
class TextTable {
 public:
  // At most so many texts.
  explicit TextTable(size_t texts = 0);

  // `text_of(id)` gives a text. The id of the text, or -1.
  template <class TextOf>
  int32_t find(std::string_view text, TextOf&& text_of) const {
    const uint64_t hash = hash_bytes(text, seed_);
    const auto tag = static_cast<uint32_t>(hash >> 32);
    for (size_t i = hash & mask_; slots_[i].id >= 0; i = (i + 1) & mask_)
      if (slots_[i].tag == tag && text_of(slots_[i].id) == text) return slots_[i].id;
    return -1;
  }
  void insert(std::string_view text, int32_t id);  // a text that is not there yet

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t id = -1;
  };
  std::vector<Slot> slots_;
  uint64_t seed_;
  size_t mask_;
};

class MergeTable {
 public:
  // If two merges have the same pair, the later one counts.
  explicit MergeTable(const std::vector<Merge>& merges = {});

  // Applies merges to ids[from ..] until none is left: always the one of lowest rank, the leftmost
  // of equals. O(n log n) for n ids.
  void apply(std::vector<int32_t>& ids, size_t from) const;

  // The rank of the merge of two ids; PairTable::kAbsent if there is none.
  uint32_t rank(int32_t left, int32_t right) const { return ranks_.find(left, right); }

 private:
  size_t apply_short(int32_t* ids, size_t n) const;
  size_t apply_long(int32_t* ids, size_t n) const;

  PairTable ranks_;
  std::vector<int32_t> merged_;  // by rank
};

// Finds the ids that merges give to words of bytes, without applying them one by one.
//
// Tokens t1 t2 ... are what merges give if and only if each of them is what its own bytes give, and
// each two neighbours are what the bytes of the two give: as long as no merge crosses the end of a
// token, tokens do not see each other, and the first that would cross one would do so with the two
// neighbours alone. So the search puts the longest token behind those that it has, a shorter one if
// the two are no such neighbours, and goes back where none fits. A start of a word has one such row
// of tokens only; so a place that nothing leads on from is tried once. (The same was found by van
// Antwerpen and Neubeck, the crate `bpe`.)
class WordSearch {
 public:
  WordSearch() = default;
  // `bytes`: the id of each byte. `texts`: the bytes of each id that a merge gives. It must outlive
  // this, and so must `table`, which has the merges.
  WordSearch(const MergeTable& table, const std::vector<Merge>& merges,
             const std::array<int32_t, 256>& bytes, const std::vector<std::string>& texts);

  // False if ids of bytes are missing, or a merge has a lower rank than one that makes its parts.
  bool usable() const { return table_ != nullptr; }

  // Appends the ids of a word; false, and nothing, if that takes too many steps (only tokens that
  // somebody has contrived need so many).
  bool encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  static constexpr int32_t kNone = -1;
  static constexpr uint32_t kNever = UINT32_MAX;
  struct Token {
    int32_t left = kNone, right = kNone;  // what the last merge of its bytes joins
    uint32_t made = kNever;               // the rank of that merge and 1; 0: a byte
    int32_t shorter = kNone;              // the longest token that it begins with
    uint32_t size = 0;
  };
  // A node of the tree of tokens. The child for a byte is at base + byte, if its parent is the node
  // (a double array; Aoe, 1989).
  struct Node {
    int32_t parent = kNone, base = 0;
    int32_t token = kNone;  // that ends here
  };
  class Tree;

  bool neighbours(int32_t left, int32_t right, uint32_t ignored_rank, int64_t& steps) const;
  int32_t longest(std::string_view text, int64_t& steps) const;

  const MergeTable* table_ = nullptr;
  std::vector<Token> tokens_;  // by id
  std::vector<Node> nodes_;    // the root is the first
  // Bits by the hash of a pair: where there is none, there is no merge.
  std::vector<uint64_t> pairs_;
  size_t pair_mask_ = 0;
};

}  // namespace refrain::text

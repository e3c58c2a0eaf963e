// Added tokens: whole tokens that are found in a text before all other processing.
//
// They are found as in the `tokenizers` package: the leftmost first, of those the longest, of equal
// ones the special ones first, then in the order of addition. A special token that is not asked
// for, or a `single_word` inside a word, stays text, but nothing else is found in its place.
//
// An Aho-Corasick automaton of the reversed tokens reads the text from its end. So at every byte it
// knows the longest token that begins there, in linear time for any tokens and any text.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/text/tokenizer/bpe.h"

namespace refrain::text {

struct AddedToken {
  int32_t id = -1;
  bool special = true;       // found only where special tokens are asked for; not decoded
  bool normalized = false;   // looked for in text whose spaces are marks already (llama)
  bool single_word = false;  // not beside a letter, a digit or the like
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
};

class AddedTokenFinder {
 public:
  // Bytes of all tokens together: a limit on the memory that a file can ask for.
  static constexpr size_t kMaxBytes = size_t{1} << 23;

  struct Entry {
    std::string content;  // as it is looked for, not empty
    AddedToken token;
  };
  explicit AddedTokenFinder(std::vector<Entry> entries = {});

  // Calls plain(text) and found(id) in the order of the text.
  template <class Plain, class Found>
  void split(std::string_view text, bool with_special, Plain&& plain, Found&& found) const {
    size_t start = 0;  // of what has not been given out
    if (with_special ? !entries_.empty() : any_plain_) {
      size_t used = 0;  // where the last match ends, whether it counted or not
      std::vector<Match> matches;
      for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
        end = begin + std::min(text.size() - begin, block_);
        find(text, begin, end, matches);
        for (auto match = matches.rbegin(); match != matches.rend(); ++match) {
          if (match->at < used) continue;
          const Entry& entry = entries_[match->entry];
          used = match->at + entry.content.size();
          if (entry.token.special && !with_special) continue;
          size_t from = match->at, to = used;
          if (!widen(text, entry.token, start, from, to)) continue;
          if (from > start) plain(text.substr(start, from - start));
          found(entry.token.id);
          start = to;
        }
      }
    }
    if (start < text.size()) plain(text.substr(start));
  }

 private:
  static constexpr uint32_t kNone = PairTable::kAbsent;
  struct Match {
    size_t at;
    uint32_t entry;  // the longest that begins there
  };

  void find(std::string_view text, size_t begin, size_t end, std::vector<Match>& matches) const;
  // White space at either side that the token takes along; false if it must not stand there.
  static bool widen(std::string_view text, const AddedToken& token, size_t start, size_t& from,
                    size_t& to);
  uint32_t step(uint32_t node, uint8_t byte) const;

  std::vector<Entry> entries_;
  bool any_plain_ = false;
  size_t longest_ = 0, block_ = 0;  // bytes of the longest token; of text looked at in one go
  // Nodes by depth, the root first.
  PairTable children_;               // by node and byte
  std::array<uint32_t, 256> first_;  // the root's, or the root
  std::vector<uint32_t> fail_;       // the longest proper suffix that is a node
  std::vector<uint32_t> entry_;      // the longest that ends with the node, or kNone
};

}  // namespace refrain::text

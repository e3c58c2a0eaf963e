#include "refrain/text/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <random>

#include "refrain/base/error.h"

namespace refrain::text {
namespace {

// Words of up to this many ids are scanned in blocks for each merge; longer ones keep a heap.
constexpr size_t kPlaceBits = 8, kShort = size_t{1} << kPlaceBits;
constexpr size_t kMostRanks = size_t{1} << (32 - kPlaceBits);  // of those that are scanned

constexpr uint32_t kNoRank = PairTable::kAbsent;

// Of a tree of tokens, at most. Real ones have some million bytes.
constexpr size_t kMostNodes = size_t{1} << 26;

// Places that a pair is looked for at. Chance alone leaves millions of pairs within a hundred.
constexpr size_t kFarthest = 512;

uint64_t random_bits() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

PairTable::PairTable(size_t pairs)
    : slots_(std::bit_ceil(std::max<size_t>(2 * pairs, 8))), mask_(slots_.size() - 1) {}

uint32_t& PairTable::insert(int32_t left, int32_t right, uint32_t number) {
  if (2 * (size_ + 1) > slots_.size()) rebuild(2 * slots_.size());
  const uint64_t key = pair_key(left, right);
  for (;;) {
    size_t i = mix_bits(key ^ seed_) & mask_;
    const size_t end = i + kFarthest;
    for (; i < end; ++i) {
      Slot& slot = slots_[i & mask_];
      if (slot.key == kFree) {
        slot = {key, number};
        ++size_;
      }
      if (slot.key == key) return slot.number;
    }
    seed_ = random_bits();
    rebuild(slots_.size());
  }
}

bool PairTable::put(const Slot& slot) {
  size_t i = mix_bits(slot.key ^ seed_) & mask_;
  for (const size_t end = i + kFarthest; i < end; ++i) {
    if (slots_[i & mask_].key != kFree) continue;
    slots_[i & mask_] = slot;
    return true;
  }
  return false;
}

// By chance pairs do not come together so: then another order, and more room besides, will do.
void PairTable::rebuild(size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  mask_ = slots_.size() - 1;
  const auto is_put = [&](const Slot& slot) { return slot.key == kFree || put(slot); };
  while (!std::ranges::all_of(old, is_put)) {
    seed_ = random_bits();
    slots_.assign(2 * slots_.size(), {});
    mask_ = slots_.size() - 1;
  }
}

TextTable::TextTable(size_t texts)
    : slots_(std::bit_ceil(2 * texts + 1)), seed_(random_bits()), mask_(slots_.size() - 1) {}

void TextTable::insert(std::string_view text, int32_t id) {
  const uint64_t hash = hash_bytes(text, seed_);
  size_t i = hash & mask_;
  while (slots_[i].id >= 0) i = (i + 1) & mask_;
  slots_[i] = {static_cast<uint32_t>(hash >> 32), id};
}

MergeTable::MergeTable(const std::vector<Merge>& merges) : ranks_(merges.size()) {
  for (const Merge& merge : merges) {
    const auto rank = static_cast<uint32_t>(merged_.size());
    ranks_.insert(merge.left, merge.right, rank) = rank;
    merged_.push_back(merge.merged);
  }
}

void MergeTable::apply(std::vector<int32_t>& ids, size_t from) const {
  const size_t n = ids.size() - from;
  int32_t* first = ids.data() + from;
  ids.resize(from + (n <= kShort && merged_.size() < kMostRanks ? apply_short(first, n)
                                                                : apply_long(first, n)));
}

size_t MergeTable::apply_short(int32_t* ids, size_t n) const {
  if (n < 2) return n;
  // Of the pair that starts at a place: its rank, then the place, so that the least key says which
  // merge is next. A place that was merged into its left stays, without a key.
  constexpr uint32_t kNoKey = UINT32_MAX;
  constexpr size_t kBlock = 16;
  uint32_t keys[kShort], least[kShort / kBlock];  // least: of each block
  uint16_t before[kShort], behind[kShort];
  const auto key = [&](size_t at) {
    const uint32_t rank = behind[at] < n ? ranks_.find(ids[at], ids[behind[at]]) : kNoRank;
    return rank == kNoRank ? kNoKey : static_cast<uint32_t>(rank << kPlaceBits | at);
  };
  const auto update_block = [&](size_t block) {
    const uint32_t* of_block = keys + block * kBlock;
    least[block] = *std::min_element(of_block, of_block + kBlock);
  };
  const size_t blocks = (n + kBlock - 1) / kBlock;
  for (size_t i = 0; i < n; ++i) {
    before[i] = static_cast<uint16_t>(i - 1);
    behind[i] = static_cast<uint16_t>(i + 1);
    keys[i] = key(i);
  }
  std::fill(keys + n, keys + blocks * kBlock, kNoKey);
  for (size_t i = 0; i < blocks; ++i) update_block(i);
  for (;;) {
    const uint32_t best = *std::min_element(least, least + blocks);
    if (best == kNoKey) break;
    const size_t at = best & (kShort - 1), gone = behind[at];
    ids[at] = merged_[best >> kPlaceBits];
    behind[at] = behind[gone];
    if (behind[at] < n) before[behind[at]] = static_cast<uint16_t>(at);
    keys[gone] = kNoKey;
    keys[at] = key(at);
    update_block(at / kBlock);
    if (gone / kBlock != at / kBlock) update_block(gone / kBlock);
    if (at == 0) continue;
    keys[before[at]] = key(before[at]);
    update_block(before[at] / kBlock);
  }
  size_t kept = 0;
  for (size_t at = 0; at < n; at = behind[at]) ids[kept++] = ids[at];
  return kept;
}

size_t MergeTable::apply_long(int32_t* ids, size_t n) const {
  if (n >= kNoRank) throw_error("a word of {} characters is too long to encode", n);
  constexpr uint32_t kEnd = UINT32_MAX;
  struct Symbol {
    uint32_t previous, next;  // kEnd at either end
    uint32_t rank;            // of the pair that starts here; kNoRank once merged into the left
  };
  std::vector<Symbol> symbols(n);
  // (rank, place), smallest first. An entry whose rank its place no longer has is out of date.
  std::vector<uint64_t> entries;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t rank = i + 1 < n ? ranks_.find(ids[i], ids[i + 1]) : kNoRank;
    symbols[i] = {i == 0 ? kEnd : static_cast<uint32_t>(i - 1),
                  i + 1 == n ? kEnd : static_cast<uint32_t>(i + 1), rank};
    if (rank != kNoRank) entries.push_back(uint64_t{rank} << 32 | i);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue({},
                                                                             std::move(entries));
  const auto update = [&](uint32_t at) {
    Symbol& symbol = symbols[at];
    symbol.rank = symbol.next == kEnd ? kNoRank : ranks_.find(ids[at], ids[symbol.next]);
    if (symbol.rank != kNoRank) queue.push(uint64_t{symbol.rank} << 32 | at);
  };
  while (!queue.empty()) {
    const auto rank = static_cast<uint32_t>(queue.top() >> 32);
    const auto at = static_cast<uint32_t>(queue.top());
    queue.pop();
    if (symbols[at].rank != rank) continue;
    Symbol& gone = symbols[symbols[at].next];
    ids[at] = merged_[rank];
    symbols[at].next = gone.next;
    gone.rank = kNoRank;
    if (gone.next != kEnd) symbols[gone.next].previous = at;
    update(at);
    if (symbols[at].previous != kEnd) update(symbols[at].previous);
  }
  size_t kept = 0;
  for (uint32_t at = 0; at != kEnd; at = symbols[at].next) ids[kept++] = ids[at];
  return kept;
}

// The tree of tokens while it is made: the children of each node by byte.
class WordSearch::Tree {
 public:
  Tree() : nodes_(1) {}

  // Gives the longest token that the text begins with, which must be here before it.
  int32_t add(int32_t id, std::string_view text) {
    int32_t shorter = kNone;
    size_t node = 0;
    for (const char c : text) {
      if (nodes_[node].token != kNone) shorter = nodes_[node].token;
      const auto byte = static_cast<uint8_t>(c);
      auto& children = nodes_[node].children;
      const auto at = std::ranges::lower_bound(children, byte, {}, &Child::byte);
      if (at != children.end() && at->byte == byte) {
        node = at->node;
      } else {
        children.insert(at, {byte, static_cast<uint32_t>(nodes_.size())});
        node = nodes_.size();
        nodes_.emplace_back();
      }
    }
    nodes_[node].token = id;
    return shorter;
  }

  std::vector<Node> packed() const {
    std::vector<Node> made(kBytes + 1);
    std::vector<std::pair<uint32_t, int32_t>> open = {{0, 0}};  // node here, its place there
    made[0] = {0, 0, nodes_[0].token};
    size_t first_free = 1;
    for (size_t next = 0; next < open.size(); ++next) {
      const auto [node, place] = open[next];
      const auto& children = nodes_[node].children;
      if (children.empty()) continue;
      while (first_free < made.size() && made[first_free].parent != kNone) ++first_free;
      const size_t base = room_for(children, made, first_free);
      if (base + kBytes > made.size()) made.resize(base + kBytes);
      made[static_cast<size_t>(place)].base = static_cast<int32_t>(base);
      for (const Child& child : children) {
        made[base + child.byte] = {place, 0, nodes_[child.node].token};
        open.emplace_back(child.node, static_cast<int32_t>(base + child.byte));
      }
    }
    return made;
  }

 private:
  static constexpr size_t kBytes = 256;
  struct Child {
    uint8_t byte;
    uint32_t node;
  };
  struct Growing {
    std::vector<Child> children;  // by byte
    int32_t token = kNone;
  };

  // A base that has free places for all children.
  static size_t room_for(const std::vector<Child>& children, const std::vector<Node>& made,
                         size_t first_free) {
    constexpr int kTries = 64;
    int tries = 0;
    for (size_t at = first_free; at < made.size() && tries < kTries; ++at) {
      if (made[at].parent != kNone) continue;
      ++tries;
      const size_t first = children[0].byte;
      if (at <= first) continue;
      const auto is_free = [&](const Child& child) {
        const size_t place = at - first + child.byte;
        return place >= made.size() || made[place].parent == kNone;
      };
      if (std::ranges::all_of(children, is_free)) return at - first;
    }
    return made.size();
  }

  std::vector<Growing> nodes_;
};

WordSearch::WordSearch(const MergeTable& table, const std::vector<Merge>& merges,
                       const std::array<int32_t, 256>& bytes, const std::vector<std::string>& texts)
    : tokens_(texts.size()) {
  size_t nodes = 1 + bytes.size();
  for (const int32_t id : bytes) {
    if (id < 0) return;
    Token& token = tokens_[static_cast<size_t>(id)];
    token.made = 0;
    token.size = 1;
  }
  const auto is_made = [&](int32_t id) { return tokens_[static_cast<size_t>(id)].made != kNever; };
  pairs_.resize(std::bit_ceil(merges.size() / 4 + 1));
  pair_mask_ = pairs_.size() * 64 - 1;
  for (const Merge& merge : merges) {
    const size_t bit = mix_bits(pair_key(merge.left, merge.right)) & pair_mask_;
    pairs_[bit / 64] |= uint64_t{1} << bit % 64;
  }
  std::vector<int32_t> found;
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    if (table.rank(merge.left, merge.right) != rank || is_made(merge.merged)) continue;
    if (!is_made(merge.left) || !is_made(merge.right)) continue;
    int64_t any = INT64_MAX;
    table_ = &table;
    if (!neighbours(merge.left, merge.right, rank, any)) continue;
    const size_t size = tokens_[static_cast<size_t>(merge.left)].size +
                        tokens_[static_cast<size_t>(merge.right)].size;
    tokens_[static_cast<size_t>(merge.merged)] = {merge.left, merge.right, rank + 1, kNone,
                                                  static_cast<uint32_t>(size)};
    found.push_back(merge.merged);
    nodes += size;
  }
  table_ = nullptr;
  // Only then merges come in the order of their ranks.
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    for (const int32_t part : {merge.left, merge.right})
      if (is_made(merge.left) && is_made(merge.right) &&
          tokens_[static_cast<size_t>(part)].made > rank)
        return;
  }
  if (nodes > kMostNodes) return;
  Tree tree;
  for (size_t byte = 0; byte < bytes.size(); ++byte)
    tree.add(bytes[byte], std::string(1, static_cast<char>(byte)));
  // Shorter ones first, so that those which others begin with are there.
  const auto size_of = [&](int32_t id) { return tokens_[static_cast<size_t>(id)].size; };
  std::ranges::stable_sort(found, {}, size_of);
  for (const int32_t id : found) {
    const std::string& text = texts[static_cast<size_t>(id)];
    REFRAIN_CHECK(text.size() == size_of(id));
    tokens_[static_cast<size_t>(id)].shorter = tree.add(id, text);
  }
  nodes_ = tree.packed();
  table_ = &table;
}

// Whether no merge joins the end of `left` with the start of `right` before both are made. Time
// goes backwards here, from the two tokens to their bytes.
bool WordSearch::neighbours(int32_t left, int32_t right, uint32_t ignored_rank,
                            int64_t& steps) const {
  // When the merges of the token's own take what stands there. Of equal ranks the leftmost merge
  // comes first.
  uint32_t left_taken = kNever, right_taken = kNever;
  for (;; --steps) {
    const size_t bit = mix_bits(pair_key(left, right)) & pair_mask_;
    const bool may_merge = pairs_[bit / 64] >> bit % 64 & 1;
    const uint32_t rank = may_merge ? table_->rank(left, right) : kNoRank;
    if (rank < left_taken && rank <= right_taken && rank != ignored_rank) return false;
    const Token &a = tokens_[static_cast<size_t>(left)], &b = tokens_[static_cast<size_t>(right)];
    if (a.made > b.made) {
      left_taken = a.made - 1;
      left = a.right;
    } else if (b.made > 0) {
      right_taken = b.made - 1;
      right = b.left;
    } else {
      return true;
    }
  }
}

int32_t WordSearch::longest(std::string_view text, int64_t& steps) const {
  int32_t node = 0, best = kNone;
  size_t at = 0;
  for (; at < text.size(); ++at) {
    const int32_t next = nodes_[static_cast<size_t>(node)].base + static_cast<uint8_t>(text[at]);
    const Node& child = nodes_[static_cast<size_t>(next)];
    if (child.parent != node) break;
    node = next;
    if (child.token != kNone) best = child.token;
  }
  steps -= static_cast<int64_t>(at);
  return best;
}

bool WordSearch::encode(std::string_view word, std::vector<int32_t>& ids) const {
  constexpr size_t kBits = 64, kShortWords = 8;
  constexpr int64_t kStepsOfByte = 64;
  uint64_t of_short[kShortWords] = {};
  std::vector<uint64_t> of_long(word.size() / kBits >= kShortWords ? word.size() / kBits + 1 : 0);
  uint64_t* dead = of_long.empty() ? of_short : of_long.data();  // places that lead nowhere
  int64_t steps = kStepsOfByte * static_cast<int64_t>(word.size() + 1);
  const size_t from = ids.size();
  size_t at = 0;
  int32_t token = longest(word, steps);
  while (at < word.size()) {
    const int32_t last = ids.size() > from ? ids.back() : kNone;
    for (;; token = tokens_[static_cast<size_t>(token)].shorter) {
      if (--steps < 0 || (token == kNone && last == kNone)) {
        ids.resize(from);
        return false;
      }
      if (token == kNone) {
        dead[at / kBits] |= uint64_t{1} << at % kBits;
        ids.pop_back();
        at -= tokens_[static_cast<size_t>(last)].size;
        token = tokens_[static_cast<size_t>(last)].shorter;
        break;
      }
      const size_t end = at + tokens_[static_cast<size_t>(token)].size;
      if (dead[end / kBits] >> end % kBits & 1) continue;
      if (last != kNone && !neighbours(last, token, kNever - 1, steps)) continue;
      ids.push_back(token);
      at = end;
      token = longest(word.substr(at), steps);
      break;
    }
  }
  return true;
}

}  // namespace refrain::text

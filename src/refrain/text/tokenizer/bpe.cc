#include "refrain/text/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <random>

#include "refrain/base/error.h"

namespace refrain::text {
namespace {

// Words of up to this many ids are scanned whole for each merge; longer ones keep a heap.
constexpr size_t kShort = 48;

constexpr uint32_t kNoRank = PairTable::kAbsent;

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
  ids.resize(from + (n <= kShort ? apply_short(first, n) : apply_long(first, n)));
}

size_t MergeTable::apply_short(int32_t* ids, size_t n) const {
  if (n < 2) return n;
  uint32_t rank[kShort];  // of the pair that starts here
  for (size_t i = 0; i + 1 < n; ++i) rank[i] = ranks_.find(ids[i], ids[i + 1]);
  while (n > 1) {
    const size_t best = static_cast<size_t>(std::min_element(rank, rank + n - 1) - rank);
    if (rank[best] == kNoRank) break;
    ids[best] = merged_[rank[best]];
    --n;
    std::copy(ids + best + 2, ids + n + 1, ids + best + 1);
    if (best + 1 < n) {
      std::copy(rank + best + 2, rank + n, rank + best + 1);
      rank[best] = ranks_.find(ids[best], ids[best + 1]);
    }
    if (best > 0) rank[best - 1] = ranks_.find(ids[best - 1], ids[best]);
  }
  return n;
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

}  // namespace refrain::text

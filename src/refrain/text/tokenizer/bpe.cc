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

}  // namespace refrain::text

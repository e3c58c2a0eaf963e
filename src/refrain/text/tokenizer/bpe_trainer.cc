#include "refrain/text/tokenizer/bpe_trainer.h"

#include <queue>
#include <unordered_map>
#include <utility>

#include "refrain/base/error.h"

namespace refrain::text {
namespace {

constexpr int32_t kBoundary = INT32_MIN;

// Joining two symbols adds at most two occurrences: all in all there are fewer than three times as
// many as slots, and their numbers fit into 32 bits.
constexpr size_t kMaxSlots = 700'000'000;

}  // namespace

void WordCounts::add(std::string_view word) {
  const uint64_t hash = hash_bytes(word);
  const size_t mask = table_.size() - 1;
  size_t i = hash & mask;
  for (; table_[i] != 0; i = (i + 1) & mask) {
    Word& known = words_[table_[i] - 1];
    if (known.hash == hash && text_of(known) == word) {
      ++known.count;
      return;
    }
  }
  if (static_cast<int64_t>(words_.size()) >= max_words_)
    throw_error(
        "the training text has more than {} distinct words: train the tokenizer on a part of it",
        max_words_);
  words_.push_back({text_.size(), word.size(), hash, 1});
  text_ += word;
  table_[i] = static_cast<uint32_t>(words_.size());
  if (2 * words_.size() > table_.size()) grow();
}

void WordCounts::grow() {
  table_.assign(2 * table_.size(), 0);
  const size_t mask = table_.size() - 1;
  for (size_t w = 0; w < words_.size(); ++w) {
    size_t i = words_[w].hash & mask;
    while (table_[i] != 0) i = (i + 1) & mask;
    table_[i] = static_cast<uint32_t>(w + 1);
  }
}

BpeTrainer::BpeTrainer(std::vector<std::string> tokens, Allowed allowed)
    : tokens_(std::move(tokens)), allowed_(std::move(allowed)), slots_(1, kBoundary) {}

void BpeTrainer::add_word(std::span<const int32_t> ids, int64_t count) {
  if (slots_.size() + ids.size() + 1 > kMaxSlots)
    throw_error(
        "the training text's distinct words have more than {} characters: train the tokenizer on "
        "a part of it",
        kMaxSlots);
  const auto word = static_cast<int32_t>(counts_.size());
  counts_.push_back(count);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i + 1 < ids.size()) found(ids[i], ids[i + 1], static_cast<int32_t>(slots_.size()), word);
    slots_.push_back(ids[i]);
  }
  slots_.push_back(kBoundary);
}

int32_t BpeTrainer::next_of(int32_t at) const {
  int32_t next = at + 1;
  const int32_t slot = slots_[static_cast<size_t>(next)];
  if (slot < 0 && slot != kBoundary) next = at - slot;
  return slots_[static_cast<size_t>(next)] == kBoundary ? -1 : next;
}

int32_t BpeTrainer::previous_of(int32_t at) const {
  const int32_t slot = slots_[static_cast<size_t>(at - 1)];
  return slot == kBoundary ? -1 : slot < 0 ? at + slot : at - 1;
}

void BpeTrainer::found(int32_t left, int32_t right, int32_t at, int32_t word) {
  const uint32_t index = index_.insert(left, right, static_cast<uint32_t>(pairs_.size()));
  if (index == pairs_.size()) pairs_.push_back({.key = pair_key(left, right)});
  Pair& pair = pairs_[index];
  pair.count += counts_[static_cast<size_t>(word)];
  const auto occurrence = static_cast<int32_t>(occurrences_.size());
  occurrences_.push_back({at, word, -1});
  if (pair.first < 0) {
    pair.first = occurrence;
  } else {
    occurrences_[static_cast<size_t>(pair.last)].next = occurrence;
  }
  pair.last = occurrence;
  const auto merge = static_cast<int32_t>(merges_.size());
  if (pair.raised != merge) raised_.push_back(index);
  pair.raised = merge;
}

void BpeTrainer::lost(int32_t left, int32_t right, int32_t word) {
  pairs_[index_.find(left, right)].count -= counts_[static_cast<size_t>(word)];
}

void BpeTrainer::join(int32_t at, int32_t next, int32_t merged) {
  const int32_t after = next_of(next);
  int32_t end = after;
  if (after < 0) {
    end = next + 1;
    const int32_t slot = slots_[static_cast<size_t>(end)];
    if (slot != kBoundary) end = next - slot;
  }
  slots_[static_cast<size_t>(at)] = merged;
  for (const int32_t slot : {at + 1, next, end - 1}) slots_[static_cast<size_t>(slot)] = at - end;
}

void BpeTrainer::merge_all(uint32_t pair, int32_t merged) {
  const auto left = static_cast<int32_t>(pairs_[pair].key >> 32);
  const auto right = static_cast<int32_t>(pairs_[pair].key & UINT32_MAX);
  merges_.push_back({left, right, merged});
  const auto id_at = [&](int32_t at) { return slots_[static_cast<size_t>(at)]; };
  int32_t occurrence = std::exchange(pairs_[pair].first, -1);
  while (occurrence >= 0) {
    const auto [at, word, following] = occurrences_[static_cast<size_t>(occurrence)];
    occurrence = following;
    if (id_at(at) != left) continue;
    const int32_t next = next_of(at);
    if (next < 0 || id_at(next) != right) continue;
    if (const int32_t before = previous_of(at); before >= 0) {
      lost(id_at(before), left, word);
      found(id_at(before), merged, before, word);
    }
    if (const int32_t after = next_of(next); after >= 0) {
      lost(right, id_at(after), word);
      found(merged, id_at(after), at, word);
    }
    join(at, next, merged);
  }
  pairs_[pair].count = 0;  // what overlapped itself was not counted away
}

void BpeTrainer::run(size_t vocab_size) {
  std::unordered_map<std::string, int32_t> ids;  // two merges may make the same text
  for (size_t i = 0; i < tokens_.size(); ++i) ids.emplace(tokens_[i], static_cast<int32_t>(i));
  std::priority_queue<Candidate> queue;
  const auto queue_raised = [&] {
    for (const uint32_t pair : raised_)
      if (pairs_[pair].count > 0) queue.push({pairs_[pair].count, pairs_[pair].key, pair});
    raised_.clear();
  };
  queue_raised();
  while (tokens_.size() < vocab_size && !queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const int64_t count = pairs_[top.pair].count;
    if (top.count != count) {  // fewer by now, or merged
      if (count > 0) queue.push({count, top.key, top.pair});
      continue;
    }
    const std::string& right = tokens_[top.key & UINT32_MAX];
    std::string text = tokens_[top.key >> 32] + right;
    if (!allowed_(text, right)) continue;
    auto known = ids.find(text);
    if (known == ids.end()) {
      known = ids.emplace(text, static_cast<int32_t>(tokens_.size())).first;
      tokens_.push_back(std::move(text));
    }
    merge_all(top.pair, known->second);
    queue_raised();
  }
}

}  // namespace refrain::text

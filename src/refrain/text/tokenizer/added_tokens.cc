#include "refrain/text/tokenizer/added_tokens.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "refrain/text/tokenizer/pretokenize.h"

namespace refrain::text {

AddedTokenFinder::AddedTokenFinder(std::vector<Entry> entries) : entries_(std::move(entries)) {
  constexpr size_t kBlock = size_t{1} << 16;
  first_.fill(0);
  std::stable_partition(entries_.begin(), entries_.end(),
                        [](const Entry& entry) { return entry.token.special; });
  for (const Entry& entry : entries_) {
    any_plain_ = any_plain_ || !entry.token.special;
    longest_ = std::max(longest_, entry.content.size());
  }
  block_ = std::max(kBlock, 4 * longest_);

  // All tokens grow by a byte at a time, so that nodes come by depth and whatever a node fails to
  // is there before it.
  fail_ = {0};
  entry_ = {kNone};
  std::vector<uint32_t> growing(entries_.size()), node(entries_.size(), 0);
  std::iota(growing.begin(), growing.end(), 0u);
  for (size_t depth = 0; !growing.empty(); ++depth) {
    for (const uint32_t i : growing) {
      const std::string& content = entries_[i].content;
      const auto byte = static_cast<uint8_t>(content[content.size() - 1 - depth]);
      const auto parent = node[i], fresh = static_cast<uint32_t>(fail_.size());
      node[i] = children_.insert(static_cast<int32_t>(parent), byte, fresh);
      if (node[i] == fresh) {
        fail_.push_back(parent == 0 ? 0 : step(fail_[parent], byte));
        entry_.push_back(kNone);
        if (parent == 0) first_[byte] = fresh;
      }
      if (content.size() == depth + 1 && entry_[node[i]] == kNone) entry_[node[i]] = i;
    }
    std::erase_if(growing, [&](uint32_t i) { return entries_[i].content.size() == depth + 1; });
  }
  for (size_t i = 1; i < entry_.size(); ++i)
    if (entry_[i] == kNone) entry_[i] = entry_[fail_[i]];
}

uint32_t AddedTokenFinder::step(uint32_t node, uint8_t byte) const {
  for (; node != 0; node = fail_[node])
    if (const uint32_t next = children_.find(static_cast<int32_t>(node), byte); next != kNone)
      return next;
  return first_[byte];
}

// The matches that begin in [begin, end), the last one first. What is behind `end` counts for them
// as far as a token reaches.
void AddedTokenFinder::find(std::string_view text, size_t begin, size_t end,
                            std::vector<Match>& matches) const {
  matches.clear();
  uint32_t node = 0;
  for (size_t at = end + std::min(text.size() - end, longest_); at-- > begin;) {
    node = step(node, static_cast<uint8_t>(text[at]));
    if (entry_[node] != kNone && at < end) matches.push_back({at, entry_[node]});
  }
}

bool AddedTokenFinder::widen(std::string_view text, const AddedToken& token, size_t start,
                             size_t& from, size_t& to) {
  if (token.single_word &&
      (ends_with_word(text.substr(0, from)) || starts_with_word(text.substr(to))))
    return false;
  if (token.lstrip && from > start) from -= trailing_space(text.substr(start, from - start));
  if (token.rstrip) to += leading_space(text.substr(to));
  return true;
}

}  // namespace refrain::text

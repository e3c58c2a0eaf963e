#include "refrain/generate/stop_texts.h"

#include <algorithm>
#include <utility>

#include "refrain/base/error.h"

namespace refrain {
namespace {

// How many bytes at the end of `text` are the start of `stop`, but not all of it.
size_t overlap(std::string_view text, std::string_view stop) {
  size_t n = std::min(text.size(), stop.size() - 1);
  while (!text.ends_with(stop.substr(0, n))) --n;
  return n;
}

}  // namespace

StopTexts::StopTexts(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty()) throw_error("stop: expected a text, found an empty one");
}

std::string StopTexts::feed(std::string_view piece) {
  if (found_) return {};
  held_ += piece;
  size_t shown = held_.size(), first_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t end = at + stop.size();
    if (end < first_end || (end == first_end && at < shown)) {
      shown = at;
      first_end = end;
    }
  }
  found_ = first_end != std::string::npos;
  if (!found_)
    for (const std::string& stop : stops_)
      shown = std::min(shown, held_.size() - overlap(held_, stop));
  std::string text = held_.substr(0, shown);
  held_.erase(0, found_ ? held_.size() : shown);
  return text;
}

std::string StopTexts::finish() { return std::exchange(held_, {}); }

}  // namespace refrain

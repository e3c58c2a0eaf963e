#include "refrain/autoencoder/curriculum.h"

#include <algorithm>
#include <sstream>

#include "refrain/base/error.h"
#include "refrain/base/setting_map.h"

namespace refrain {
namespace {

template <class T>
std::vector<T> parse_list(const char* name, const std::string& text, T low, T high) {
  std::vector<T> all;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    T value;
    SettingMap::parse(name, word, value);
    if (!(value >= low && value <= high))
      throw_error("{}: expected {} to {}, found {}", name, low, high, value);
    all.push_back(value);
  }
  if (all.empty()) throw_error("{}: expected a number or more, found none", name);
  return all;
}

template <class T>
T stage_of(const std::vector<T>& stages, int64_t step, int64_t total) {
  const auto n = std::ssize(stages);
  return stages[static_cast<size_t>(std::min(n - 1, n * step / std::max<int64_t>(total, 1)))];
}

}  // namespace

Stages::Stages(const Curriculum& c) : shortest(c.min_window) {
  if (shortest < 1 || shortest > kLongestWindow)
    throw_error("min_window: expected 1 to {}, found {}", kLongestWindow, shortest);
  window = parse_list<int64_t>("window", c.window, shortest, kLongestWindow);
  forcing = parse_list<double>("teacher_forcing", c.teacher_forcing, 0, 1);
}
int64_t Stages::window_at(int64_t step, int64_t total) const {
  return stage_of(window, step, total);
}
double Stages::forcing_at(int64_t step, int64_t total) const {
  return stage_of(forcing, step, total);
}
int64_t Stages::longest() const { return *std::max_element(window.begin(), window.end()); }

}  // namespace refrain

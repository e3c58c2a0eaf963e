#include "refrain/base/setting_map.h"

#include <algorithm>
#include <numeric>

namespace refrain {

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  std::vector<size_t> row;
  for (const std::string& candidate : candidates) {
    // As many letters as one has more must go: what is far by that alone is not looked at.
    const auto [less, more] = std::minmax({name.size(), candidate.size()});
    if (more - less >= best_distance) continue;
    row.resize(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= name.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t above = row[j];
        row[j] = std::min(
            {row[j] + 1, row[j - 1] + 1, diagonal + (name[i - 1] == candidate[j - 1] ? 0 : 1)});
        diagonal = above;
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

void SettingMap::check_all_known() const {
  for (const auto& [name, value] : values_) {
    if (known_.contains(name)) continue;
    const std::string near = nearest_name(name, {known_.begin(), known_.end()});
    throw_error("unknown setting '{}'{}", name,
                near.empty() ? "" : "; did you mean '" + near + "'?");
  }
}

}  // namespace refrain

#include "cli/sample/sample.h"

#include <unordered_set>

#include "cli/sample/calendar.h"
#include "refrain/base/error.h"
#include "refrain/base/random.h"
#include "refrain/io/file.h"

namespace refrain::cli {
namespace {

constexpr int64_t kMaxRows = 1'000'000;
constexpr int kMaxMisses = 100'000;  // draws in a row that gave nothing new

}  // namespace

void check_sizes(const SampleSizes& sizes) {
  for (const int64_t rows : {sizes.train, sizes.dev, sizes.test})
    if (rows < 0 || rows > kMaxRows)
      throw_error("calendar: {} rows, expected 0 to {}", rows, kMaxRows);
}

SampleSet calendar(uint64_t seed, const SampleSizes& sizes) {
  check_sizes(sizes);
  SampleSet set;
  std::unordered_set<std::string> seen;
  Random random(mix_key(seed, "calendar"));
  int misses = 0;
  const auto full = [](const SampleSet::Pairs& part, int64_t rows) {
    return static_cast<int64_t>(part.size()) >= rows;
  };
  while (!full(set.train, sizes.train) || !full(set.dev, sizes.dev) ||
         !full(set.test, sizes.test)) {
    if (++misses > kMaxMisses)
      throw_error("calendar: found {} + {} + {} texts, expected {} + {} + {}", set.train.size(),
                  set.dev.size(), set.test.size(), sizes.train, sizes.dev, sizes.test);
    CalendarText text = draw_calendar_text(random);
    const uint64_t part_key = mix_key(0, text.japanese) % 20;
    SampleSet::Pairs& part = part_key == 0 ? set.dev : part_key == 1 ? set.test : set.train;
    const int64_t rows = part_key == 0 ? sizes.dev : part_key == 1 ? sizes.test : sizes.train;
    if (full(part, rows) || !seen.insert(text.english).second) continue;
    part.emplace_back(std::move(text.english), std::move(text.japanese));
    misses = 0;
  }
  return set;
}

void write_pairs(const SampleSet& set, const std::string& folder) {
  io::make_directories(folder);
  const auto write = [&](const std::string& name, const SampleSet::Pairs& pairs) {
    std::string english, japanese;
    for (const auto& [source, target] : pairs) {
      english += source + "\n";
      japanese += target + "\n";
    }
    io::write_file(folder + "/" + name + ".en", english);
    io::write_file(folder + "/" + name + ".ja", japanese);
  };
  write("train", set.train);
  write("dev", set.dev);
  write("test", set.test);
}

}  // namespace refrain::cli

#include "refrain/base/notes.h"

#include <gtest/gtest.h>

#include <vector>

namespace refrain {
namespace {

TEST(Notes, GoToWhoListens) {
  std::vector<std::string> heard;
  const Notes notes = [&](const std::string& line) { heard.push_back(line); };
  add_note(notes, "{}: {} settings left aside", "config.json", 2);
  add_note(notes, "again");
  add_note({}, "nobody hears {}", "this");
  EXPECT_EQ(heard, (std::vector<std::string>{"config.json: 2 settings left aside", "again"}));
}

}  // namespace
}  // namespace refrain

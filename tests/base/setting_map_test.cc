#include "refrain/base/setting_map.h"

#include <gtest/gtest.h>

namespace refrain {
namespace {

struct Config {
  int64_t width = 3;
  bool quick = false;

  template <class V>
  void visit(V&& v) {
    v("width", width, "what is computed");
    v("quick", quick, how("how it is"));
  }
};

// Text sets both kinds of settings; only what is computed is put back into text, and saved.
TEST(SettingMap, HowIsSetAndNotSaved) {
  SettingMap given;
  given.set("a.width", "5");
  given.set("a.quick", "true");
  const Config config = given.get<Config>("a.");
  given.check_all_known();
  EXPECT_EQ(config.width, 5);
  EXPECT_TRUE(config.quick);
  SettingMap saved;
  saved.put("a.", config);
  EXPECT_EQ(saved.values(), (std::map<std::string, std::string>{{"a.width", "5"}}));
}

}  // namespace
}  // namespace refrain

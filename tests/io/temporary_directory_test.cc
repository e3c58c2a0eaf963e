#include "refrain/io/temporary_directory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

namespace fs = std::filesystem;

TEST(TemporaryDirectory, GoesWithWhatIsInIt) {
  const TemporaryFolder folder;
  {
    const TemporaryDirectory one(folder.path()), other(folder.path());
    EXPECT_NE(one.path(), other.path());
    EXPECT_TRUE(fs::path(one.path()).filename().string().starts_with("refrain-"));
    EXPECT_EQ(fs::status(one.path()).permissions(), fs::perms::owner_all);
    fs::create_directory(one.path() + "/inner");
    std::ofstream(one.path() + "/inner/file") << "text";
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(TemporaryDirectory, SaysWhyThereIsNone) {
  const TemporaryFolder folder;
  EXPECT_EQ(error_of([&] { TemporaryDirectory(folder / "none"); }),
            fmt::format("cannot make a temporary directory in {}: No such file or directory",
                        folder / "none"));
  EXPECT_EQ(
      error_of([&] { TemporaryDirectory(folder.put("file", "")); }),
      fmt::format("cannot make a temporary directory in {}: Not a directory", folder / "file"));
}

}  // namespace
}  // namespace refrain::io

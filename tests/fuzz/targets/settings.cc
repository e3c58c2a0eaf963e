// A file for --config, JSON or TOML.
#include "cli/config_file.h"
#include "fuzz/target.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  for (const cli::ConfigEntry& entry : cli::read_config_file(put(input, "settings")))
    expect(entry.is_list || entry.values.size() == 1, "a setting of several values is no list");
}

std::vector<std::string> seeds() {
  return {
      R"({"layers": 2, "attention": {"rope_theta": 5e5}, "data": ["a", "b"], "x": true})",
      "# a comment\nlayers = 2\nattention.rope_theta = 5e5\n\"data\" = [ 'a',\n  \"b\\u00e9\", ]\n"
      "[gla]\nheads = 1_000\nname = \"\\t\"\non = true\n"};
}

const Register registered({"settings", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

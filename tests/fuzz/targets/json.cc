// JSON, from which all of ours is read.
#include "refrain/io/json.h"

#include "fuzz/target.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const io::Json json = io::parse_json(input, "input");
  const std::string text = io::to_line(json);
  expect(io::parse_json(text, "written") == json, "what was written reads as something else");
  (void)io::quote(input);
  (void)io::describe(json);
}

std::vector<std::string> seeds() {
  return {R"({"a": [1, -2.5e3, true, false, null, "\u00e9\ud83d\ude00\n"], "b": {"c": {}}})",
          "[[[[18446744073709551615, -9223372036854775808, 1e308, 0.1]]]]", "\"\xC3\xA9\""};
}

const Register registered({"json", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

// refrain.json, which says what a model was trained for.
#include "refrain/data/task.h"

#include "fuzz/target.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  put(input, "refrain.json");
  const auto task = data::read_task(folder().path());
  expect(task.has_value(), "the file is not seen");
  data::write_task(folder().path(), *task);
  expect(data::read_task(folder().path()) == task, "what was written reads as something else");
}

std::vector<std::string> seeds() {
  return {R"({"task": "lm"})",
          R"({"task": "translate", "source_tag": "<en>", "target_tag": "<ja>",
              "directions": [["<en>", "<ja>"], ["<ja>", "<en>"]]})"};
}

const Register registered({"task", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

// What a model was trained for, kept beside it as refrain.json, so that it can be used and scored
// without saying so again:
//
//   {"task": "translate", "source_tag": "<en>", "target_tag": "<ja>"}
#pragma once
#include <optional>
#include <string>

namespace refrain::data {

struct TaskDescription {
  std::string task = "lm";             // "lm" | "translate"
  std::string source_tag, target_tag;  // translate: the tokens before source and target

  bool operator==(const TaskDescription&) const = default;
};

// Nothing when the model directory has no refrain.json.
std::optional<TaskDescription> read_task(const std::string& directory);
void write_task(const std::string& directory, const TaskDescription& task);

}  // namespace refrain::data

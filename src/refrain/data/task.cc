#include "refrain/data/task.h"

#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::data {
namespace {

std::string path_in(const std::string& directory) { return directory + "/refrain.json"; }

}  // namespace

std::optional<TaskDescription> read_task(const std::string& directory) {
  const std::string path = path_in(directory);
  if (!io::exists(path)) return {};
  const io::Json json = io::read_json(path);
  TaskDescription task;
  task.task = io::get_string(json, "task", path);
  if (task.task == "translate") {
    task.source_tag = io::get_string(json, "source_tag", path);
    task.target_tag = io::get_string(json, "target_tag", path);
  } else if (task.task != "lm") {
    throw_error("{}: task: expected \"lm\" or \"translate\", found {}", path, io::quote(task.task));
  }
  return task;
}

void write_task(const std::string& directory, const TaskDescription& task) {
  io::Json json = {{"task", task.task}};
  if (task.task == "translate") {
    json["source_tag"] = task.source_tag;
    json["target_tag"] = task.target_tag;
  }
  io::write_file(path_in(directory), io::to_text(json));
}

}  // namespace refrain::data

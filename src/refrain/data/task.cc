#include "refrain/data/task.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::data {
namespace {

std::string path_in(const std::string& directory) { return directory + "/refrain.json"; }

// Puts the direction at the front, wherever it was.
void put_first(const Direction& direction, std::vector<Direction>& directions) {
  std::erase(directions, direction);
  directions.insert(directions.begin(), direction);
}

std::vector<Direction> read_directions(const io::Json& json, const std::string& path) {
  std::vector<Direction> directions;
  if (const io::Json* list = io::find(json, "directions")) {
    const auto is_pair = [](const io::Json& j) {
      return j.is_array() && j.size() == 2 && j[0].is_string() && j[1].is_string();
    };
    if (!list->is_array() || !std::all_of(list->begin(), list->end(), is_pair))
      throw_error("{}: directions: expected a list of pairs of tags, found {}", path,
                  io::describe(*list));
    for (const io::Json& pair : *list)
      directions.push_back({pair[0].get<std::string>(), pair[1].get<std::string>()});
  }
  put_first({io::get_string(json, "source_tag", path), io::get_string(json, "target_tag", path)},
            directions);
  return directions;
}

}  // namespace

TaskDescription describe_task(const DataSet& data, const text::Tokenizer& tokenizer,
                              const Direction& usual) {
  // What converses is a language model like any other.
  TaskDescription task{data.task() == "chat" ? "lm" : data.task(), {}};
  for (const auto& [source, target] : data.directions())
    task.directions.push_back(
        {std::string(tokenizer.token(source)), std::string(tokenizer.token(target))});
  const auto& all = task.directions;
  if (std::find(all.begin(), all.end(), usual) != all.end()) put_first(usual, task.directions);
  return task;
}

Direction choose_direction(const TaskDescription& task, const Direction& asked) {
  const auto matches = [](const std::string& wanted, const std::string& tag) {
    return wanted.empty() || wanted == tag;
  };
  if (!asked.source_tag.empty() && !asked.target_tag.empty()) return asked;
  for (const Direction& known : task.directions)
    if (matches(asked.source_tag, known.source_tag) && matches(asked.target_tag, known.target_tag))
      return known;
  if (task.directions.empty())
    throw_error("the model does not say its directions; expected a source tag and a target tag");
  const bool by_source = !asked.source_tag.empty();
  if (task.directions.size() == 1)
    throw_error(
        "{}: the model has one direction, {}, found {} (a model that is trained in both "
        "directions has the way back)",
        by_source ? "source_tag" : "target_tag", names_of(task.directions),
        io::quote(by_source ? asked.source_tag : asked.target_tag));
  throw_error("{}: the model's directions are {}, found {}; another one takes {} as well",
              by_source ? "source_tag" : "target_tag", names_of(task.directions),
              io::quote(by_source ? asked.source_tag : asked.target_tag),
              by_source ? "target_tag" : "source_tag");
}

std::string names_of(std::span<const Direction> directions) {
  std::string names;
  for (const Direction& d : directions)
    names += (names.empty() ? "" : ", ") + d.source_tag + " to " + d.target_tag;
  return names.empty() ? "none" : names;
}

std::optional<TaskDescription> read_task(const std::string& directory) {
  const std::string path = path_in(directory);
  if (!io::exists(path)) return {};
  const io::Json json = io::read_json(path);
  TaskDescription task;
  task.task = io::get_string(json, "task", path);
  if (task.task == "translate")
    task.directions = read_directions(json, path);
  else if (task.task != "lm" && task.task != "probe")
    throw_error("{}: task: expected \"lm\", \"translate\" or \"probe\", found {}", path,
                io::quote(task.task));
  return task;
}

io::Json to_json(const TaskDescription& task) {
  io::Json json = {{"task", task.task}};
  if (task.directions.empty()) return json;
  json["source_tag"] = task.directions[0].source_tag;
  json["target_tag"] = task.directions[0].target_tag;
  if (task.directions.size() > 1)
    for (const Direction& d : task.directions)
      json["directions"].push_back({d.source_tag, d.target_tag});
  return json;
}

void write_task(const std::string& directory, const TaskDescription& task) {
  io::write_file(path_in(directory), io::to_text(to_json(task)));
}

}  // namespace refrain::data

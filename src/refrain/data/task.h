// The task that a model was trained for, stored beside it as refrain.json, so that other verbs need
// not be told:
//
//   {"task": "translate", "source_tag": "<en>", "target_tag": "<ja>",
//    "directions": [["<en>", "<ja>"], ["<ja>", "<en>"]]}
//
// "directions" is present if there are others than that of the two tags.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "refrain/data/dataset.h"
#include "refrain/io/json.h"

namespace refrain::data {

// The tokens before a source text and before its translation.
struct Direction {
  std::string source_tag, target_tag;
  bool operator==(const Direction&) const = default;
};

struct TaskDescription {
  std::string task = "lm";            // "lm" | "translate" | "probe"
  std::vector<Direction> directions;  // translate: what it was trained on, the usual one first

  bool operator==(const TaskDescription&) const = default;
};

// The task of this data. The usual direction is `usual` if the data has it.
TaskDescription describe_task(const DataSet& data, const text::Tokenizer& tokenizer,
                              const Direction& usual);

// The direction to translate in: the first known direction with the given tags, of which either or
// both may be empty. If both are given, they need not occur in one known direction. An Error names
// the known directions.
Direction choose_direction(const TaskDescription& task, const Direction& asked);

// "<en> to <ja>, <ja> to <en>"
std::string names_of(std::span<const Direction> directions);

// Nothing if the model directory has no refrain.json.
std::optional<TaskDescription> read_task(const std::string& directory);
void write_task(const std::string& directory, const TaskDescription& task);
io::Json to_json(const TaskDescription& task);  // as it stands there

}  // namespace refrain::data

// A run directory is a model directory plus the run's own files:
//
//   config.json generation_config.json tokenizer.json tokenizer_config.json refrain.json
//   model.safetensors         the newest saved weights
//   training_args.json        every setting of the run, as --dump-config prints them
//   trainer_state.json        where the newest checkpoint stands
//   metrics.jsonl             a line per record
//   data/                     token files made from the run's text
//   best/                     the model of the best evaluation
//   checkpoint-<step>/        a model directory, optimizer.safetensors and trainer_state.json
//
// A checkpoint is filled under a temporary name and renamed when it is whole and on disk, so every
// checkpoint-<step> is complete, whenever the program died.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "refrain/data/batches.h"
#include "refrain/io/json.h"
#include "refrain/train/optimizer.h"

namespace refrain {

// What a run needs beside weights and moments to go on as if it had never stopped.
struct TrainerState {
  int64_t step = 0;
  data::Batches::Position position;
  int64_t tokens_seen = 0;
  double best_loss = 0;
  int64_t best_step = 0;  // 0: not evaluated yet
  int64_t evaluations_without_gain = 0;
};

io::Json to_json(const TrainerState&);
TrainerState parse_trainer_state(const io::Json&, const std::string& name);

class RunDirectory {
 public:
  // Makes the directory; write_settings() makes it a run. One that holds something which is not a
  // run is somebody else's: an Error. One that holds a run is an Error unless `resume`. What a
  // crash left between create() and write_settings() is cleared away: an empty file, .preparing,
  // says that it is ours.
  static RunDirectory create(const std::string& path, bool resume);
  // A directory that must hold a run.
  static RunDirectory open(const std::string& path);
  static bool is_run(const std::string& path);

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

  void write_settings(const io::Json& settings) const;
  io::Json read_settings() const;

  // How a model's weights are written to a file, and read from a model directory.
  using WriteWeights = std::function<void(const std::string& path)>;
  using ReadWeights = std::function<void(const std::string& directory)>;

  // Writes a checkpoint; `describe` puts the model directory's small files into a directory. The
  // run's own model.safetensors becomes the same file. Keeps the `keep` newest (0 = all).
  void save(const WriteWeights&, const Optimizer&, const TrainerState&,
            const std::function<void(const std::string& directory)>& describe, int64_t keep) const;
  // best/ becomes this model.
  void save_best(const WriteWeights&,
                 const std::function<void(const std::string& directory)>& describe) const;

  // Steps of the complete checkpoints, ascending.
  std::vector<int64_t> checkpoints() const;
  // Loads weights, moments and state of the newest checkpoint; nothing when there is none.
  std::optional<TrainerState> load_newest(const ReadWeights&, Optimizer&) const;

  // Appends a line to metrics.jsonl. cut_metrics() drops records after `step`: they belong to
  // steps that a resumed run makes again.
  void record(const io::Json& metrics) const;
  void cut_metrics(int64_t step) const;

 private:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}
  std::string checkpoint(int64_t step) const { return file("checkpoint-" + std::to_string(step)); }
  std::string path_;
};

}  // namespace refrain

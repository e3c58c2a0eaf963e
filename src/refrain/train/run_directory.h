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
//   .refrain.lock             the process that trains here, while it does
//   .preparing/               what is made before this is a run
//
// A checkpoint is filled under a temporary name and renamed when it is whole and on disk, so every
// checkpoint-<step> is complete, whenever the program died. One process at a time: a second one is
// refused by the lock. Reading a run needs none.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/data/batches.h"
#include "refrain/io/json.h"
#include "refrain/train/optimizer.h"

namespace refrain {

// What a run needs beside weights and moments to go on as if it had never stopped.
struct TrainerState {
  int64_t step = 0;
  data::Batches::Position position;
  int64_t tokens_seen = 0;
  double best_loss = 0;   // finite
  int64_t best_step = 0;  // 0: no evaluation has been the best yet
  int64_t evaluations_without_gain = 0;
  int64_t evaluated_step = 0;  // of the last evaluation
};

io::Json to_json(const TrainerState&);
TrainerState parse_trainer_state(const io::Json&, const std::string& name);

class RunDirectory {
 public:
  // Makes the directory and locks it; write_settings() makes it a run. One that holds something
  // which is not a run is somebody else's: an Error. One that holds a run is an Error unless
  // `resume`. Until it is a run, all that is made for it is in .preparing/, and goes when this
  // does; what a crash left there is cleared away, and nothing else ever is.
  static RunDirectory create(const std::string& path, bool resume, const Notes& notes = {});
  // A directory that must hold a run; locked.
  static RunDirectory open(const std::string& path, const Notes& notes = {});
  static bool is_run(const std::string& path);
  ~RunDirectory();
  RunDirectory(RunDirectory&&) noexcept;
  RunDirectory& operator=(RunDirectory&&) noexcept;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // Where the model directory's small files and data/ are: .preparing until this is a run.
  std::string place() const;

  void write_settings(const io::Json& settings) const;
  io::Json read_settings() const;

  // How a model's weights are written to a file, and read from a model directory.
  using WriteWeights = std::function<void(const std::string& path)>;
  using ReadWeights = std::function<void(const std::string& directory)>;

  // Writes a checkpoint; `describe` puts the model directory's small files into a directory. The
  // run's own model.safetensors becomes the same file. Keeps the `keep` newest (0 = all).
  void save(const WriteWeights&, const Optimizer&, const TrainerState&,
            const std::function<void(const std::string& directory)>& describe, int64_t keep) const;
  // The state of a checkpoint that was saved before its evaluation.
  void save_state(const TrainerState&) const;
  // best/ becomes this model.
  void save_best(const WriteWeights&,
                 const std::function<void(const std::string& directory)>& describe) const;

  // Steps of the complete checkpoints, ascending.
  std::vector<int64_t> checkpoints() const;
  // Loads weights, moments and state of the newest checkpoint; nothing when there is none. Records
  // that go beyond it are cut off metrics.jsonl: they are of work that will be done again.
  std::optional<TrainerState> load_newest(const ReadWeights&, Optimizer&) const;

  // Appends a line to metrics.jsonl.
  void record(const io::Json& metrics) const;

 private:
  struct Hold;  // on the directory: the lock, and what is to go when this never becomes a run
  RunDirectory(std::string path, std::unique_ptr<Hold> hold);
  std::string checkpoint(int64_t step) const { return file("checkpoint-" + std::to_string(step)); }
  std::string output(const std::string& name) const;
  void publish(int64_t step) const;
  void cut_metrics(const TrainerState&) const;

  std::string path_;
  std::unique_ptr<Hold> hold_;
};

}  // namespace refrain

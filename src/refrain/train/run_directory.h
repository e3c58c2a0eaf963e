// A run directory is a model directory plus the run's own files:
//
//   config.json generation_config.json tokenizer.json tokenizer_config.json refrain.json
//   model.safetensors         the newest saved weights
//   training_args.json        every setting of the run, as --dump-config prints them
//   trainer_state.json        where the newest checkpoint stands
//   metrics.jsonl             a line per record
//   data/                     token files made from the run's text
//   best/                     the model of the best evaluation
//   checkpoint-<step>/        a model directory, optimizer.safetensors and trainer_state.json,
//   which
//                             has the hashes of weights and moments
//   .refrain.lock             the process that trains here, while it does
//   .preparing/               what is made before this is a run
//
// A checkpoint is filled under a temporary name and renamed when it is whole and on disk, so every
// checkpoint-<step> is complete, whenever the program died; what else has such a name is nobody's
// business here. No two files share their bytes: what changes one changes no other. One process at
// a time: a second one is refused by the lock. Reading a run needs none.
//
// A run that was removed while a process works on it is not begun again by what that still writes:
// every member function that writes is an Error then.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/io/json.h"
#include "refrain/train/optimizer.h"
#include "refrain/train/trainer_state.h"
#include "refrain/train/training_task.h"

namespace refrain {

class RunDirectory {
 public:
  // Makes the directory and locks it; write_settings() makes it a run. One that holds something
  // which is not a run is somebody else's: an Error. One that holds a run is an Error unless
  // `resume`. Until it is a run, all that is made for it is in .preparing/, and goes when this
  // does; what a crash left there is cleared away, and nothing else ever is.
  static RunDirectory create(const std::string& path, bool resume, const Notes& notes = {});
  // A directory that must hold a run; locked. What stands where a run writes, and is none of its
  // files, is an Error.
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
  io::Json read_settings() const { return read_settings(path_); }
  // Of any run, for which this takes no lock.
  static io::Json read_settings(const std::string& path);

  // Writes a checkpoint. The run's own model.safetensors becomes a copy. Keeps the `keep` newest
  // (0 = all).
  void save(const TrainingTask&, const Optimizer&, const TrainerState&, int64_t keep) const;
  // The state of a checkpoint that was saved before its evaluation.
  void save_state(const TrainerState&) const;
  // best/ becomes this model.
  void save_best(const TrainingTask&) const;

  // Steps of the complete checkpoints, ascending. What has such a name and is none is noted.
  std::vector<int64_t> checkpoints(const Notes& notes = {}) const;
  // Removes all checkpoints up to `step` but the `keep` newest (0 = all). One that cannot be (it
  // is write-protected) stays, with a note.
  void prune(int64_t step, int64_t keep) const;
  // An Error when something that is no checkpoint has the name of one after `step`, to `last`.
  void check_room(int64_t step, int64_t last) const;

  // Loads weights, moments and state of the newest checkpoint; nothing when there is none. Weights
  // and moments that are not what was saved are an Error. Records that go beyond it are cut off
  // metrics.jsonl: they are of work that will be done again.
  std::optional<TrainerState> load_newest(TrainingTask&, Optimizer&) const;

  // Appends a line to metrics.jsonl.
  void record(const io::Json& metrics) const;

 private:
  struct Hold;  // on the directory: the lock, and what is to go when this never becomes a run
  RunDirectory(std::string path, std::unique_ptr<Hold> hold, const Notes& notes);
  std::string checkpoint(int64_t step) const { return file("checkpoint-" + std::to_string(step)); }
  std::string output(const std::string& name) const;
  void check_outputs() const;
  void check_hashes(const io::Json& hashes, int64_t step, int64_t before) const;
  template <class F>
  void writing(const F& write) const;
  void publish(int64_t step) const;
  void cut_metrics(const TrainerState&) const;

  std::string path_;
  std::unique_ptr<Hold> hold_;
  Notes notes_;
};

}  // namespace refrain

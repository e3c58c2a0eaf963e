// The file layout of a run and its checkpoints. A run directory is a model directory plus the run's
// own files:
//
//   config.json generation_config.json tokenizer.json tokenizer_config.json refrain.json
//   model.safetensors         the newest saved weights; of adapters, adapter_model.safetensors
//                             with adapter_config.json
//   training_args.json        every setting of the run, as --dump-config prints them
//   trainer_state.json        the progress at the newest checkpoint
//   metrics.jsonl             one record per line
//   data/                     token files made from the run's text
//   best/                     the model of the best evaluation
//   checkpoint-<step>/        a model directory, optimizer.safetensors and trainer_state.json,
//                             which has the hashes of weights and moments; with carry_state
//                             streams.safetensors, the states of the streams, as bytes
//   .refrain.lock             the process that trains here, while it does
//   .preparing/               what is made before this is a run
//
// A checkpoint is filled under a temporary name and renamed when it is complete and on disk. So
// every checkpoint-<step> is complete, even if the process was killed. Anything else with such a
// name is ignored. No two files share their bytes, so changing one changes no other. The lock
// allows one process at a time and refuses a second one. Reading a run needs no lock.
//
// If a run is removed while a process works on it, the process does not create it again: every
// member function that writes is then an Error.
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
  // Creates the directory and locks it; write_settings() makes it a run. An existing directory is
  // an Error if it contains something that is not a run, or a run without `resume`. Until it is a
  // run, everything made for it is in .preparing/ and is removed with this object. Leftovers of a
  // crash there are removed, and nothing else ever is.
  static RunDirectory create(const std::string& path, bool resume, const Notes& notes = {});
  // Opens and locks a directory, which must hold a run. It is an Error if something else is in the
  // place of a file that a run writes.
  static RunDirectory open(const std::string& path, const Notes& notes = {});
  static bool is_run(const std::string& path);
  ~RunDirectory();
  RunDirectory(RunDirectory&&) noexcept;
  RunDirectory& operator=(RunDirectory&&) noexcept;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // Where the small files of the model and data/ are: .preparing until this is a run.
  std::string place() const;

  void write_settings(const io::Json& settings) const;
  io::Json read_settings() const { return read_settings(path_); }
  // The settings of any run; takes no lock.
  static io::Json read_settings(const std::string& path);

  // Writes a checkpoint. The run's own model.safetensors becomes a copy of its weights. Keeps the
  // `keep` newest (0 = all).
  void save(const TrainingTask&, const Optimizer&, const TrainerState&, int64_t keep) const;
  // Rewrites the state of a checkpoint that was saved before its evaluation.
  void save_state(const TrainerState&) const;
  // Writes this model to best/.
  void save_best(const TrainingTask&) const;

  // Steps of the complete checkpoints, ascending. Other directories of such a name are noted.
  std::vector<int64_t> checkpoints(const Notes& notes = {}) const;
  // Removes all checkpoints up to `step` except the `keep` newest (0 = all). One that cannot be
  // removed (it is write-protected) stays, with a note.
  void prune(int64_t step, int64_t keep) const;
  // An Error if something that is not a checkpoint has the name of one after `step`, up to `last`.
  void check_room(int64_t step, int64_t last) const;

  // Loads weights, moments and state of the newest checkpoint; nothing if there is none. Weights
  // and moments that differ from what was saved are an Error. Removes later records from
  // metrics.jsonl, since their work will be done again.
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

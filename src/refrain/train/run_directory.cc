#include "refrain/train/run_directory.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "refrain/io/file.h"
#include "refrain/io/file_lock.h"
#include "refrain/io/text.h"

namespace refrain {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSettings = "training_args.json";
constexpr const char* kState = "trainer_state.json";
constexpr const char* kMetrics = "metrics.jsonl";
// A checkpoint has one of them.
constexpr const char* kWeights[] = {TrainingTask::kModelWeights, TrainingTask::kAdapterWeights};
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kLock = ".refrain.lock";
constexpr const char* kOfFileSystem = "lost+found";  // in the root of an ext4 that is empty
constexpr const char* kPreparing = ".preparing";
constexpr const char* kMark = ".refrain";  // in .preparing: that it is ours
constexpr const char* kPlan = "plan.json";
constexpr const char* kHashes = "hashes";  // in trainer_state.json
constexpr std::string_view kCheckpoint = "checkpoint-", kTensors = ".safetensors";
constexpr int64_t kMany = int64_t{1} << 53;

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator entry(directory, failed), end; !failed && entry != end;
       entry.increment(failed))
    names.push_back(entry->path().filename().string());
  if (failed) throw_error("{}: cannot be read: {}", directory, failed.message());
  return names;
}

std::string hash_text(uint64_t hash) { return fmt::format("{:016x}", hash); }

// Of "checkpoint-<step>", as it is written here.
std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kCheckpoint)) return {};
  name.remove_prefix(kCheckpoint.size());
  int64_t step = 0;
  const auto [last, bad] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (bad != std::errc() || step < 0 || name != std::to_string(step)) return {};
  return step;
}

// Why `path` is not a checkpoint, which comes into being whole; "" when it is one.
std::string missing_of_checkpoint(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return "a file";
  const auto has = [&](const char* name) { return fs::is_regular_file(path + "/" + name, error); };
  if (std::ranges::none_of(kWeights, has)) return fmt::format("no {} in it", kWeights[0]);
  for (const char* name : {kOptimizer, kState})
    if (!has(name)) return fmt::format("no {} in it", name);
  return "";
}

// Its state says so too. What was copied to that name, or is damaged, is not ours to remove.
bool is_checkpoint_of(const std::string& path, int64_t step) {
  try {
    return parse_trainer_state(io::read_json(path + "/" + kState), path).step == step;
  } catch (const Error&) {
    return false;
  }
}

std::string preparing_of(const std::string& path) { return path + "/" + kPreparing; }

bool is_preparing(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(preparing_of(path), ignored));
}

// Everything has been made and only waits to be moved.
bool is_prepared(const std::string& path) {
  return io::exists(preparing_of(path) + "/" + kMark) &&
         io::exists(preparing_of(path) + "/" + kSettings);
}

[[noreturn]] void refuse_other(const std::string& path, const std::string& name) {
  throw_error("{}: is not empty and not a run of refrain (it holds '{}')", path, name);
}

// Takes away the .preparing of a process that died: a directory with our mark or with nothing in
// it, or the empty file that earlier versions made. The mark goes last.
void clear_preparing(const std::string& path) {
  if (!is_preparing(path)) return;
  const std::string folder = preparing_of(path);
  std::error_code ignored;
  if (fs::is_directory(fs::symlink_status(folder, ignored))) {
    const std::vector<std::string> names = names_in(folder);
    if (!names.empty() && std::ranges::count(names, kMark) == 0) refuse_other(path, kPreparing);
    for (const std::string& name : names)
      if (name != kMark) io::remove_all(folder + "/" + name);
    io::remove_all(folder + "/" + kMark);
    fs::remove(folder, ignored);
  } else if (fs::is_regular_file(fs::symlink_status(folder, ignored)) &&
             fs::file_size(folder, ignored) == 0) {
    fs::remove(folder, ignored);
  }
  if (is_preparing(path)) refuse_other(path, kPreparing);
}

// What is prepared goes to its place, the settings last: with them it is a run.
void move_prepared(const std::string& path) {
  const std::string folder = preparing_of(path);
  for (const std::string& name : names_in(folder))
    if (name != kMark && name != kSettings) io::move_new(folder + "/" + name, path + "/" + name);
  io::move_new(folder + "/" + kSettings, path + "/" + kSettings);
  clear_preparing(path);
}

// What `old` holds beside the files of `made` comes along: a note beside a model, or the folder
// that a link leads to, is not ours to remove.
void keep_others(const std::string& old, const std::string& made) {
  std::error_code error;
  for (fs::directory_iterator entry(old, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path to = fs::path(made) / entry->path().filename();
    std::error_code ignored;
    if (fs::exists(fs::symlink_status(to, ignored))) continue;
    constexpr auto kAll = fs::copy_options::recursive | fs::copy_options::copy_symlinks;
    std::error_code failed;
    fs::copy(entry->path(), to, kAll | fs::copy_options::create_hard_links, failed);
    if (failed) {  // a file system without links
      fs::remove_all(to, ignored);
      failed.clear();
      fs::copy(entry->path(), to, kAll, failed);
    }
    if (failed) throw_error("{}: cannot be kept: {}", entry->path().string(), failed.message());
  }
}

}  // namespace

struct RunDirectory::Hold {
  std::string path, place;   // where its links lead
  bool made = false;         // the directory, by us
  bool preparing = false;    // not a run yet
  std::set<int64_t> kept{};  // checkpoints that cannot be removed, told once
  std::optional<io::FileLock> lock{};

  Hold(const std::string& of, bool is_made, const Notes& notes)
      : path(of), place(io::follow_links(of)), made(is_made) {
    lock.emplace(path + "/" + kLock, path, notes);
  }
  ~Hold() {
    if (preparing && !is_prepared(path)) {
      try {
        clear_preparing(path);
      } catch (const Error&) {  // the next process says what is in the way
      }
    }
    lock.reset();
    std::error_code ignored;
    if (preparing && made) fs::remove(place, ignored);  // when nothing is in it
  }
};

RunDirectory::RunDirectory(std::string path, std::unique_ptr<Hold> hold, const Notes& notes)
    : path_(std::move(path)), hold_(std::move(hold)), notes_(notes) {}
RunDirectory::~RunDirectory() = default;
RunDirectory::RunDirectory(RunDirectory&&) noexcept = default;
RunDirectory& RunDirectory::operator=(RunDirectory&&) noexcept = default;

bool RunDirectory::is_run(const std::string& path) {
  return io::exists(path + "/" + kSettings) || is_prepared(path);
}

RunDirectory RunDirectory::create(const std::string& path, bool resume, const Notes& notes) {
  std::error_code error;
  const bool is_there = io::exists(path);
  if (is_there && !fs::is_directory(path, error))
    throw_error("{}: expected a directory for the run, found a file", path);
  const auto check = [&] {
    if (is_run(path)) {
      if (!resume) throw_error("{}: holds a run already", path);
      return;
    }
    for (const std::string& name : names_in(path))
      if (name != kLock && name != kPreparing && name != kOfFileSystem) refuse_other(path, name);
  };
  if (is_there) check();  // before anything is put into the directory of somebody else
  io::make_directories(path);
  auto hold = std::make_unique<Hold>(path, !is_there, notes);
  if (is_run(path)) {
    check();
    hold.reset();
    return open(path, notes);
  }
  hold->preparing = true;
  check();
  clear_preparing(path);
  const std::string folder = preparing_of(path);
  fs::create_directory(folder, error);
  if (error) throw_error("{}: cannot be written: {}", folder, error.message());
  // An empty file comes into being in one step.
  if (!std::ofstream(folder + "/" + kMark))
    throw_error("{}: cannot be written", folder + "/" + kMark);
  return {path, std::move(hold), notes};
}

RunDirectory RunDirectory::open(const std::string& path, const Notes& notes) {
  const auto check = [&] {
    if (!is_run(path))
      throw_error("{}: expected a run directory with {}, found none", path, kSettings);
  };
  check();
  auto hold = std::make_unique<Hold>(path, false, notes);
  check();
  if (is_prepared(path)) move_prepared(path);
  if (is_preparing(path)) clear_preparing(path);
  io::AtomicDirectory::remove_stale(path, notes);
  RunDirectory directory(path, std::move(hold), notes);
  directory.check_outputs();
  return directory;
}

std::string RunDirectory::place() const { return hold_->preparing ? preparing_of(path_) : path_; }

void RunDirectory::write_settings(const io::Json& settings) const {
  if (!hold_->preparing) return io::write_file(output(kSettings), io::to_text(settings));
  io::write_file(place() + "/" + kSettings, io::to_text(settings));
  move_prepared(path_);
  hold_->preparing = false;
}

// The run's file or folder `name`, to be written. Links are followed, but not one that leads back
// into the run: what it leads to, a checkpoint say, is another thing, which must stay as it is.
std::string RunDirectory::output(const std::string& name) const {
  const std::string path = file(name);
  std::error_code error;
  if (!fs::is_symlink(path, error)) return path;
  const fs::path run = fs::canonical(path_, error), to = fs::weakly_canonical(path, error);
  const bool inside =
      std::mismatch(run.begin(), run.end(), to.begin(), to.end()).first == run.end();
  if (!error && inside) io::remove_all(path);
  return path;
}

io::Json RunDirectory::read_settings(const std::string& path) {
  const std::string settings = std::string("/") + kSettings;
  return io::read_json((io::exists(path + settings) ? path : preparing_of(path)) + settings);
}

// What was removed, or replaced, is not written to; nor does it matter then how writing failed.
template <class F>
void RunDirectory::writing(const F& write) const {
  const auto check = [&] {
    const bool has_settings = hold_->preparing || io::exists(file(kSettings));
    if (!hold_->lock->is_in_place() || !has_settings)
      throw_error("{}: was removed, or its {} was, while a process trains in it; it writes no more",
                  path_, has_settings ? kLock : kSettings);
  };
  check();
  try {
    write();
  } catch (const Error&) {
    check();
    throw;
  }
}

void RunDirectory::save(const TrainingTask& task, const Optimizer& optimizer,
                        const TrainerState& state, int64_t keep) const {
  writing([&] {
    io::AtomicDirectory directory(checkpoint(state.step));
    task.write_model_files(directory.path());
    task.write_weights(directory.path() + "/" + task.weights_file());
    optimizer.save(directory.path() + "/" + kOptimizer);
    task.save_progress(directory.path());
    io::Json json = to_json(state);
    for (std::string& name : names_in(directory.path()))
      if (name.ends_with(kTensors))
        json[kHashes][name] = hash_text(io::hash_file(directory.path() + "/" + name));
    io::write_file(directory.path() + "/" + kState, io::to_text(json));
    directory.commit();
    publish(state.step);
    prune(state.step, keep);
  });
}

// The run's own weights and state become the checkpoint's.
void RunDirectory::publish(int64_t step) const {
  for (const char* weights : kWeights)
    if (io::exists(checkpoint(step) + "/" + weights))
      io::copy_file(checkpoint(step) + "/" + weights, output(weights));
  io::copy_file(checkpoint(step) + "/" + kState, output(kState));
}

void RunDirectory::save_state(const TrainerState& state) const {
  writing([&] {
    const std::string path = checkpoint(state.step) + "/" + kState;
    io::Json json = to_json(state);
    const io::Json before = io::read_json(path);
    if (const io::Json* hashes = io::find(before, kHashes)) json[kHashes] = *hashes;
    io::write_file(path, io::to_text(json));
    io::write_file(output(kState), io::to_text(json));
  });
}

void RunDirectory::save_best(const TrainingTask& task) const {
  writing([&] {
    io::AtomicDirectory directory(output("best"));
    task.write_model_files(directory.path());
    task.write_weights(directory.path() + "/" + task.weights_file());
    keep_others(output("best"), directory.path());
    directory.commit();
  });
}

std::vector<int64_t> RunDirectory::checkpoints(const Notes& notes) const {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(path_)) {
    const std::optional<int64_t> step = step_of(name);
    if (!step) continue;
    const std::string missing = missing_of_checkpoint(file(name));
    if (missing.empty())
      steps.push_back(*step);
    else
      add_note(notes, "{}: left aside: not a checkpoint ({})", file(name), missing);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

// Older ones only: a checkpoint of a step that is yet to come was left by somebody else's run.
void RunDirectory::prune(int64_t step, int64_t keep) const {
  if (keep == 0) return;
  std::vector<int64_t> all = checkpoints();
  std::erase_if(all, [&](int64_t other) {
    return other > step || !is_checkpoint_of(checkpoint(other), other);
  });
  for (size_t i = 0; i + static_cast<size_t>(keep) < all.size(); ++i) try {
      io::remove_all(checkpoint(all[i]));
    } catch (const Error& error) {
      if (hold_->kept.insert(all[i]).second)
        add_note(notes_, "{}: kept: {}", checkpoint(all[i]), error.what());
    }
}

void RunDirectory::check_room(int64_t step, int64_t last) const {
  for (const std::string& name : names_in(path_))
    if (const std::optional<int64_t> at = step_of(name); at && *at > step && *at <= last)
      if (const std::string missing = missing_of_checkpoint(file(name)); !missing.empty())
        throw_error(
            "{}: is in the way of the checkpoint of step {}, and is none ({}); name it otherwise",
            file(name), *at, missing);
}

// What stands where a run writes is found before it has worked, not when it wants to save.
void RunDirectory::check_outputs() const {
  std::error_code error;
  for (const char* name : {kMetrics, kWeights[0], kWeights[1], kState, kPlan}) {
    const fs::file_status found = fs::status(file(name), error);
    if (fs::exists(found) && !fs::is_regular_file(found) && !fs::is_character_file(found))
      throw_error("{}: expected a file, or nothing, where the run writes one; found {}", file(name),
                  fs::is_directory(found) ? "a directory" : "what is none");
  }
  for (const char* name : {"best", "data"})
    if (const fs::file_status found = fs::status(file(name), error);
        fs::exists(found) && !fs::is_directory(found))
      throw_error("{}: expected a directory, or nothing, where the run has one; found a file",
                  file(name));
  if (io::exists(file("best"))) io::AtomicDirectory tried(file("best"));
}

void RunDirectory::check_hashes(const io::Json& state, int64_t step, int64_t before) const {
  const std::string where = checkpoint(step) + "/" + kState;
  const io::Json* hashes = io::find(state, kHashes);
  if (!hashes) return;  // of an earlier version
  const auto check = [&](const std::string& path, const std::string& expected) {
    const std::string found = hash_text(io::hash_file(path));
    if (found == expected) return;
    const std::string way_out =
        before < 0 ? ""
                   : fmt::format("; without {} it goes on after step {}", checkpoint(step), before);
    throw_error("{}: damaged: its hash is {}, expected {} ({}){}", path, found, expected, where,
                way_out);
  };
  if (!hashes->is_object())
    throw_error("{}: {}: expected an object, found {}", where, kHashes, io::describe(*hashes));
  for (const auto& [name, unused] : hashes->items()) {
    const std::string expected = io::get_string(*hashes, name, where);
    if (name.find('/') != name.npos || !name.ends_with(kTensors))
      throw_error("{}: {}: expected names of tensors' files, found {}", where, kHashes,
                  io::quote(name));
    check(checkpoint(step) + "/" + name, expected);
    // What is never trained (vectors of words) is read from the run's own file.
    if (std::ranges::count(kWeights, name) == 0 && name != kOptimizer &&
        name != TrainingTask::kStreams)
      check(file(name), expected);
  }
}

std::optional<TrainerState> RunDirectory::load_newest(TrainingTask& task,
                                                      Optimizer& optimizer) const {
  const std::vector<int64_t> all = checkpoints(notes_);
  if (all.empty()) {
    cut_metrics({});
    return {};
  }
  const std::string from = checkpoint(all.back());
  const std::string name = from + "/" + kState;
  const io::Json json = io::read_json(name);
  const TrainerState state = parse_trainer_state(json, name);
  if (state.step != all.back())
    throw_error("{}: expected global_step {}, found {}", name, all.back(), state.step);
  task.resume_from(state, name);
  check_hashes(json, state.step, all.size() > 1 ? all[all.size() - 2] : -1);
  task.load_weights(from);
  optimizer.load(from + "/" + kOptimizer, state.step);
  task.load_progress(from);
  // A crash may have come between a checkpoint and what the run shows of it.
  if (!io::exists(file(task.weights_file())) || !io::exists(file(kState)) ||
      io::read_file(file(kState)) != io::read_file(name))
    publish(state.step);
  cut_metrics(state);
  return state;
}

void RunDirectory::record(const io::Json& metrics) const {
  writing([&] { io::append_file(file(kMetrics), metrics.dump() + "\n"); });
}

void RunDirectory::cut_metrics(const TrainerState& state) const {
  std::error_code error;
  if (!fs::is_regular_file(file(kMetrics), error)) return;
  std::string kept, line;
  io::TextReader reader = io::TextReader::of_regular(file(kMetrics));
  while (reader.line(line)) {
    try {
      const io::Json json = io::parse_json(line, file(kMetrics));
      const int64_t last = json.contains("eval_loss") ? state.evaluated_step : state.step;
      if (io::get_int(json, "step", kMetrics, 0, kMany) <= last) kept += line + "\n";
    } catch (const Error&) {  // a line that a crash cut short
    }
  }
  if (kept.size() != fs::file_size(file(kMetrics), error)) io::write_file(output(kMetrics), kept);
}

}  // namespace refrain

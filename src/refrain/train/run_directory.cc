#include "refrain/train/run_directory.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
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
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kLock = ".refrain.lock";
constexpr const char* kPreparing = ".preparing";
constexpr const char* kMark = ".refrain";  // in .preparing: that it is ours
constexpr std::string_view kCheckpoint = "checkpoint-";
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
  throw_error("{}: is not empty and not a run of refrain (it holds '{}'); name another --out", path,
              name);
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

io::Json to_json(const TrainerState& s) {
  return {{"global_step", s.step},
          {"epoch", s.position.epoch},
          {"batches_of_epoch", s.position.index},
          {"num_input_tokens_seen", s.tokens_seen},
          {"best_metric", s.best_step > 0 ? io::Json(s.best_loss) : io::Json()},
          {"best_global_step", s.best_step},
          {"evaluations_without_gain", s.evaluations_without_gain},
          {"evaluated_global_step", s.evaluated_step}};
}

TrainerState parse_trainer_state(const io::Json& json, const std::string& name) {
  TrainerState s;
  s.step = io::get_int(json, "global_step", name, 0, kMany);
  s.position.epoch = static_cast<uint64_t>(io::get_int(json, "epoch", name, 0, kMany));
  s.position.index = io::get_int(json, "batches_of_epoch", name, 0, kMany);
  s.tokens_seen = io::get_int(json, "num_input_tokens_seen", name, 0, kMany);
  // Earlier versions took a first loss that is not a number for the best, and wrote null.
  if (io::find(json, "best_metric")) {
    s.best_loss = io::get_number(json, "best_metric", name);
    s.best_step = io::get_int(json, "best_global_step", name, 0, kMany);
  }
  s.evaluations_without_gain = io::get_int(json, "evaluations_without_gain", name, 0, kMany);
  // Earlier versions evaluated before they saved.
  s.evaluated_step = io::find(json, "evaluated_global_step")
                         ? io::get_int(json, "evaluated_global_step", name, 0, kMany)
                         : s.step;
  return s;
}

struct RunDirectory::Hold {
  std::string path, place;  // where its links lead
  bool made = false;        // the directory, by us
  bool preparing = false;   // not a run yet
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

RunDirectory::RunDirectory(std::string path, std::unique_ptr<Hold> hold)
    : path_(std::move(path)), hold_(std::move(hold)) {}
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
      if (!resume)
        throw_error("{}: holds a run already; go on with it by --resume, or name another --out",
                    path);
      return;
    }
    for (const std::string& name : names_in(path))
      if (name != kLock && name != kPreparing) refuse_other(path, name);
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
  return {path, std::move(hold)};
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
  io::AtomicDirectory::remove_stale(path);
  return {path, std::move(hold)};
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

io::Json RunDirectory::read_settings() const { return io::read_json(file(kSettings)); }

void RunDirectory::save(const WriteWeights& write_weights, const Optimizer& optimizer,
                        const TrainerState& state,
                        const std::function<void(const std::string&)>& describe,
                        int64_t keep) const {
  const std::string final_path = checkpoint(state.step);
  {
    io::AtomicDirectory directory(final_path);
    describe(directory.path());
    write_weights(directory.path() + "/" + kWeights);
    optimizer.save(directory.path() + "/" + kOptimizer);
    io::write_file(directory.path() + "/" + kState, io::to_text(to_json(state)));
    directory.commit();
  }
  publish(state.step);
  std::vector<int64_t> all = checkpoints();
  // Older ones only: a checkpoint of a step that is yet to come was left by somebody else's run.
  std::erase_if(all, [&](int64_t step) { return step > state.step; });
  for (size_t i = 0; keep > 0 && i + static_cast<size_t>(keep) < all.size(); ++i)
    io::remove_all(checkpoint(all[i]));
}

// The run's own weights and state become the checkpoint's.
void RunDirectory::publish(int64_t step) const {
  io::link_file(checkpoint(step) + "/" + kWeights, output(kWeights));
  io::write_file(output(kState), io::read_file(checkpoint(step) + "/" + kState));
}

void RunDirectory::save_state(const TrainerState& state) const {
  io::write_file(checkpoint(state.step) + "/" + kState, io::to_text(to_json(state)));
  io::write_file(output(kState), io::to_text(to_json(state)));
}

void RunDirectory::save_best(const WriteWeights& write_weights,
                             const std::function<void(const std::string&)>& describe) const {
  io::AtomicDirectory directory(output("best"));
  describe(directory.path());
  write_weights(directory.path() + "/" + kWeights);
  keep_others(output("best"), directory.path());
  directory.commit();
}

std::vector<int64_t> RunDirectory::checkpoints() const {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kCheckpoint)) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [last, bad] = std::from_chars(name.data() + kCheckpoint.size(), end, step);
    if (bad == std::errc() && last == end && step >= 0) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<TrainerState> RunDirectory::load_newest(const ReadWeights& read_weights,
                                                      Optimizer& optimizer) const {
  const std::vector<int64_t> all = checkpoints();
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
  read_weights(from);
  optimizer.load(from + "/" + kOptimizer, state.step);
  // A crash may have come between a checkpoint and what the run shows of it.
  if (!io::exists(file(kWeights)) || !io::exists(file(kState)) ||
      io::read_file(file(kState)) != io::read_file(name))
    publish(state.step);
  cut_metrics(state);
  return state;
}

void RunDirectory::record(const io::Json& metrics) const {
  io::append_file(file(kMetrics), metrics.dump() + "\n");
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

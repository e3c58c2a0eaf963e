#include "refrain/train/run_directory.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>

#include "refrain/io/file.h"
#include "refrain/io/text.h"

namespace refrain {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSettings = "training_args.json";
constexpr const char* kState = "trainer_state.json";
constexpr const char* kMetrics = "metrics.jsonl";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kPreparing = ".preparing";  // until there are settings
constexpr std::string_view kCheckpoint = "checkpoint-";
constexpr int64_t kMany = int64_t{1} << 53;

// `to` becomes another name of the file `from`, atomically.
void link_as(const std::string& from, const std::string& to) {
  const std::string temporary = to + ".link-" + std::to_string(getpid());
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_hard_link(from, temporary, error);
  if (error) fs::copy_file(from, temporary, error);  // a file system without links
  if (!error) fs::rename(temporary, to, error);
  if (error) throw_error("{}: cannot be written: {}", to, error.message());
}

}  // namespace

io::Json to_json(const TrainerState& s) {
  return {{"global_step", s.step},
          {"epoch", s.position.epoch},
          {"batches_of_epoch", s.position.index},
          {"num_input_tokens_seen", s.tokens_seen},
          {"best_metric", s.best_loss},
          {"best_global_step", s.best_step},
          {"evaluations_without_gain", s.evaluations_without_gain}};
}

TrainerState parse_trainer_state(const io::Json& json, const std::string& name) {
  TrainerState s;
  s.step = io::get_int(json, "global_step", name, 0, kMany);
  s.position.epoch = static_cast<uint64_t>(io::get_int(json, "epoch", name, 0, kMany));
  s.position.index = io::get_int(json, "batches_of_epoch", name, 0, kMany);
  s.tokens_seen = io::get_int(json, "num_input_tokens_seen", name, 0, kMany);
  s.best_loss = io::get_number(json, "best_metric", name);
  s.best_step = io::get_int(json, "best_global_step", name, 0, kMany);
  s.evaluations_without_gain = io::get_int(json, "evaluations_without_gain", name, 0, kMany);
  return s;
}

bool RunDirectory::is_run(const std::string& path) { return io::exists(path + "/" + kSettings); }

RunDirectory RunDirectory::create(const std::string& path, bool resume) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error))
    throw_error("{}: expected a directory for the run, found a file", path);
  if (!is_run(path) && io::exists(path + "/" + kPreparing)) io::remove_all(path);
  if (is_run(path)) {
    if (!resume)
      throw_error("{}: holds a run already; go on with it by --resume, or name another --out",
                  path);
  } else if (fs::exists(path, error)) {
    for (const auto& entry : fs::directory_iterator(path, error))
      throw_error("{}: is not empty and not a run of refrain (it holds '{}'); name another --out",
                  path, entry.path().filename().string());
    if (error) throw_error("{}: cannot be read: {}", path, error.message());
  }
  io::make_directories(path);
  RunDirectory directory(path);
  // An empty file comes into being in one step.
  if (!is_run(path) && !std::ofstream(directory.file(kPreparing)))
    throw_error("{}: cannot be written", directory.file(kPreparing));
  io::AtomicDirectory::remove_stale(path);
  return directory;
}

RunDirectory RunDirectory::open(const std::string& path) {
  if (!is_run(path))
    throw_error("{}: expected a run directory with {}, found none", path, kSettings);
  io::AtomicDirectory::remove_stale(path);
  return RunDirectory(path);
}

void RunDirectory::write_settings(const io::Json& settings) const {
  io::write_file(file(kSettings), io::to_text(settings));
  io::remove_all(file(kPreparing));
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
  link_as(final_path + "/" + kWeights, file(kWeights));
  io::write_file(file(kState), io::to_text(to_json(state)));
  std::vector<int64_t> all = checkpoints();
  // Older ones only: a checkpoint of a step that is yet to come was left by somebody else's run.
  std::erase_if(all, [&](int64_t step) { return step > state.step; });
  for (size_t i = 0; keep > 0 && i + static_cast<size_t>(keep) < all.size(); ++i)
    io::remove_all(checkpoint(all[i]));
}

void RunDirectory::save_best(const WriteWeights& write_weights,
                             const std::function<void(const std::string&)>& describe) const {
  io::AtomicDirectory directory(file("best"));
  describe(directory.path());
  write_weights(directory.path() + "/" + kWeights);
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
  if (all.empty()) return {};
  const std::string from = checkpoint(all.back());
  const std::string name = from + "/" + kState;
  const TrainerState state = parse_trainer_state(io::read_json(name), name);
  if (state.step != all.back())
    throw_error("{}: expected global_step {}, found {}", name, all.back(), state.step);
  read_weights(from);
  optimizer.load(from + "/" + kOptimizer, state.step);
  return state;
}

void RunDirectory::record(const io::Json& metrics) const {
  std::ofstream out(file(kMetrics), std::ios::app | std::ios::binary);
  out << metrics.dump() + "\n" << std::flush;
  if (!out) throw_error("{}: cannot be written", file(kMetrics));
}

void RunDirectory::cut_metrics(int64_t step) const {
  if (!io::exists(file(kMetrics))) return;
  std::string kept, line;
  io::TextReader reader(file(kMetrics));
  while (reader.line(line)) {
    try {
      const io::Json json = io::parse_json(line, file(kMetrics));
      if (io::get_int(json, "step", kMetrics, 0, kMany) <= step) kept += line + "\n";
    } catch (const Error&) {  // a line that a crash cut short
    }
  }
  io::write_file(file(kMetrics), kept);
}

}  // namespace refrain

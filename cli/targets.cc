#include "cli/targets.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string_view>

#include "refrain/base/error.h"
#include "refrain/io/file.h"

namespace refrain::cli {
namespace {
namespace fs = std::filesystem;

struct Identity {
  dev_t device;
  ino_t number;
  bool operator==(const Identity&) const = default;
};

// Of a regular file: what else may be there (a terminal, /dev/null) is not replaced.
std::optional<Identity> identity_of(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  return Identity{status.st_dev, status.st_ino};
}

bool is_run(const fs::path& folder) { return io::exists(folder / "training_args.json"); }

bool is_model(const fs::path& folder) {
  if (is_run(folder)) return true;
  return io::exists(folder / "config.json") &&
         (io::exists(folder / "model.safetensors") ||
          io::exists(folder / "model.safetensors.index.json"));
}

// Beside these, files of other kinds may stand in a model's directory.
bool is_name_of_models(std::string_view name) {
  constexpr std::array<std::string_view, 12> kNames = {
      "config.json",        "generation_config.json",  "tokenizer.json", "tokenizer_config.json",
      "refrain.json",       "special_tokens_map.json", "vocab.txt",      "optimizer.safetensors",
      "training_args.json", "trainer_state.json",      "metrics.jsonl",  "plan.json"};
  return std::ranges::count(kNames, name) > 0 ||
         (name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".json")));
}

// The directory of the model or the run that a file belongs to; empty if it does to none.
fs::path owner_of(const std::string& path) {
  const fs::path file = io::follow_links(path),
                 folder = file.parent_path().empty() ? fs::path(".") : file.parent_path();
  if (is_model(folder) && is_name_of_models(file.filename().string())) return folder;
  const std::string part = fs::absolute(folder).lexically_normal().filename().string();
  const fs::path run = folder / "..";
  if ((part == "data" || part == "best" || part.starts_with("checkpoint-")) && is_run(run))
    return run.lexically_normal();
  return {};
}

// The name under which an input is that file, or has it as a part; empty if it does not.
std::string name_in(const std::string& input, const Identity& file) {
  constexpr int kDeepest = 2;  // a run's checkpoints
  const std::string path = input == "-" ? "/dev/stdin" : input;
  std::error_code failed;
  if (!fs::is_directory(path, failed))
    return identity_of(path) == file ? (input == "-" ? "standard input" : input) : "";
  for (fs::recursive_directory_iterator
           entry(path, fs::directory_options::skip_permission_denied, failed),
       end;
       !failed && entry != end; entry.increment(failed)) {
    if (entry.depth() >= kDeepest) entry.disable_recursion_pending();
    const fs::path& at = entry->path();
    if (identity_of(at) != file) continue;
    if (is_name_of_models(at.filename().string()) || !owner_of(at).empty()) return at;
  }
  return "";
}

}  // namespace

void check_target(const char* flag, const std::string& path, const Inputs& inputs) {
  const std::optional<Identity> file = identity_of(path);
  if (!file) return;
  for (const std::string& input : inputs) {
    if (input.empty()) continue;
    const std::string name = name_in(input, *file);
    if (!name.empty())
      throw_error("{}: expected another file than those that are read, found {}{}", flag, path,
                  name == path ? "" : ", which is " + name);
  }
  const fs::path owner = owner_of(path);
  if (!owner.empty())
    throw_error("{}: expected a file of no trained model, found {}, which belongs to {}", flag,
                path, owner.string());
}

void check_targets(const char* flag, const std::string& directory,
                   std::initializer_list<const char*> names, const Inputs& inputs) {
  for (const char* name : names) check_target(flag, directory + "/" + name, inputs);
}

}  // namespace refrain::cli

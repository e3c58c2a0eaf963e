#include "cli/targets.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>

#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/train/run_directory.h"

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

constexpr const char* kIndex = "model.safetensors.index.json";

bool is_run(const fs::path& folder) { return RunDirectory::is_run(folder.string()); }

bool is_model(const fs::path& folder) {
  return is_run(folder) || io::exists(folder / "config.json");
}

// What a model or a run may consist of, whether it has it yet or not: a file of such a name beside
// the others would be taken for a part. Beside these, files of other names may stand there.
bool is_name_of_models(std::string_view name) {
  constexpr std::array<std::string_view, 25> kNames = {"config.json",
                                                       "generation_config.json",
                                                       "tokenizer.json",
                                                       "tokenizer_config.json",
                                                       "refrain.json",
                                                       "special_tokens_map.json",
                                                       "added_tokens.json",
                                                       "tokenizer.model",
                                                       "vocab.json",
                                                       "merges.txt",
                                                       "chat_template.jinja",
                                                       "vocab.txt",
                                                       "embeddings.safetensors",
                                                       "optimizer.safetensors",
                                                       "training_args.json",
                                                       "trainer_state.json",
                                                       "metrics.jsonl",
                                                       "plan.json",
                                                       "data.json",
                                                       "machine.json",
                                                       ".refrain.lock",
                                                       ".preparing",
                                                       ".refrain",
                                                       "data",
                                                       "best"};
  constexpr std::string_view kCheckpoint = "checkpoint-";
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return std::ranges::count(kNames, name) > 0 ||
         (name.starts_with("model") &&
          (name.ends_with(".safetensors") || name.ends_with(".json"))) ||
         (name.starts_with(kCheckpoint) &&
          std::ranges::all_of(name.substr(kCheckpoint.size()), is_digit));
}

// A model in several files has them under any names. An index that cannot be read may name all.
bool is_named_by_index(const fs::path& folder, const std::string& name) {
  constexpr size_t kMaxBytes = size_t{1} << 22, kMaxValues = size_t{1} << 16;
  const std::string path = (folder / kIndex).string();
  if (!name.ends_with(".safetensors") || !io::exists(path)) return false;
  bool found = false;
  try {
    io::each_member(io::read_file(path, kMaxBytes), path, kMaxValues,
                    [&](const std::string& key, io::Json&& value) {
                      if (key != "weight_map") return;
                      for (const auto& [tensor, file] : value.items()) found |= file == name;
                    });
  } catch (const Error&) {
    return true;
  }
  return found;
}

// The directory of the model or the run that a file belongs to, or would; empty if it does to none.
fs::path owner_of(const std::string& path) {
  std::error_code failed;
  const fs::path file = io::follow_links(path),
                 folder = file.parent_path().empty() ? fs::path(".") : file.parent_path();
  const std::string name = file.filename().string();
  if (is_model(folder) && (is_name_of_models(name) || is_named_by_index(folder, name)))
    return folder;
  // A run's own folders, with all that is in them.
  const fs::path place = fs::weakly_canonical(folder, failed), run = place.parent_path();
  const std::string part = place.filename().string();
  if (failed || !(part == "data" || part == "best" || part.starts_with("checkpoint-") ||
                  part == ".preparing"))
    return {};
  const bool is_being_made = part == ".preparing" && io::exists(place / ".refrain");
  return is_run(run) || is_being_made ? (folder / "..").lexically_normal() : fs::path();
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

// Whether the directory can be made and written into; nothing is made yet.
void check_writable(const char* flag, const std::string& directory) {
  fs::path at = io::follow_links(directory);
  while (!io::exists(at)) at = at.parent_path().empty() ? fs::path(".") : at.parent_path();
  std::error_code failed;
  if (!fs::is_directory(at, failed))
    throw_error("{}: {}: expected a directory, found the file {}", flag, directory, at.string());
  if (access(at.c_str(), W_OK | X_OK) != 0)
    throw_error("{}: cannot write {}: {}", flag, directory, std::generic_category().message(errno));
}

void check_owner(const char* flag, const std::string& path, const Inputs& inputs) {
  if (const std::optional<Identity> file = identity_of(path))
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

}  // namespace

void check_target(const char* flag, const std::string& path, const Inputs& inputs) {
  if (path.empty()) return;
  check_owner(flag, path, inputs);
  struct stat status;
  const bool is_there = stat(path.c_str(), &status) == 0;
  // A device or a pipe is opened once, to be written.
  if (is_there && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return;
  try {
    io::AtomicFile tried(path);
  } catch (const Error& error) {
    throw_error("{}: {}", flag, error.what());
  }
}

void check_targets(const char* flag, const std::string& directory,
                   std::initializer_list<const char*> names, const Inputs& inputs) {
  for (const char* name : names) check_owner(flag, directory + "/" + name, inputs);
  check_writable(flag, directory);
}

}  // namespace refrain::cli

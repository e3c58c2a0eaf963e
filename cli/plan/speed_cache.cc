#include "cli/plan/speed_cache.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/output.h"
#include "refrain/base/parallel.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/kernels/isa.h"

namespace refrain::cli {
namespace {

std::string cache_directory() {
  if (const char* path = std::getenv("XDG_CACHE_HOME"); path && *path)
    return std::string(path) + "/refrain";
  if (const char* home = std::getenv("HOME"); home && *home)
    return std::string(home) + "/.cache/refrain";
  return "";
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 1);
  return "";
}

// Whatever the measurement depends on.
std::string key_of(const ModelConfig& config, const TrainConfig& training) {
  ModelConfig shape = config;
  shape.resolve();
  shape.pattern = shape.full_pattern();
  std::string key = fmt::format("{}; {} threads; isa {}; precision {}", processor(), threads(),
                                static_cast<int>(kernels::isa_limit()),
                                static_cast<int>(training.matmul_type()));
  shape.visit([&](const char* name, auto& value, const char*) {
    if (std::string_view(name) != "layers") key += fmt::format("; {} {}", name, value);
  });
  const SettingMap mixers = shape.mixer_settings();
  for (const auto& [name, value] : mixers.values()) key += fmt::format("; {} {}", name, value);
  return key;
}

}  // namespace

Calibration machine_speed(const ModelConfig& config, const TrainConfig& training, bool again) {
  const std::string directory = cache_directory(), path = directory + "/speed.json";
  const std::string key = key_of(config, training);
  io::Json cache = io::Json::object();
  try {
    if (!directory.empty() && io::exists(path)) cache = io::read_json(path);
    if (!cache.is_object())
      throw_error("{}: expected an object, found {}", path, io::describe(cache));
    if (const io::Json* found = io::find(cache, key); found && !again) {
      const std::string where = path + ": a measurement";
      const Calibration speed{io::get_number(*found, "seconds_per_operation", where),
                              io::get_number(*found, "seconds_per_parameter", where)};
      if (speed.seconds_per_operation > 0 && speed.seconds_per_parameter > 0) return speed;
      throw_error("{}: expected times above zero, found {}", where, io::to_line(*found));
    }
  } catch (const Error& error) {
    note(fmt::format("{}; measuring again", error.what()));
  }
  if (!cache.is_object()) cache = io::Json::object();
  const Calibration speed = calibrate(config, training);
  cache[key] = {{"seconds_per_operation", speed.seconds_per_operation},
                {"seconds_per_parameter", speed.seconds_per_parameter}};
  try {
    // A pipe of that name would be waited for.
    std::error_code failed;
    const auto status = std::filesystem::status(path, failed);
    if (!directory.empty() && (!exists(status) || is_regular_file(status))) {
      io::make_directories(directory);
      io::write_file(path, io::to_text(cache));
    }
  } catch (const Error& error) {
    note(fmt::format("{}; the measurement is not kept", error.what()));
  }
  return speed;
}

}  // namespace refrain::cli

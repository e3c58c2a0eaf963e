#include "cli/run_data.h"

#include <algorithm>

#include "cli/output.h"
#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/kernels/isa.h"
#include "refrain/kernels/matmul/format_bf16.h"

namespace refrain::cli {

void check_run_data(const RunDirectory& directory, bool goes_on, std::span<const RunData> data) {
  const std::string path = directory.place() + "/data.json";
  const auto text_of = [](uint64_t fingerprint) { return fmt::format("{:016x}", fingerprint); };
  if (!goes_on) {
    io::Json json = io::Json::object();
    for (const RunData& one : data) json[one.part] = text_of(one.fingerprint);
    return io::write_file(path, io::to_text(json));
  }
  if (!io::exists(path)) return;  // a run from before they were kept
  const io::Json json = io::read_json(path);
  for (const RunData& one : data)
    if (const std::string expected = io::get_string(json, one.part, path);
        expected != text_of(one.fingerprint))
      throw_error("{}: not the data this was trained on: its fingerprint is {}, expected {}",
                  one.name, text_of(one.fingerprint), expected);
}

void record_instructions(const RunDirectory& directory, bool goes_on,
                         kernels::ComputeType compute_type) {
  constexpr const char* kKey = "instruction_sets";
  std::string now(kernels::float_isa());
  if (compute_type == kernels::ComputeType::kBf16)
    if (const kernels::Microkernel* kernel = kernels::microkernel())
      now += fmt::format(" with {}", kernel->name);
  const std::string path = directory.place() + "/machine.json";
  io::Json json = {{kKey, io::Json::array()}};
  if (goes_on && io::exists(path)) json = io::read_json(path);
  io::Json& all = json[kKey];
  if (!all.is_array() ||
      !std::ranges::all_of(all, [](const io::Json& one) { return one.is_string(); }))
    throw_error("{}: {}: expected a list of texts, found {}", path, kKey, io::describe(all));
  if (!all.empty() && all.back() == now) return;
  if (!all.empty())
    note(
        fmt::format("{}: trained by {} until now, goes on by {}: its weights will not be those of "
                    "a run by one of them alone, to the bit",
                    directory.path(), all.back().get<std::string>(), now));
  all.push_back(now);
  io::write_file(path, io::to_text(json));
}

std::string length_text(const TrainConfig& config, int64_t total_steps) {
  return total_steps == TrainingTask::kEndless ? config.max_steps : fmt::format("{}", total_steps);
}

std::string recorded_max_steps(const RunDirectory& directory) {
  const io::Json settings = RunDirectory::read_settings(directory.path());
  const io::Json* value = settings.is_object() ? io::find(settings, "max_steps") : nullptr;
  return value && value->is_string() ? value->get<std::string>() : "";
}

void note_beginning(const RunDirectory& directory, const Beginning& at, const TrainConfig& config) {
  if (at.resumed)
    note(fmt::format("going on after step {} of {}", at.done, length_text(config, at.total)));
  else if (at.goes_on)
    note(fmt::format("{}: no checkpoint yet: begins with step 1 of {}", directory.path(),
                     length_text(config, at.total)));
  if (!at.max_steps_before.empty() && at.max_steps_before != config.max_steps)
    note(fmt::format("--max-steps {}: the schedule now ends at {}, was {}", config.max_steps,
                     length_text(config, at.total), at.max_steps_before));
  if (config.warmup_steps > at.total)
    note(
        fmt::format("the run has {} steps, fewer than --warmup-steps {}: the learning rate reaches "
                    "only {:.2e}",
                    at.total, config.warmup_steps, learning_rate(config, {.step = at.total})));
}

}  // namespace refrain::cli

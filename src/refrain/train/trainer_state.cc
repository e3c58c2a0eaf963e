#include "refrain/train/trainer_state.h"

#include "refrain/base/error.h"

namespace refrain {
namespace {

constexpr int64_t kMostSteps = int64_t{1} << 40;  // what save_steps and the like may be, too
constexpr int64_t kMostTokens = int64_t{1} << 53;
constexpr double kMostSeconds = 1e18;

}  // namespace

io::Json to_json(const TrainerState& s) {
  io::Json json = {{"global_step", s.step},
                   {"epoch", s.position.epoch},
                   {"batches_of_epoch", s.position.index},
                   {"num_input_tokens_seen", s.tokens_seen},
                   {"best_metric", s.best_step > 0 ? io::Json(s.best_loss) : io::Json()},
                   {"best_global_step", s.best_step},
                   {"evaluations_without_gain", s.evaluations_without_gain},
                   {"evaluated_global_step", s.evaluated_step}};
  if (s.lr_reductions > 0) json["learning_rate_reductions"] = s.lr_reductions;
  if (s.seconds > 0) json["seconds"] = s.seconds;
  return json;
}

TrainerState parse_trainer_state(const io::Json& json, const std::string& name) {
  TrainerState s;
  s.step = io::get_int(json, "global_step", name, 0, kMostSteps);
  // A step takes one batch, and of each epoch at least one.
  const int64_t epoch = io::get_int(json, "epoch", name, 0, s.step);
  s.position.epoch = static_cast<uint64_t>(epoch);
  s.position.index = io::get_int(json, "batches_of_epoch", name, 0, s.step - epoch);
  s.tokens_seen =
      io::get_int(json, "num_input_tokens_seen", name, s.step, s.step > 0 ? kMostTokens : 0);
  // Earlier versions evaluated before they saved.
  s.evaluated_step = io::get_int(json, "evaluated_global_step", name, 0, s.step, s.step);
  // Earlier versions took a first loss that is not a number for the best, and wrote null.
  if (io::find(json, "best_metric")) {
    s.best_loss = io::get_number(json, "best_metric", name);
    constexpr double kRounding = 1e-3;  // of a loss of 0
    if (s.best_loss < -kRounding)
      throw_error("{}: best_metric: expected a loss, 0 or more, found {}", name, s.best_loss);
    s.best_step = io::get_int(json, "best_global_step", name, 1, s.evaluated_step);
  }
  // An evaluation at a step, each after the best one.
  s.evaluations_without_gain =
      io::get_int(json, "evaluations_without_gain", name, 0, s.evaluated_step - s.best_step);
  s.lr_reductions = io::get_int(json, "learning_rate_reductions", name, 0, s.evaluated_step, 0);
  if (io::find(json, "seconds")) {
    s.seconds = io::get_number(json, "seconds", name);
    if (!(s.seconds >= 0 && s.seconds <= kMostSeconds))
      throw_error("{}: seconds: expected 0 to {}, found {}", name, kMostSeconds, s.seconds);
  }
  return s;
}

void check_tokens_seen(const TrainerState& state, int64_t most_of_step, const std::string& name) {
  // In double, where nothing overflows.
  const double most = static_cast<double>(state.step) * static_cast<double>(most_of_step);
  if (static_cast<double>(state.tokens_seen) > most)
    throw_error("{}: num_input_tokens_seen: expected at most {} steps of {}, found {}", name,
                state.step, most_of_step, state.tokens_seen);
}

}  // namespace refrain

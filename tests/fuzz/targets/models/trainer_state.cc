// trainer_state.json of a checkpoint.
#include "fuzz/target.h"
#include "refrain/train/run_directory.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const TrainerState state = parse_trainer_state(io::parse_json(input, "input"), "input");
  const io::Json written = to_json(state);
  expect(to_json(parse_trainer_state(written, "written")) == written,
         "what was written reads as something else");
}

std::vector<std::string> seeds() {
  TrainerState state;
  state.step = 7;
  state.position = {1, 2};
  state.evaluated_step = 6;
  state.tokens_seen = 1234;
  state.best_loss = 2.5;
  state.best_step = 4;
  return {io::to_text(to_json(TrainerState())), io::to_text(to_json(state))};
}

const Register registered({"trainer_state", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

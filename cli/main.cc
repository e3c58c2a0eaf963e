// The program `refrain`: one file a verb, listed here.
#include <csignal>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/verbs.h"

int main(int argc, char** argv) {
  using namespace refrain::cli;
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of writing, and said so
  const std::vector<Verb> verbs = {
      train_verb(),
      tokenizer_train_verb(),
      tokenizer_encode_verb(),
      tokenizer_decode_verb(),
      sample_calendar_verb(),
      prepare_verb(),
      eval_verb(),
      generate_verb(),
      translate_verb(),
      verify_verb(),
      logits_verb(),
      convert_verb(),
      info_verb(),
  };
  return run_program(verbs, std::vector<std::string>(argv + 1, argv + argc));
}

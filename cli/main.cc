// The program `refrain`: one file a verb, listed here.
#include <csignal>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/verbs.h"
#include "refrain/io/temporary_directory.h"

namespace {

// What a signal that ends the program must not leave behind.
void on_signal(int number) {
  refrain::io::TemporaryDirectory::remove_all_at_once();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace refrain::cli;
  std::signal(SIGPIPE, SIG_IGN);  // writing to a closed pipe fails instead (cli/output.h)
  std::signal(SIGXFSZ, SIG_IGN);  // so does writing beyond the limit on a file's size
  // `train` has its own (cli/verbs/train/train.cc). What the parent ignores stays ignored.
  for (const int number : {SIGINT, SIGTERM, SIGHUP})
    if (std::signal(number, on_signal) == SIG_IGN) std::signal(number, SIG_IGN);
  const std::vector<Verb> verbs = {
      train_verb(),
      tokenizer_train_verb(),
      tokenizer_encode_verb(),
      tokenizer_decode_verb(),
      sample_calendar_verb(),
      sample_recall_verb(),
      sample_multi_query_recall_verb(),
      sample_induction_verb(),
      sample_copy_verb(),
      sample_selective_copy_verb(),
      sample_recall_after_gap_verb(),
      sample_forecast_verb(),
      prepare_verb(),
      eval_verb(),
      generate_verb(),
      chat_verb(),
      translate_verb(),
      reconstruct_verb(),
      score_verb(),
      verify_verb(),
      logits_verb(),
      convert_verb(),
      quantize_verb(),
      fuse_verb(),
      info_verb(),
      bench_verb(),
      plan_verb(),
  };
  return run_program(verbs, std::vector<std::string>(argv + 1, argv + argc));
}

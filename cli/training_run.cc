#include "cli/training_run.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <ctime>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/plan/plan_report.h"
#include "cli/plan/plan_text.h"
#include "cli/run_data.h"
#include "refrain/base/bytes.h"
#include "refrain/base/parallel.h"
#include "refrain/base/process.h"
#include "refrain/io/file.h"
#include "refrain/kernels/matmul/compute_types.h"
#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/format_int16.h"

namespace refrain::cli {
namespace {

// The first signal asks for an orderly end. A later one ends at once; but SIGHUP, which a closed
// terminal sends more than once, and what comes at the same time: a signal to a process and to its
// group is one.
std::atomic<int> first_signal = 0;
std::atomic<int64_t> first_signal_at = 0;

int64_t milliseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

void on_signal(int number) {
  constexpr int64_t kSameTime = 100;
  int none = 0;
  if (first_signal.compare_exchange_strong(none, number))
    first_signal_at = milliseconds();
  else if (number != SIGHUP && milliseconds() - first_signal_at > kSameTime)
    _exit(128 + number);
}

void take_signals() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {};
    // What the parent has ignored stays so: nohup, jobs in the background.
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(number, &action, nullptr);
  }
}

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

// On a terminal one line that is written over; elsewhere a line every `every` steps.
class ProgressDisplay {
 public:
  explicit ProgressDisplay(int64_t every) : every_(every), terminal_(isatty(STDERR_FILENO) != 0) {}

  void step(const Progress& p) {
    const bool last = p.step == p.total_steps;
    const std::string numbers =
        fmt::format("loss {:.4f}  lr {:.2e}  {:.0f} tok/s  {:.0f} MiB", p.loss, p.learning_rate,
                    p.tokens_per_second, static_cast<double>(peak_memory_bytes()) / (1 << 20));
    if (terminal_) {
      write("\r" + line(p, numbers) + "\x1b[K");
      open_line_ = true;
    } else if (p.step % every_ == 0 || last) {
      note(fmt::format("step {}/{}  epoch {:.2f}  {}  {} left", p.step, p.total_steps, p.epoch,
                       numbers, duration(p.seconds_left)));
    }
  }
  // A line that stays.
  void say(const std::string& line) {
    end_line();
    note(line);
  }
  void end_line() {
    if (open_line_) write("\n");
    open_line_ = false;
  }

 private:
  // The bar takes what room the numbers leave: a line that wraps could not be written over.
  static std::string line(const Progress& p, const std::string& numbers) {
    constexpr int64_t kWidest = 24, kNarrowest = 4;
    std::string text =
        fmt::format("{}/{}  {}  {} left", p.step, p.total_steps, numbers, duration(p.seconds_left));
    const int64_t room = columns() - 1;
    const int64_t width = std::min(
        kWidest, room - static_cast<int64_t>(text.size() + std::string_view("[] ").size()));
    if (width >= kNarrowest) {
      std::string bar(static_cast<size_t>(width * p.step / p.total_steps), '=');
      bar.resize(static_cast<size_t>(width), ' ');
      text = fmt::format("[{}] {}", bar, text);
    }
    return text.substr(0, static_cast<size_t>(room));
  }
  static int64_t columns() {
    winsize size = {};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return known ? size.ws_col : 80;
  }
  static void write(const std::string& text) {
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
  }
  int64_t every_;
  bool terminal_, open_line_ = false;
};

// Tells once, after a while or at the end, that the threads get less of the cores than they could
// use. They wait for one another at every loop, so all are as slow as the one that waits for a
// core.
class CoreWatch {
 public:
  void tell(ProgressDisplay& display, double after_seconds) {
    const double wall = static_cast<double>(milliseconds() - begin_) * 1e-3;
    if (told_ || threads() < 2 || wall < after_seconds) return;
    const double cores = (processor_seconds() - used_) / wall;
    if (cores > kEnough * threads()) return;
    told_ = true;
    display.say(
        fmt::format("{} threads had {:.1f} cores: if other programs use the cores, or the model is "
                    "small, --threads 1 may be faster; the weights are the same",
                    threads(), cores));
  }

 private:
  static constexpr double kEnough = 0.6;
  static double processor_seconds() {
    timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
  }
  int64_t begin_ = milliseconds();
  double used_ = processor_seconds();
  bool told_ = false;
};

void record_plan(const Plan& plan, const RunDirectory& directory) {
  if (plan.budget == 0) return;
  io::write_file(directory.file("plan.json"), io::to_text(to_json(plan)));
  for (const std::string& line : describe_plan(plan)) note(line);
}

// Trains, and tells how it goes.
int follow(const TrainingRun& run, Trainer& trainer) {
  const RunDirectory& directory = run.directory;
  take_signals();
  ProgressDisplay display(run.training.logging_steps);
  TrainerEvents events;
  CoreWatch cores;
  constexpr double kSoon = 30, kAtTheEnd = 2;  // seconds
  events.on_step = [&](const Progress& p) {
    display.step(p);
    cores.tell(display, kSoon);
  };
  events.on_evaluation = [&](int64_t step, const EvaluationResult& e, bool best) {
    display.say(fmt::format("step {}: validation loss {:.4f} over {} tokens in {:.1f} s{}", step,
                            e.loss, e.tokens, e.seconds, best ? ", the best so far" : ""));
  };
  events.should_stop = [] { return first_signal > 0; };
  int64_t saved = 0;
  events.on_save = [&](int64_t step) { saved = step; };
  const std::string go_on =
      fmt::format("go on with: refrain train --resume {}", shell_word(directory.path()));
  TrainingEnd end;
  try {
    end = trainer.run(events, run.stop_after);
  } catch (...) {
    display.end_line();
    if (saved > 0 && RunDirectory::is_run(directory.path())) {
      display.say(fmt::format("stopped; saved after step {} in {}", saved, directory.path()));
      display.say(go_on);
    }
    throw;
  }
  cores.tell(display, kAtTheEnd);
  const char* why = end == TrainingEnd::kFinished   ? "finished"
                    : end == TrainingEnd::kPatience ? "no better evaluation: stopped"
                                                    : "stopped";
  display.say(
      fmt::format("{} after step {}; saved in {}", why, trainer.state().step, directory.path()));
  if (end == TrainingEnd::kStopped || end == TrainingEnd::kInterrupted) display.say(go_on);
  return end == TrainingEnd::kInterrupted ? 128 + first_signal : 0;
}

// What multiplies here; of float32, only what is faster.
std::string units(kernels::ComputeType compute_type, bool goes_on) {
  const kernels::ComputeType fastest = kernels::fastest_compute_type();
  if (compute_type == kernels::ComputeType::kFloat32)
    return fastest == compute_type || goes_on  // which cannot change it
               ? ""
               : fmt::format(
                     "products in float32; this machine has units for {}, which are faster:"
                     " --compute-type auto",
                     kernels::name_of(fastest));
  if (compute_type == kernels::ComputeType::kInt16)
    return kernels::int16_is_fast()
               ? "products of 16-bit integers: AVX512-VNNI"
               : "products of 16-bit integers: without AVX512-VNNI, no faster than float32";
  if (const kernels::Microkernel* kernel = kernels::microkernel())
    return fmt::format("products in bfloat16: {}", kernel->name);
  return fmt::format(
      "products in bfloat16: rounded operands in float32 units, for this machine "
      "has none for bfloat16: no faster{}",
      kernels::int16_is_fast() ? "; --int16 is" : "");
}

}  // namespace

Plan plan_by(const TrainConfig& training, const std::function<Plan(const Room&)>& make) {
  if (training.memory.empty()) return make({.process = resident_bytes()});
  settle_memory();
  return make({.budget = parse_budget(training.memory),
               .process = resident_bytes(),
               .taken = peak_memory_bytes(),
               .flag = "--memory"});
}

int train_task(const TrainingRun& run, TrainingTask& task, const Plan& plan,
               const std::function<void()>& remarks) {
  const RunDirectory& directory = run.directory;
  Trainer trainer(task, run.training, directory, plan);
  const bool resumed = run.goes_on && trainer.resume();
  const std::string max_steps_before = run.goes_on ? recorded_max_steps(directory) : "";
  const int64_t done = trainer.state().step, total = trainer.total_steps();
  if (done > total)
    throw_error("--max-steps: expected at least the {} steps {} has done, found {}", done,
                directory.path(), total);
  if (run.stop_after > 0 && run.line.given("stop_after") && done >= run.stop_after)
    throw_error("--stop-after: expected more than the {} steps {} has done, found {}", done,
                directory.path(), run.stop_after);
  record_instructions(directory, run.goes_on, run.training.matmul_type());
  // Recorded once all of it has proved possible: from here on this is a run.
  directory.write_settings(run.settings);
  record_plan(plan, directory);
  note_beginning(directory, {run.goes_on, resumed, done, total, max_steps_before}, run.training);
  note(fmt::format(
      "{} parameters{}, {}{}", task.parameters().count(),
      task.weights_file() == std::string_view(TrainingTask::kAdapterWeights) ? " of adapters" : "",
      length_text(run.training, total), total == TrainingTask::kEndless ? "" : " steps"));
  if (const std::string text = units(run.training.matmul_type(), run.goes_on); !text.empty())
    note(text);
  remarks();
  return follow(run, trainer);
}

}  // namespace refrain::cli

// Generation after ever longer histories: time per token, bytes of state, resident memory.
//
//   bench_history MIXER [longest [threads]]     e.g. bench_history attention_rnn 1000000
//
// A stack of two blocks, 128 wide, 4 heads, vocabulary 512. The history is read in pieces of 512
// tokens; at each mark 200 tokens are generated one by one and their median time is told, as CSV:
// mixer, tokens of history, microseconds per token, bytes of state, MiB resident. At the first mark
// the logits must be those of the plain model in float64.
#include <unistd.h>

#include <string>
#include <vector>

#include "bench/checks/model_check.h"
#include "refrain/base/random.h"
#include "refrain/base/thread_pool.h"
#include "refrain/model/language_model.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"
#include "support.h"

namespace {

using namespace refrain;

constexpr int64_t kVocabulary = 512, kChecked = 101;

double resident_mebibytes() {
  long total = 0, resident = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (!file || std::fscanf(file, "%ld %ld", &total, &resident) != 2) std::abort();
  std::fclose(file);
  return static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

class Reader {
 public:
  Reader(const LanguageModel& model, int64_t capacity) : model_(model), state_(model, capacity) {}

  int64_t position() const { return state_.position(); }
  std::span<const float> logits() const { return logits_; }
  const std::vector<int32_t>& history() const { return history_; }
  void plant_in_state() {
    for (size_t l = 0; l < static_cast<size_t>(model_.config().layers); ++l) {
      const size_t n = model_.state_bytes(static_cast<int64_t>(l), position()) / sizeof(float);
      bench::plant_in({reinterpret_cast<float*>(state_.row(l)), n});
    }
  }

  // Reads n tokens, drawn at random: sampling is not what is timed.
  void read(int64_t n) {
    tokens_.resize(static_cast<size_t>(n));
    for (int32_t& t : tokens_) t = static_cast<int32_t>(random_.below(kVocabulary));
    const RaggedBatch batch = data_.set(std::vector<int32_t>{0, static_cast<int32_t>(n)},
                                        std::vector<int32_t>{static_cast<int32_t>(position())});
    SequenceState* const rows[] = {&state_};
    const StateView view(rows, model_.config().layers);
    const std::vector<int32_t> last = {static_cast<int32_t>(n - 1)};
    workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
      model_.logits(ctx, batch, tokens_, view.states(), last, {logits_.data(), {1, kVocabulary}});
    });
    state_.advance(n);
    if (position() <= kChecked) history_.insert(history_.end(), tokens_.begin(), tokens_.end());
  }

 private:
  const LanguageModel& model_;
  SequenceState state_;
  Workspace workspace_;
  RaggedBatchBuilder data_;
  Random random_{1};
  std::vector<int32_t> tokens_, history_;  // history_: up to kChecked tokens
  std::vector<float> logits_ = std::vector<float>(kVocabulary);
};

}  // namespace

int main(int argc, char** argv) {
  const std::string plant = bench::take_plant(argc, argv);
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_history MIXER [longest [threads]]\n");
    return 2;
  }
  const int64_t longest = argc > 2 ? std::atoll(argv[2]) : 1'000'000;
  ThreadPool pool(argc > 3 ? std::atoi(argv[3]) : 2);
  const ThreadPool::Scope scope(pool);
  constexpr int64_t kSteps = 200, kPiece = 512;
  ModelConfig config;
  config.vocab_size = kVocabulary;
  config.layers = 2;
  config.context = 512;
  config.pattern = argv[1];
  LanguageModel model(config);
  model.initialise(1);
  bench::spread_weights(model);
  const ReferenceModel<double> reference(model);
  if (plant == "weights") bench::plant_in(model.parameters().weights());
  model.pack_weights();
  Reader reader(model, longest + 2 * kSteps);
  for (int64_t mark = 100; mark <= longest; mark *= 10) {
    while (reader.position() < mark) reader.read(std::min(kPiece, mark - reader.position()));
    if (mark + 1 == kChecked && plant == "state") reader.plant_in_state();
    reader.read(1);
    if (reader.position() == kChecked) {
      const std::vector<double> logits = reference.logits(reader.history());
      const std::vector<float> want(logits.end() - kVocabulary, logits.end());
      if (!bench::agree(argv[1], "logit", reader.logits(), want, 1e-4)) return 1;
    }
    std::vector<double> times;
    for (int64_t i = 0; i < kSteps && reader.position() < longest + kSteps; ++i)
      times.push_back(bench::seconds([&] { reader.read(1); }));
    int64_t bytes = 0;
    for (int64_t l = 0; l < config.layers; ++l)
      bytes += static_cast<int64_t>(model.state_bytes(l, mark));
    std::printf("%s,%ld,%.1f,%ld,%.1f\n", argv[1], mark, 1e6 * bench::median(std::move(times)),
                bytes, resident_mebibytes());
    std::fflush(stdout);
  }
  return 0;
}

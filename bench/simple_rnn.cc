// The published tables of `simple_rnn` on their shapes: vocabulary 512, D 128, K 32, V 64, two bare
// cells, 189,504 parameters; 256 sequences of 512 tokens, and 100 tokens after a prefix of 256.
//
//   bench_simple_rnn [threads [repetitions]]
//
// prints Markdown tables. Each row runs in a process of its own, whose peak memory it tells. First
// it is held to the plain model in float64 (losses of single rows, all gradients), and each row's
// loss of the whole pass to those of the first row: what gives other numbers is not timed.
#include <map>
#include <string>
#include <vector>

#include "bench/checks/model_check.h"
#include "refrain/base/random.h"
#include "refrain/base/thread_pool.h"
#include "refrain/generate/generator.h"
#include "refrain/mixers/gla/gla.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "support.h"

namespace {

using namespace refrain;

constexpr int64_t kSequences = 256, kTokens = 512, kVocabulary = 512;

ModelConfig reference_config(bool fused) {
  ModelConfig config;
  config.vocab_size = kVocabulary;
  config.d_model = 128;
  config.layers = 2;
  config.heads = 1;
  config.context = kTokens;
  config.block = "bare";
  SimpleRnnConfig mixer;
  mixer.fused = fused;
  config.mixers.assign(static_cast<size_t>(config.layers), {"simple_rnn", mixer});
  return config;
}

struct BareStack : LanguageModel {
  explicit BareStack(bool fused = true) : LanguageModel(reference_config(fused)) {
    initialise(1);
    bench::spread_weights(*this);
  }
};

std::vector<int32_t> random_tokens(int64_t n, uint64_t key) {
  Random random(key);
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random.below(kVocabulary));
  return tokens;
}

// One pass over all sequences, `batch` of them at a time.
class Pass {
 public:
  Pass(int64_t batch, bool fused, bool backward, Recompute recompute, const std::string& plant)
      : model_(fused), backward_(backward), recompute_(recompute) {
    model_.allocate_gradients();
    bench::StepCheck step(model_, std::span(tokens_).first(kTokens),
                          std::span(tokens_).subspan(1, kTokens));
    if (!plant.empty()) bench::plant_in(model_.parameters().weights());
    check_ = step.check(model_, {.recompute = recompute_}, {});
    batch_ = data_.whole(batch, kTokens);
    losses_.resize(static_cast<size_t>(batch_.rows()));
  }

  // Why it must not be timed, if it must not.
  const bench::Check& check() const { return check_; }

  // Every token's loss goes to `all`, if it is not empty.
  void run(std::span<float> all = {}) {
    if (backward_) model_.clear_gradients();
    const int64_t rows = batch_.rows();
    for (int64_t row = 0; row < kSequences * kTokens; row += rows) {
      const auto n = static_cast<size_t>(rows);
      const auto inputs = std::span(tokens_).subspan(static_cast<size_t>(row), n),
                 targets = std::span(tokens_).subspan(static_cast<size_t>(row) + 1, n);
      const Tensor losses(losses_.data(), {rows});
      workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
        if (backward_)
          model_.train(ctx, batch_, {inputs, targets}, {.recompute = recompute_}, losses, saved);
        else
          model_.losses(ctx, batch_, inputs, targets, {}, losses);
      });
      if (!all.empty()) std::ranges::copy(losses_, all.begin() + row);
    }
    if (backward_) model_.finish_gradients();
  }

 private:
  BareStack model_;
  bench::Check check_;
  bool backward_;
  Recompute recompute_;
  const std::vector<int32_t> tokens_ = random_tokens(kSequences * kTokens + 1, 2);
  RaggedBatchBuilder data_;
  RaggedBatch batch_;
  Workspace workspace_;
  std::vector<float> losses_;
};

struct Row {
  const char* name;
  int64_t batch;
  bool fused, backward;
  Recompute recompute;
  const char* theirs;  // seconds and MB, as published
};

std::vector<int32_t> generated(const LanguageModel& model, const std::vector<int32_t>& prefix,
                               int64_t tokens, bool stepwise) {
  Generator generator(model);
  GenerationRequest request;
  request.prompt = prefix;
  request.sampling.temp = 0;
  std::vector<int32_t> all = prefix;
  const auto take = [&](const GenerationResult& result) {
    for (const SampledToken& choice : result.choices) all.push_back(choice.token);
  };
  request.max_new_tokens = stepwise ? tokens : 1;
  if (stepwise) {
    take(generator.generate(request));
  } else {
    for (int64_t i = 0; i < tokens; ++i) {
      request.prompt = all;
      take(generator.generate(request));
    }
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string plant = bench::take_plant(argc, argv);
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 5;
  const std::vector<Row> rows = {
      {"forward, one sequence at a time", 1, true, false, {}, "3.152 s, 20.5 MB"},
      {"forward, batches of 32, four products", 32, false, false, {}, "0.437 s, 2,565 MB"},
      {"forward, batches of 32, one fused product", 32, true, false, {}, "0.428 s, 2,565 MB"},
      {"forward and backward, one at a time", 1, true, true, {}, "-"},
      {"forward and backward, batches of 32, four products", 32, false, true, {}, "-"},
      {"forward and backward, batches of 32, fused", 32, true, true, {}, "-"},
      {"the same, state kept every 64 steps",
       32,
       true,
       true,
       {.checkpoint_interval = 64},
       "0.377 s, 137 MB (*)"},
      {"the same, state kept every 256 steps", 32, true, true, {.checkpoint_interval = 256}, "-"},
      {"the same, state kept every 256 steps, and blocks",
       32,
       true,
       true,
       {.blocks = Recompute::kAllBlocks, .checkpoint_interval = 256},
       "-"},
  };
  const bench::SharedNumbers want(kSequences * kTokens);
  bool all_passed = true;
  std::printf("| 256 x 512 tokens | seconds | tokens/s | peak memory, MiB | published |\n");
  std::printf("|---|---:|---:|---:|---|\n");
  for (const Row& row : rows) {
    const bench::Measured measured = bench::in_child([&] {
      ThreadPool pool(threads);
      const ThreadPool::Scope scope(pool);
      Pass pass(row.batch, row.fused, row.backward, row.recompute, plant);
      if (!pass.check().passed()) {
        std::fprintf(stderr, "%s: %s: refused\n", row.name, pass.check().reason().c_str());
        return bench::kRefused;
      }
      const bool first = &row == &rows[0];
      std::vector<float> losses(want.span().size());
      pass.run(first ? want.span() : std::span(losses));
      if (!first && !bench::agree(row.name, "the loss of row", losses, want.span(), 1e-5))
        return bench::kRefused;
      return bench::median_seconds(repetitions, [&] { pass.run(); });
    });
    all_passed &= measured.value != bench::kRefused;
    if (measured.value == bench::kRefused) continue;
    std::printf("| %s | %.3f | %.0f | %.1f | %s |\n", row.name, measured.value,
                static_cast<double>(kSequences * kTokens) / measured.value, measured.peak_mebibytes,
                row.theirs);
  }
  ThreadPool pool(threads);
  const ThreadPool::Scope scope(pool);
  BareStack model;
  const ReferenceModel<double> reference(model);
  if (plant == "weights") bench::plant_in(model.parameters().weights());
  model.pack_weights();
  const std::vector<int32_t> prefix = random_tokens(256, 3);
  std::vector<int32_t> other = prefix;  // the state of which is a wrong one for the prefix
  if (plant == "state") other[0] ^= 1;
  const std::vector<double> logits = reference.logits(prefix);
  const auto first = std::max_element(logits.end() - kVocabulary, logits.end());
  const std::vector<int32_t> again_all = generated(model, prefix, 100, false);
  const bool right = again_all[prefix.size()] == first - (logits.end() - kVocabulary);
  if (!right || generated(model, other, 100, true) != again_all) {
    std::fprintf(stderr, "generation: %s: refused\n",
                 right ? "the forms differ" : "the first token is not the plain model's");
    return 1;
  }
  const double again =
      bench::median_seconds(repetitions, [&] { generated(model, prefix, 100, false); });
  const double stepped =
      bench::median_seconds(repetitions, [&] { generated(model, prefix, 100, true); });
  std::printf("\n| 100 tokens after 256 | seconds | published |\n|---|---:|---|\n");
  std::printf("| the prefix run again for every token | %.4f | 5.419 |\n", again);
  std::printf("| stepwise | %.4f | 0.208 |\n", stepped);
  std::printf("| ratio | %.1f | 26.1 |\n", again / stepped);
  return all_passed ? 0 : 1;
}

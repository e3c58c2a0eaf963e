// What the machine is good at, in a few words.
#include <cmath>

#include "bench/sections/sections.h"
#include "bench/sections/training_run.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/compute_types.h"
#include "refrain/model/operations.h"

namespace refrain::bench {
namespace {

// GPT-2's smallest, with the sizes of a Llama-style block.
ModelConfig large_model() {
  ModelConfig model;
  model.vocab_size = 50304;
  model.d_model = 768;
  model.layers = 12;
  model.heads = 12;
  model.d_ff = 2048;
  model.context = 1024;
  model.tie_embeddings = true;
  model.resolve();
  return model;
}

// With commas.
std::string count(int64_t n) {
  std::string text = std::to_string(n);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
  return text;
}

// Two digits of it.
int64_t roughly(double n) {
  double unit = 1;
  while (n / unit >= 100) unit *= 10;
  return static_cast<int64_t>(std::round(n / unit) * unit);
}

}  // namespace

std::string summarise(const Setup& setup, Report& report) {
  constexpr int64_t kContext = 256;
  const ModelConfig config = setup.model_of("attention", std::min(kContext, setup.batch_tokens));
  const kernels::ComputeType fastest = kernels::fastest_compute_type();
  std::vector<kernels::ComputeType> types = {kernels::ComputeType::kFloat32};
  if (fastest != types[0]) types.push_back(fastest);
  std::vector<double> rates;
  double small_operations = 0, parameters = 0;
  for (const kernels::ComputeType type : types) {
    TrainingRun run(setup, config, {}, type);
    parameters = static_cast<double>(run.parameters());
    small_operations = run.operations() / static_cast<double>(run.tokens());
    const Check check = run.check();
    Row row{.section = "summary",
            .name = "training" + in_compute_type(type),
            .shape = run.shape_text()};
    if (check.passed()) {
      row.timing = time_of(setup.repetitions, [&] { run.step(); });
      row.rate = static_cast<double>(run.tokens()) / row.timing.median;
      row.unit = "tokens/s";
      row.mfu = utilisation(run.operations(), row.timing.median, setup.ceilings.fastest(type));
    }
    rates.push_back(row.rate.value_or(0));
    report.add(row, check);
  }
  report.end_section();
  const double best = std::max(rates.front(), rates.back());
  if (best == 0) return "";  // the rows say why
  LanguageModel large(large_model(), LanguageModel::Memory::kLater);
  const double large_rate =
      best * small_operations / (kTrainingPasses * model_operations(large, large.config().context));
  const auto ceiling = [&](kernels::ComputeType type) {
    return setup.ceilings.products[static_cast<size_t>(type)] / 1e9;
  };
  std::string text =
      types.size() == 1
          ? fmt::format(
                "This machine multiplies fastest in float32, {:.0f} GFLOP/s with {} "
                "threads: train without further flags.",
                ceiling(types[0]), threads())
          : fmt::format(
                "This machine multiplies fastest in {}, {:.0f} GFLOP/s with {} threads "
                "against {:.0f} in float32: train with --compute-type auto.",
                kernels::name_of(fastest), ceiling(fastest), threads(), ceiling(types[0]));
  text += fmt::format(" A transformer of {:.1f} M parameters trains at {} tokens/s",
                      parameters / 1e6, count(std::llround(best)));
  if (types.size() > 1) text += fmt::format(" ({} in float32)", count(std::llround(rates.front())));
  return text + fmt::format(", one of 124 M at about {}.\n", count(roughly(large_rate)));
}

}  // namespace refrain::bench

// Tells what memory a training run takes and what less of it would cost, without training.
#include <algorithm>

#include "cli/curve_svg.h"
#include "cli/effect.h"
#include "cli/output.h"
#include "cli/plan_text.h"
#include "cli/speed_cache.h"
#include "cli/targets.h"
#include "cli/verbs.h"
#include "refrain/base/bytes.h"
#include "refrain/base/process.h"
#include "refrain/io/file.h"

namespace refrain::cli {
namespace {

constexpr double kMebibyte = 1 << 20;

struct PlanVerb {
  std::string mixer, svg;
  std::vector<std::string> budgets;
  bool json = false, evaluation = true, calibrate = false;
  ModelConfig model;
  TrainConfig training;
  Options mixers;

  template <class V>
  void visit(V&& v) {
    v("budgets", budgets, "amounts of memory to plan for (1G 2G); none = every plan worth having");
    v("svg", svg, "draw seconds against memory into this file");
    v("json", json, "print JSON");
    v("evaluation", evaluation, "count what evaluations take too");
    v("calibrate", calibrate, "measure the machine again");
    v("mixer", mixer, "the mixer of every block, instead of a pattern");
    model.visit(v);
    visit_mixers(v, mixers);
    training.visit(v);
  }

  struct Row {
    Plan plan;
    double seconds;  // of an optimiser step
  };

  void check(const CommandLine& line) {
    if (!mixer.empty()) {
      if (model.pattern != mixer) line.exclude("mixer", "pattern");
      model.pattern = mixer;
    }
    training.check();
    check_stack(line, model, training, mixers);
    for (const std::string& budget : budgets) parse_budget(budget);
  }

  int run(const CommandLine& line) {
    line.require({"vocab_size"});
    if (model.vocab_size < 1)
      throw_error("--vocab-size: expected the tokenizer's number of tokens, found {}",
                  model.vocab_size);
    check(line);
    check_target("--svg", svg, {});
    if (!training.memory.empty()) budgets.push_back(training.memory);
    LanguageModel network(model, mixers, LanguageModel::Memory::kLater);
    settle_memory();
    const Planner planner(network, training, evaluation, resident_bytes());
    std::vector<Plan> plans;
    for (const std::string& budget : budgets) plans.push_back(planner.within(parse_budget(budget)));
    if (budgets.empty()) plans = thinned(planner.frontier());
    const Calibration speed = machine_speed(network.config(), mixers, training, calibrate);
    const int64_t tokens = tokens_of_step(network.config());
    std::vector<Row> rows;
    for (const Plan& plan : plans)
      rows.push_back({plan, predicted_seconds(speed, plan, tokens, network.parameters())});
    if (!svg.empty()) io::write_file(svg, picture(rows));
    print(json ? io::to_text(as_json(rows, network, tokens)) : as_text(rows, network, tokens));
    return 0;
  }

  int64_t tokens_of_step(const ModelConfig& config) const {
    const int64_t micro =
        training.max_tokens > 0 ? training.max_tokens : training.batch_size * config.context;
    return micro * training.gradient_accumulation_steps;
  }

  // Neighbours that differ by little are one to whoever chooses a budget.
  static std::vector<Plan> thinned(const std::vector<Plan>& all) {
    constexpr double kStep = 1.04;
    std::vector<Plan> some;
    for (size_t i = 0; i < all.size(); ++i)
      if (i == 0 || i + 1 == all.size() ||
          static_cast<double>(all[i].total()) > kStep * static_cast<double>(some.back().total()))
        some.push_back(all[i]);
    return some;
  }

  static std::string logits_of(const Plan& plan) {
    return plan.head_rows > 0 ? fmt::format("{}", plan.head_rows) : "256";
  }

  std::string as_text(const std::vector<Row>& rows, const LanguageModel& network,
                      int64_t tokens) const {
    std::string text =
        fmt::format("{} parameters, {} tokens a step; every plan gives the same weights\n\n",
                    network.parameters(), tokens);
    const char* format = "| {:>10} | {:>10} | {:>8} | {:>9} | {:<14} | {:<32} | {:>6} |\n";
    text += fmt::format(fmt::runtime(format), "memory", "activations", "s a step", "tokens/s",
                        "micro-batch", "recomputed in backward", "logits");
    text += fmt::format(fmt::runtime(format), "---:", "---:", "---:", "---:", "---", "---", "---:");
    for (const Row& row : rows)
      text +=
          fmt::format(fmt::runtime(format), bytes_text(row.plan.total()),
                      bytes_text(row.plan.activations()), fmt::format("{:.3g}", row.seconds),
                      fmt::format("{:.0f}", static_cast<double>(tokens) / row.seconds),
                      micro_batch_text(row.plan), to_text(row.plan.recompute), logits_of(row.plan));
    return text;
  }

  io::Json as_json(const std::vector<Row>& rows, const LanguageModel& network,
                   int64_t tokens) const {
    io::Json all = {{"parameters", network.parameters()}, {"tokens_per_step", tokens}};
    for (const Row& row : rows) {
      io::Json one = to_json(row.plan);
      one["predicted_seconds_per_step"] = row.seconds;
      all["plans"].push_back(one);
    }
    return all;
  }

  static std::string picture(const std::vector<Row>& rows) {
    std::vector<CurvePoint> points;
    for (const Row& row : rows)
      points.push_back({static_cast<double>(row.plan.total()) / kMebibyte, row.seconds,
                        fmt::format("{}: {:.3g} s, micro-batches of {}, recomputation {}",
                                    bytes_text(row.plan.total()), row.seconds,
                                    micro_batch_text(row.plan), to_text(row.plan.recompute))});
    std::sort(points.begin(), points.end(),
              [](const CurvePoint& a, const CurvePoint& b) { return a.x < b.x; });
    return curve_svg(points, "memory of the whole process, MiB", "predicted seconds a step");
  }
};

}  // namespace

Verb plan_verb() {
  return make_verb<PlanVerb>("plan", "tell what memory training takes, and what less of it costs",
                             "--vocab-size N [settings as of train] [--budgets 1G 2G] [--svg FILE]",
                             "Memory is that of the whole process. Seconds are predicted from a "
                             "measurement of a second or\n"
                             "two on this machine, which is kept for the next time. refrain train "
                             "--memory AMOUNT takes the\n"
                             "fastest of these plans that fits.");
}

}  // namespace refrain::cli

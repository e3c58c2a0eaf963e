#include "cli/plan/plan_report.h"

#include <algorithm>
#include <utility>

#include "cli/output.h"
#include "cli/plan/curve_svg.h"
#include "cli/plan/plan_text.h"
#include "cli/plan/speed_cache.h"
#include "refrain/autoencoder/plan.h"
#include "refrain/base/bytes.h"
#include "refrain/io/file.h"

namespace refrain::cli {
namespace {

constexpr double kMebibyte = 1 << 20;

struct Row {
  Plan plan;
  double seconds;  // of an optimiser step; of an autoencoder's, in that of the whole batch
};

// Those of the budgets, or all that are worth having. A budget that is too small is told of and
// left out, if there are others.
std::vector<Plan> plans_of(const PlanSource& source, const PlanRequest& request,
                           const std::string& memory) {
  std::vector<std::pair<const char*, std::string>> budgets;
  for (const std::string& budget : request.budgets) budgets.emplace_back("--budgets", budget);
  if (!memory.empty()) budgets.emplace_back("--memory", memory);
  if (budgets.empty()) return source.frontier();
  std::vector<Plan> plans;
  std::vector<std::string> refused;
  for (const auto& [flag, budget] : budgets) try {
      plans.push_back(source.within(parse_budget(budget, flag), flag));
    } catch (const Error& error) {
      refused.emplace_back(error.what());
    }
  if (plans.empty()) throw_error("{}", refused[0]);
  for (const std::string& why : refused) note(why);
  return plans;
}

class Report {
 public:
  Report(const PlanRequest& request, const TrainConfig& training)
      : request_(request), training_(training) {}

  void run(const PlanSource& source) const {
    std::vector<Row> rows;
    for (const Plan& plan : plans_of(source, request_, training_.memory))
      rows.push_back({plan, relative_step_time(plan, training_)});
    if (!request_.svg.empty())
      io::write_file(request_.svg,
                     picture(rows, "time of a step, 1 = the whole batch, nothing recomputed", ""));
    print(request_.json ? io::to_text(as_json(rows, source)) : as_text(rows, source));
  }

  void run(LanguageModel& network, const Planner& planner) const {
    const std::vector<Plan> plans =
        plans_of({[&](size_t budget, const char* flag) { return planner.within(budget, flag); },
                  [&] { return planner.frontier(); }, network.parameters().count()},
                 request_, training_.memory);
    const Calibration speed = machine_speed(network.config(), training_, request_.calibrate);
    const int64_t tokens = tokens_of_step(network.config());
    std::vector<Row> rows;
    for (const Plan& plan : plans)
      rows.push_back({plan, predicted_seconds(speed, plan, tokens, network.parameters().count())});
    if (!request_.svg.empty())
      io::write_file(request_.svg, picture(rows, "predicted seconds a step", " s"));
    print(request_.json ? io::to_text(as_json(rows, network, tokens))
                        : as_text(rows, network, tokens));
  }

 private:
  int64_t tokens_of_step(const ModelConfig& config) const {
    const int64_t micro =
        training_.max_tokens > 0 ? training_.max_tokens : training_.batch_size * config.context;
    return micro * training_.gradient_accumulation_steps;
  }

  // A budget that is enough for the plan.
  static std::string budget_text(const Plan& plan) { return bytes_text_above(plan.total()); }

  std::string as_text(const std::vector<Row>& rows, const LanguageModel& network,
                      int64_t tokens) const {
    std::string text =
        fmt::format("{} parameters, {} tokens a step; every plan gives the same weights\n\n",
                    network.parameters().count(), tokens);
    const char* format = "| {:>10} | {:>10} | {:>8} | {:>9} | {:<14} | {:<32} | {:>6} |\n";
    text += fmt::format(fmt::runtime(format), "memory", "activations", "s a step", "tokens/s",
                        "micro-batch", "recomputed in backward", "logits");
    text += fmt::format(fmt::runtime(format), "---:", "---:", "---:", "---:", "---", "---", "---:");
    for (const Row& row : rows)
      text += fmt::format(fmt::runtime(format), budget_text(row.plan),
                          bytes_text(row.plan.activations()), fmt::format("{:.3g}", row.seconds),
                          fmt::format("{:.0f}", static_cast<double>(tokens) / row.seconds),
                          micro_batch_text(row.plan), to_text(row.plan.recompute),
                          row.plan.logits_rows);
    return text;
  }

  static std::string as_text(const std::vector<Row>& rows, const PlanSource& source) {
    std::string text = fmt::format(
        "{} parameters; every plan gives the same weights; time 1: the whole batch, nothing "
        "recomputed\n\n",
        source.parameters);
    const char* format = "| {:>10} | {:>11} | {:>5} | {:<14} | {:<22} |\n";
    text += fmt::format(fmt::runtime(format), "memory", "activations", "time", "micro-batch",
                        "recomputed in backward");
    text += fmt::format(fmt::runtime(format), "---:", "---:", "---:", "---", "---");
    for (const Row& row : rows)
      text += fmt::format(fmt::runtime(format), budget_text(row.plan),
                          bytes_text(row.plan.activations()), fmt::format("{:.2f}", row.seconds),
                          micro_batch_text(row.plan), to_text(row.plan.recompute));
    return text;
  }

  static io::Json as_json(const std::vector<Row>& rows, const PlanSource& source) {
    io::Json all = {{"parameters", source.parameters}};
    for (const Row& row : rows) {
      io::Json one = to_json(row.plan);
      one.erase("logits_rows");
      one.erase("operations_per_token");
      one["relative_time_per_step"] = row.seconds;
      all["plans"].push_back(one);
    }
    return all;
  }

  io::Json as_json(const std::vector<Row>& rows, const LanguageModel& network,
                   int64_t tokens) const {
    io::Json all = {{"parameters", network.parameters().count()}, {"tokens_per_step", tokens}};
    for (const Row& row : rows) {
      io::Json one = to_json(row.plan);
      one["predicted_seconds_per_step"] = row.seconds;
      all["plans"].push_back(one);
    }
    return all;
  }

  static std::string picture(const std::vector<Row>& rows, const char* times, const char* unit) {
    std::vector<CurvePoint> points;
    for (const Row& row : rows)
      points.push_back({static_cast<double>(row.plan.total()) / kMebibyte, row.seconds,
                        fmt::format("{}: {:.3g}{}, micro-batches of {}, recomputation {}",
                                    bytes_text(row.plan.total()), row.seconds, unit,
                                    micro_batch_text(row.plan), to_text(row.plan.recompute))});
    std::sort(points.begin(), points.end(),
              [](const CurvePoint& a, const CurvePoint& b) { return a.x < b.x; });
    return curve_svg(points, "memory of the whole process, MiB", times);
  }

  const PlanRequest& request_;
  const TrainConfig& training_;
};

}  // namespace

void PlanRequest::check() const {
  for (const std::string& budget : budgets) parse_budget(budget, "--budgets");
}

void report_reconstruction_plans(const PlanRequest& request, const TrainConfig& training,
                                 const PlanSource& source) {
  Report(request, training).run(source);
}

void report_plans(const PlanRequest& request, const TrainConfig& training, LanguageModel& network,
                  const Planner& planner) {
  Report(request, training).run(network, planner);
}

}  // namespace refrain::cli

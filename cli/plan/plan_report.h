// What memory a training run takes and what less of it would cost, as `plan` tells it.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "refrain/train/plan.h"

namespace refrain::cli {

struct PlanRequest {
  std::string svg;
  std::vector<std::string> budgets;
  bool json = false, evaluation = true, calibrate = false;

  template <class V>
  void visit(V&& v) {
    v("budgets", budgets, "amounts of memory to plan for (1G 2G); none = every plan worth having");
    v("svg", svg, "draw seconds against memory into this file");
    v("json", json, "print JSON");
    v("evaluation", evaluation, "count what evaluations take too");
    v("calibrate", calibrate, "measure the machine again");
  }

  void check() const;
};

// Where plans come from.
struct PlanSource {
  std::function<Plan(size_t budget, const char* flag)> within;
  std::function<std::vector<Plan>()> frontier;
  int64_t parameters;
};

// Of an autoencoder: with times in that of the whole batch, for nothing is measured.
void report_reconstruction_plans(const PlanRequest&, const TrainConfig&, const PlanSource&);
void report_plans(const PlanRequest&, const TrainConfig&, LanguageModel&, const Planner&);

}  // namespace refrain::cli

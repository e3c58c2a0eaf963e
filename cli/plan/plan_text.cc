#include "cli/plan/plan_text.h"

#include "refrain/base/bytes.h"
#include "refrain/base/process.h"

namespace refrain::cli {

size_t parse_budget(const std::string& text, const char* flag) {
  const size_t bytes = parse_bytes(flag, text);
  if (bytes > machine_bytes())
    throw_error("{}: {} is more than the {} of this machine", flag, bytes_text(bytes),
                bytes_text(machine_bytes()));
  return bytes;
}

std::string micro_batch_text(const Plan& plan) {
  if (plan.tokens > 0) return fmt::format("{} tokens", plan.tokens);
  return fmt::format("{} sequence{}", plan.sequences, plan.sequences == 1 ? "" : "s");
}

std::vector<std::string> describe_plan(const Plan& plan) {
  std::vector<std::string> lines;
  const auto amount = [&](const char* name, size_t bytes) {
    lines.push_back(fmt::format("  {:<36} {:>10}", name, bytes_text(bytes)));
  };
  lines.push_back(fmt::format(
      "plan: micro-batches of {}, recomputation {}{}", micro_batch_text(plan),
      to_text(plan.recompute),
      plan.head_rows > 0 ? fmt::format(", logits of {} tokens at a time", plan.head_rows) : ""));
  amount("program and data", plan.process);
  amount("weights, gradients, moments", plan.model);
  amount("batch", plan.batch);
  amount("saved activations", plan.step.saved);
  amount("scratch", plan.step.scratch);
  if (plan.evaluation > plan.step.total())
    amount("more, for evaluation", plan.evaluation - plan.step.total());
  amount("in all", plan.total());
  if (plan.budget > 0) amount("of", plan.budget);
  return lines;
}

}  // namespace refrain::cli

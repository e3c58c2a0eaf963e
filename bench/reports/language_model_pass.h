// A pass of a language model over made sequences, forward or with backward, so many at a time. It
// may be timed when the first tokens' losses and all gradients are those of plain loops in float64
// (model_check.h), and each token's loss is that of the other rows of its table.
#pragma once
#include <optional>
#include <vector>

#include "bench/checks/model_check.h"
#include "bench/checks/planted.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {

struct PassShape {
  int64_t sequences = 1, tokens = 1;  // tokens of a sequence
  int64_t batch = 1;                  // sequences at a time
  bool backward = true;
  Recompute recompute{};
  kernels::ComputeType compute_type = kernels::ComputeType::kFloat32;
};

class LanguageModelPass {
 public:
  LanguageModelPass(const ModelConfig& config, const PassShape& shape, const Planted& planted);
  LanguageModelPass(const LanguageModelPass&) = delete;
  LanguageModelPass& operator=(const LanguageModelPass&) = delete;

  // `step` is that of an earlier pass of the same weights and first tokens, or none yet.
  Check check(Agreement& losses, std::optional<StepCheck>& step);
  Check check(Agreement& losses) {
    std::optional<StepCheck> own;
    return check(losses, own);
  }
  void run() { run({}); }

  int64_t tokens() const { return shape_.sequences * shape_.tokens; }
  size_t activation_bytes();  // by the plan
  size_t bytes();             // and weights, and gradients with backward

 private:
  void run(std::span<float> all);  // every token's loss goes to `all`, if it is not empty
  void step(ExecutionContext&, Arena& saved, size_t row);

  ModelConfig config_;
  PassShape shape_;
  const Planted& planted_;
  LanguageModel model_;
  std::vector<int32_t> tokens_;
  RaggedBatchBuilder data_;
  RaggedBatch batch_;
  Workspace workspace_;
  std::vector<float> losses_;
};

}  // namespace refrain::bench

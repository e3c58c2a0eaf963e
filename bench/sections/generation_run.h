// A prompt of made tokens that is read, and tokens after it, one by one: what generation does,
// without choosing them.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "bench/checks/check.h"
#include "bench/sections/setup.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {

class GenerationRun {
 public:
  // A prompt of config.context tokens. `packed`: matrices are laid out once, as products read them,
  // in this type of storage; nothing: as rows.
  GenerationRun(const Setup&, const ModelConfig& config, std::optional<Storage> packed);
  GenerationRun(const GenerationRun&) = delete;
  GenerationRun& operator=(const GenerationRun&) = delete;

  // The first rows' logits of all tokens at once against plain loops in float64, and stepped logits
  // against those of all at once.
  Check check();
  void read_prompt();  // from the start
  void read_tokens();  // the new ones, after the prompt
  void read_again();   // the same logits from the start for each of them: without a state

  int64_t prompt() const { return prompt_; }
  int64_t new_tokens() const { return static_cast<int64_t>(tokens_.size()) - prompt_; }
  double prompt_operations();
  size_t token_bytes();  // that a token cannot do without: the weights it multiplies, its states
  size_t state_bytes() const;
  size_t bytes();  // weights, states, activations
  std::string shape_text() const;

 private:
  void read(int64_t count);
  void read_until(int64_t position);

  const Planted& planted_;
  LanguageModel model_;
  int64_t prompt_;
  std::vector<int32_t> tokens_;
  SequenceState state_;
  RaggedBatchBuilder data_;
  Workspace workspace_;
  std::vector<float> logits_;
  std::vector<double> first_logits_;  // by the reference
};

}  // namespace refrain::bench

// The settings of a training run, apart from the model's and the data's. Names follow Hugging Face.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "refrain/base/setting_map.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/model/recompute.h"

namespace refrain {

// The help of --gradient-checkpointing, with the parts of the mixers there are.
const char* checkpointing_help();

struct TrainConfig {
  static constexpr double kByOptimizer = -1;  // of weight_decay: what its optimizer has by default

  std::string max_steps = "2000";
  int64_t batch_size = 16;
  int64_t max_tokens = 0;
  bool buckets = true;
  int64_t gradient_accumulation_steps = 1;
  double learning_rate = 1e-3;
  std::string lr_scheduler_type = "cosine";
  int64_t warmup_steps = 100;
  double min_learning_rate = 0;
  double lr_decay = 4;
  std::string optimizer = "adamw";
  double momentum = 0;
  double weight_decay = kByOptimizer;
  bool decay_all = false;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;
  std::string clip_mode = "norm";
  double label_smoothing = 0;
  double dropout = 0;
  double attention_dropout = 0;
  int64_t eval_steps = 0;
  int64_t save_steps = 0;
  double save_minutes = 10;
  int64_t save_total_limit = 2;
  int64_t logging_steps = 10;
  int64_t patience = 0;
  int64_t seed = 1;
  std::string memory;
  std::string gradient_checkpointing = "auto";
  bool offload_states = false;
  int64_t tbptt = 0;
  bool carry_state = false;
  std::string compute_type = "f32";
  // Not a setting of its own: batches of conversations hold as many tokens as batch_size times the
  // context, however many sequences these are.
  bool packs = false;

  template <class V>
  void visit(V&& v) {
    v("max_steps", max_steps,
      how("optimiser steps (2000), epochs (5e), input tokens (10Mt), or minutes (30m), with which "
          "alone the weights depend on the machine's speed"));
    v("batch_size", batch_size,
      how("the most sequences of a micro-batch; fewer are taken where more are no faster"));
    v("max_tokens", max_tokens,
      how("tokens of a micro-batch, padding counted, instead of batch_size; 0 = by batch_size"));
    v("buckets", buckets, "with max_tokens: sequences of like lengths share a micro-batch");
    v("gradient_accumulation_steps", gradient_accumulation_steps,
      how("micro-batches of an optimiser step; the result depends on their total only"));
    v("learning_rate", learning_rate, "highest learning rate");
    v("lr_scheduler_type", lr_scheduler_type,
      "after the warm-up: constant, linear, cosine, inverse_sqrt or reduce_lr_on_plateau (divided "
      "by lr_decay after each evaluation without a better loss)");
    v("warmup_steps", warmup_steps, "steps over which the learning rate rises from 0");
    v("min_learning_rate", min_learning_rate,
      "where linear and cosine end; the least of reduce_lr_on_plateau");
    v("lr_decay", lr_decay, "what reduce_lr_on_plateau divides the learning rate by");
    v("optimizer", optimizer, "adamw or sgd");
    v("momentum", momentum, "of sgd; 0 keeps no moments");
    v("weight_decay", weight_decay,
      "weight decay of matrices: decoupled in adamw, added to the gradient in sgd; -1 = 0.1 for "
      "adamw, 0 for sgd");
    v("decay_all", decay_all, "let norms and embeddings decay too");
    v("adam_beta1", adam_beta1, "decay rate of AdamW's first moment (mean of gradients)");
    v("adam_beta2", adam_beta2, "decay rate of AdamW's second moment (mean of their squares)");
    v("adam_epsilon", adam_epsilon, "added to the root of the second moment");
    v("max_grad_norm", max_grad_norm, "limit for clip_mode");
    v("clip_mode", clip_mode, "norm (of all gradients together), value (of each element) or none");
    v("label_smoothing", label_smoothing, "probability spread over the whole vocabulary");
    v("dropout", dropout,
      "rate on the embedding and on what each half of a block adds; in bare stacks on the "
      "embedding and on the output of each mixer");
    v("attention_dropout", attention_dropout,
      "rate on the probabilities of softmax attention, as GPT-2 has it besides dropout");
    v("eval_steps", eval_steps, how("evaluate every so many steps; 0 = at the end only"));
    v("save_steps", save_steps, how("checkpoint every so many steps; 0 = by save_minutes"));
    v("save_minutes", save_minutes,
      how("without save_steps: checkpoint when so many minutes have passed since the last one; 0 = "
          "at the end only"));
    v("save_total_limit", save_total_limit, how("newest checkpoints to keep; 0 = all"));
    v("logging_steps", logging_steps, how("record metrics every so many steps"));
    v("patience", patience, how("stop after so many evaluations without a better loss; 0 = never"));
    v("seed", seed, "of weights, order and dropout");
    v("memory", memory,
      how("the most that the whole process may take (800M, 2G): how the work is cut to fit, with "
          "the same weights; empty = what is fast"));
    v("gradient_checkpointing", gradient_checkpointing, how(checkpointing_help()));
    v("offload_states", offload_states,
      how("keep the states between chunks of long sequences on disk, in the run directory"));
    v("tbptt", tbptt,
      "truncated backpropagation: gradients reach back within chunks of so many tokens, the "
      "state is carried from chunk to chunk of a sequence; 0 = through the whole sequence");
    v("carry_state", carry_state,
      "lm with recurrent mixers: each sequence of a batch is a stream of the text, whose state "
      "goes on from one step to the next; a step takes its next tbptt tokens (0 = context), and "
      "evaluations carry the state too");
    v("compute_type", compute_type,
      "what operands of matrix products (GEMMs) are rounded to: f32 (they are not); bf16: "
      "bfloat16, and part of what is saved, too; int16: 16-bit integers with shared scales, fast "
      "with AVX512-VNNI; auto: the fastest that this machine has units for, as the run records it. "
      "Weights, gradients, moments, sums and the residual stream stay float32. --bf16 and --int16 "
      "are short for it");
  }

  // Tokens of a sequence that gradients reach back in.
  int64_t gradient_length(int64_t context) const {
    return tbptt > 0 && (carry_state || tbptt < context) ? tbptt : context;
  }
  // Tokens of a micro-batch; 0 = it is counted by sequences.
  int64_t batch_tokens(int64_t context) const {
    return max_tokens == 0 && packs ? batch_size * context : max_tokens;
  }
  bool sgd() const { return optimizer == "sgd"; }
  double decay() const { return weight_decay != kByOptimizer ? weight_decay : sgd() ? 0 : 0.1; }
  int moments() const { return sgd() ? momentum > 0 : 2; }  // numbers kept for each weight
  bool reduces_on_plateau() const { return lr_scheduler_type == "reduce_lr_on_plateau"; }

  void check() const;                        // an Error names the setting that is out of range
  kernels::ComputeType matmul_type() const;  // auto: this machine's
};

// max_steps taken apart.
struct TrainingLength {
  enum Unit { kSteps, kEpochs, kTokens, kMinutes } unit;
  double amount;
};
TrainingLength parse_length(const std::string& max_steps);

// gradient_checkpointing taken apart; nothing for auto.
std::optional<Recompute> parse_checkpointing(const std::string& gradient_checkpointing);

// Where a step stands in its schedule.
struct ScheduleStep {
  int64_t step = 1;        // from 1
  double done = 0;         // share of the run after the warm-up
  int64_t reductions = 0;  // evaluations without a better loss, for reduce_lr_on_plateau
};
double learning_rate(const TrainConfig&, const ScheduleStep&);
// The share of `total` steps after the warm-up that have gone by with step `step`.
double share_of_steps(const TrainConfig&, int64_t step, int64_t total);

}  // namespace refrain

#include "refrain/train/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "refrain/base/bytes.h"
#include "refrain/base/error.h"
#include "refrain/base/expect_in.h"
#include "refrain/kernels/matmul/compute_types.h"
#include "refrain/mixers/registry.h"

namespace refrain {
namespace {

void expect_one_of(const char* name, const std::string& value,
                   std::initializer_list<std::string_view> choices) {
  std::string all;
  for (std::string_view c : choices) {
    if (value == c) return;
    all += (all.empty() ? "" : ", ") + std::string(c);
  }
  throw_error("{}: expected one of {}, found '{}'", name, all, value);
}

constexpr int64_t kMany = int64_t{1} << 40;

}  // namespace

void TrainConfig::check() const {
  parse_length(max_steps);
  expect_in<int64_t>("batch_size", batch_size, 1, 1 << 20);
  expect_in<int64_t>("max_tokens", max_tokens, 0, 1 << 30);
  expect_in<int64_t>("gradient_accumulation_steps", gradient_accumulation_steps, 1, 1 << 20);
  expect_in("learning_rate", learning_rate, 0.0, 1e3);
  expect_one_of("lr_scheduler_type", lr_scheduler_type,
                {"constant", "linear", "cosine", "inverse_sqrt", "reduce_lr_on_plateau"});
  expect_in<int64_t>("warmup_steps", warmup_steps, 0, kMany);
  expect_in("min_learning_rate", min_learning_rate, 0.0, learning_rate);
  if (!(lr_decay > 1 && lr_decay <= 1e6))
    throw_error("lr_decay: expected more than 1 and at most 1000000, found {}", lr_decay);
  expect_one_of("optimizer", optimizer, {"adamw", "sgd"});
  expect_in("momentum", momentum, 0.0, 0.999999);
  if (weight_decay != kByOptimizer) expect_in("weight_decay", weight_decay, 0.0, 1e3);
  expect_in("adam_beta1", adam_beta1, 0.0, 0.999999);
  expect_in("adam_beta2", adam_beta2, 0.0, 0.99999999);
  expect_in("adam_epsilon", adam_epsilon, 1e-30, 1.0);
  expect_in("max_grad_norm", max_grad_norm, 1e-30, 1e30);
  expect_one_of("clip_mode", clip_mode, {"norm", "value", "none"});
  expect_in("label_smoothing", label_smoothing, 0.0, 0.999);
  expect_in("dropout", dropout, 0.0, 0.999);
  expect_in("attention_dropout", attention_dropout, 0.0, 0.999);
  expect_in<int64_t>("eval_steps", eval_steps, 0, kMany);
  expect_in<int64_t>("save_steps", save_steps, 0, kMany);
  expect_in("save_minutes", save_minutes, 0.0, 1e6);
  expect_in<int64_t>("save_total_limit", save_total_limit, 0, kMany);
  expect_in<int64_t>("logging_steps", logging_steps, 1, kMany);
  expect_in<int64_t>("patience", patience, 0, kMany);
  if (patience > 0 && eval_steps == 0)
    throw_error("patience: expected eval_steps with it, which says how often to evaluate");
  if (reduces_on_plateau() && eval_steps == 0)
    throw_error(
        "lr_scheduler_type: expected eval_steps with reduce_lr_on_plateau, which says how often "
        "to evaluate");
  expect_in<int64_t>("seed", seed, 0, INT64_MAX);
  expect_one_of("compute_type", compute_type, {"f32", "bf16", "int16", "auto"});
  if (!memory.empty()) parse_bytes("memory", memory);
  parse_checkpointing(gradient_checkpointing);
  expect_in<int64_t>("tbptt", tbptt, 0, 1 << 30);
  if (carry_state && max_tokens > 0)
    throw_error("carry_state: expected --batch-size, the number of streams, found --max-tokens {}",
                max_tokens);
}

kernels::ComputeType TrainConfig::matmul_type() const {
  return kernels::compute_type_named(compute_type).value_or(kernels::fastest_compute_type());
}

TrainingLength parse_length(const std::string& text) {
  double amount = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), amount, std::chars_format::fixed);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  const bool whole = amount == std::floor(amount);
  if (error == std::errc() && amount > 0 && amount <= 1e15) {
    if (unit.empty() && whole) return {TrainingLength::kSteps, amount};
    if (unit == "m") return {TrainingLength::kMinutes, amount};
    if (unit == "e") return {TrainingLength::kEpochs, amount};
    if (unit == "t") return {TrainingLength::kTokens, amount};
    if (unit == "Kt") return {TrainingLength::kTokens, amount * 1e3};
    if (unit == "Mt") return {TrainingLength::kTokens, amount * 1e6};
    if (unit == "Gt") return {TrainingLength::kTokens, amount * 1e9};
  }
  throw_error(
      "max_steps: expected steps (2000), epochs (5e), tokens (10Mt) or minutes (30m), found '{}'",
      text);
}

const char* checkpointing_help() {
  static const std::string help = [] {
    std::string parts;
    for (const std::string& kind : mixer_kinds()) {
      std::vector<std::string_view> its;
      for (const RecomputePart& part : mixer_traits(kind).recompute) its.push_back(part.name);
      if (!its.empty()) parts += fmt::format("{} (of {}), ", fmt::join(its, " and "), kind);
    }
    return fmt::format(
        "what backward recomputes, with the same weights: off; auto: what the memory budget makes "
        "necessary; or, by commas, blocks (all but each block's input; blocks:N of the first N), "
        "mixers, feed_forwards, {}chunks (of long sequences, all but the states between "
        "chunks), and a number K: recurrent mixers keep their state every K tokens only. "
        "reconstruct: a number K, so does the encoder, and probabilities, those that attention "
        "keeps without --autoencoder.flash",
        parts);
  }();
  return help.c_str();
}

std::optional<Recompute> parse_checkpointing(const std::string& text) {
  constexpr int64_t kMostTokens = 1 << 30, kMostBlocks = 1 << 20;
  if (text == "auto") return std::nullopt;
  Recompute recompute;
  if (text == "off") return recompute;
  std::vector<std::string> parts = recompute_parts();
  parts.emplace_back(Recompute::kProbabilities);
  const auto number = [](std::string_view digits, int64_t most) {
    int64_t value = 0;
    const char* last = digits.data() + digits.size();
    const auto [end, error] = std::from_chars(digits.data(), last, value);
    return error == std::errc() && end == last && value >= 1 && value <= most ? value : 0;
  };
  for (std::string_view rest = text;;) {
    const size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view item = rest.substr(0, comma);
    constexpr std::string_view kSome = "blocks:";
    if (item == "blocks")
      recompute.blocks = Recompute::kAllBlocks;
    else if (item.starts_with(kSome) && number(item.substr(kSome.size()), kMostBlocks) > 0)
      recompute.blocks = number(item.substr(kSome.size()), kMostBlocks);
    else if (item == "mixers")
      recompute.mixers = true;
    else if (item == "feed_forwards")
      recompute.feed_forwards = true;
    else if (std::ranges::count(parts, item) > 0)
      recompute.parts.emplace_back(item);
    else if (item == "chunks" || item == "segments")  // its earlier name
      recompute.chunks = true;
    else if (number(item, kMostTokens) > 0)
      recompute.checkpoint_interval = number(item, kMostTokens);
    else
      throw_error(
          "gradient_checkpointing: expected off, auto, or a list of blocks, blocks:N, mixers, "
          "feed_forwards, {}, chunks and a number of tokens, 1 to {}, found '{}'",
          fmt::join(parts, ", "), kMostTokens, text);
    if (comma == rest.size()) return recompute;
    rest.remove_prefix(comma + 1);
  }
}

double share_of_steps(const TrainConfig& c, int64_t step, int64_t total) {
  const double left = static_cast<double>(std::max<int64_t>(total - c.warmup_steps, 1));
  return std::min(1.0, static_cast<double>(step - c.warmup_steps) / left);
}

double learning_rate(const TrainConfig& c, const ScheduleStep& at) {
  const double top = c.learning_rate, low = c.min_learning_rate;
  const auto warmup = static_cast<double>(c.warmup_steps), step = static_cast<double>(at.step);
  if (at.step <= c.warmup_steps) return top * step / warmup;
  if (c.lr_scheduler_type == "constant") return top;
  if (c.reduces_on_plateau())
    return std::max(low, top / std::pow(c.lr_decay, static_cast<double>(at.reductions)));
  if (c.lr_scheduler_type == "inverse_sqrt") return top * std::sqrt(std::max(warmup, 1.0) / step);
  if (c.lr_scheduler_type == "linear") return top + (low - top) * at.done;
  return low + (top - low) * 0.5 * (1 + std::cos(std::numbers::pi * at.done));
}

}  // namespace refrain

#include "cli/effect.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>

#include "cli/inputs.h"
#include "cli/output.h"
#include "refrain/formats/native.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/language_model.h"
#include "refrain/train/plan.h"

namespace refrain::cli {
namespace {

bool has(const CommandLine& line, std::string_view name) {
  return std::ranges::any_of(line.settings(), [&](const Setting& s) { return s.name == name; });
}

std::set<std::string> kinds_in(const ModelConfig& model) {
  const std::vector<std::string> all = model.mixer_kinds();
  return {all.begin(), all.end()};
}

// "attention", or "gla in 1 layer of the pattern 'gla attention'" when the stack is too short for
// all of the pattern.
std::string stack_text(const ModelConfig& model) {
  const std::set<std::string> kinds = kinds_in(model);
  std::string text = fmt::format("{}", fmt::join(kinds, ", "));
  ModelConfig longer = model;
  longer.mixers.clear();
  longer.layers = std::max<int64_t>(model.layers, std::ssize(model.pattern));
  if (kinds_in(longer) != kinds)
    text += fmt::format(" in {} layer{} of the pattern '{}'", model.layers,
                        model.layers == 1 ? "" : "s", model.pattern);
  return text;
}

// No block's state grows with the sequence: what chunks, and their states on disk, need.
bool has_bounded_state(const ModelConfig& model) {
  constexpr int64_t kLong = int64_t{1} << 30;
  return std::ranges::all_of(model.mixers, [&](const MixerConfig& config) {
    const std::unique_ptr<Mixer> mixer = make_mixer(config, model.mixer_dims());
    return mixer->state_bytes(kLong) == mixer->state_bytes(2 * kLong);
  });
}

// An Error when no sequence will be trained chunk by chunk, whose states could go to disk.
void check_offloading(const CommandLine& line, const TrainConfig& training,
                      const ModelConfig& model, const std::string& stack) {
  if (!training.offload_states) return;
  const int64_t longest = training.gradient_length(model.context);
  if (!has_bounded_state(model))
    refuse_given(line, "offload_states",
                 fmt::format("expected mixers whose state has one size, found {}", stack));
  if (longest <= TrainingOptions::kChunkLength)
    refuse_given(
        line, "offload_states",
        fmt::format("expected sequences of more than {} tokens (--context{}), found {}",
                    TrainingOptions::kChunkLength, training.tbptt > 0 ? ", --tbptt" : "", longest));
}

// refuse("attention or another") when none of the kinds has the trait: the kinds that have it.
template <class F>
void check_trait(const std::set<std::string>& kinds, bool MixerTraits::*trait, F&& refuse) {
  const auto able = [&](const std::string& kind) { return mixer_traits(kind).*trait; };
  if (std::ranges::any_of(kinds, able)) return;
  std::vector<std::string> known = mixer_kinds();
  std::erase_if(known, [&](const std::string& kind) { return !able(kind); });
  refuse(fmt::format("{}", fmt::join(known, " or ")));
}

}  // namespace

void refuse_given(const CommandLine& line, std::string_view name, const std::string& why) {
  if (has(line, name) && line.changed(name)) throw_error("{}: {}", flag_of(name), why);
}

void check_mixer_effect(const CommandLine& line, const std::vector<std::string>& kinds,
                        const std::string& stack) {
  visit_mixer_settings([&](const MixerSetting& setting) {
    const std::string& name = setting.name;
    const std::string kind = name.substr(0, name.find('.'));
    if (std::ranges::count(kinds, kind) == 0)
      refuse_given(line, name,
                   fmt::format("expected a block with the mixer {}, found {}", kind, stack));
  });
}

void check_stack(const CommandLine& line, ModelConfig model, const TrainConfig& training,
                 const SettingMap& mixers, std::string_view task) {
  if (model.vocab_size == 0) model.vocab_size = 1;
  model.resolve(mixers);
  const std::set<std::string> kinds = kinds_in(model);
  for (const MixerConfig& mixer : model.mixers) {
    if (make_mixer(mixer, model.mixer_dims())->causal()) continue;
    if (task != "probe")
      throw_error("--task: expected probe, because {} as it is set reads later tokens; found {}",
                  mixer.kind(), task);
    if (training.tbptt > 0)
      throw_error("--tbptt: expected 0, because {} as it is set reads sequences whole; found {}",
                  mixer.kind(), training.tbptt);
  }
  if (training.carry_state && model.learned_positions)
    throw_error("--carry-state: expected no --learned-positions beside it, which end");
  const std::string stack = stack_text(model);
  check_mixer_effect(line, {kinds.begin(), kinds.end()}, stack);
  check_trait(kinds, &MixerTraits::grouped_queries, [&](const std::string& able) {
    refuse_given(line, "kv_heads",
                 fmt::format("expected a block with the mixer {}, found {}", able, stack));
  });
  if (model.bare())
    for (const char* name : {"d_ff", "feed_forward", "feed_forward_bias", "norm", "rms_norm_eps"})
      if (std::string_view(name) != "rms_norm_eps" || !has_setting(model, name))
        refuse_given(line, name, "has a meaning with --block pre_norm only");
  if (training.attention_dropout > 0)
    check_trait(kinds, &MixerTraits::attention_dropout, [&](const std::string& able) {
      throw_error("--attention-dropout: expected a block with the mixer {}, found {}", able, stack);
    });
  if (training.max_tokens > 0)
    refuse_given(
        line, "batch_size",
        fmt::format("expected it or --max-tokens, found --max-tokens {} too", training.max_tokens));
  else
    refuse_given(line, "buckets", "expected --max-tokens with it, found none");
  check_offloading(line, training, model, stack);
  if (training.carry_state && !has_bounded_state(model))
    throw_error("--carry-state: expected mixers whose state has one size, found {}", stack);
  if (const auto given = parse_checkpointing(training.gradient_checkpointing);
      given && std::ranges::count(given->parts, Recompute::kProbabilities) > 0)
    throw_error("--gradient-checkpointing: {}: has a meaning with --task reconstruct only",
                Recompute::kProbabilities);
  // What mixers ask of it shows when a step is counted.
  if (const auto given = parse_checkpointing(training.gradient_checkpointing);
      given && given->checkpoint_interval > 0) {
    LanguageModel network(model, LanguageModel::Memory::kLater);
    Planner(network, training, false, 0).unbounded();
  }
  check_training_effect(line, training);
  std::istringstream pattern(model.pattern);
  const auto words = std::distance(std::istream_iterator<std::string>(pattern), {});
  if (words > model.layers)
    note(fmt::format("pattern: {} for {}: those after them are not used", count_of(words, "words"),
                     count_of(model.layers, "layers")));
}

void check_training_effect(const CommandLine& line, const TrainConfig& training) {
  const std::string& schedule = training.lr_scheduler_type;
  if (schedule != "linear" && schedule != "cosine" && !training.reduces_on_plateau())
    refuse_given(line, "min_learning_rate",
                 fmt::format("expected --lr-scheduler-type linear, cosine or reduce_lr_on_plateau "
                             "with it, found {}",
                             schedule));
  if (!training.reduces_on_plateau())
    refuse_given(line, "lr_decay",
                 fmt::format("expected --lr-scheduler-type reduce_lr_on_plateau with it, found {}",
                             schedule));
  if (training.sgd())
    for (const char* name : {"adam_beta1", "adam_beta2", "adam_epsilon"})
      refuse_given(line, name, "expected --optimizer adamw with it, found sgd");
  else
    refuse_given(line, "momentum", "expected --optimizer sgd with it, found adamw");
  if (training.save_steps > 0)
    refuse_given(
        line, "save_minutes",
        fmt::format("expected it or --save-steps, found --save-steps {} too", training.save_steps));
  if (training.clip_mode == "none")
    refuse_given(line, "max_grad_norm", "expected --clip-mode norm or value with it, found none");
}

void check_sampling(const CommandLine& line, const SamplingConfig& sampling) {
  sampling.check();
  if (sampling.repeat_penalty == 1)
    refuse_given(line, "repeat_last_n",
                 "expected a --repeat-penalty other than 1 with it, found 1");
  if (sampling.stop_when_unsure)
    refuse_given(line, "patience_tokens", "expected it or --stop-when-unsure, found both");
  else if (sampling.min_confidence == 0)
    refuse_given(line, "patience_tokens", "expected --min-confidence with it, found none");
}

void check_task_effect(const CommandLine& line, std::string_view task) {
  if (task != "lm")
    refuse_given(line, "carry_state",
                 fmt::format("has a meaning with --task lm only, found {}", task));
  if (task != "translate")
    for (const char* name : {"source_tag", "target_tag", "both_directions", "tags"})
      refuse_given(line, name,
                   fmt::format("has a meaning with --task translate only, found {}", task));
  if (task != "chat")
    for (const char* name : {"mask_prompt", "packing"})
      refuse_given(line, name, fmt::format("has a meaning with --task chat only, found {}", task));
  if (task == "lm")
    for (const char* name : {"skip_long", "buckets"})
      refuse_given(line, name,
                   "has a meaning with --task translate and --task probe only, found lm");
}

}  // namespace refrain::cli

// `train --init`: what a run takes over from a model, and what of it learns.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/formats/peft.h"
#include "refrain/model/config.h"
#include "refrain/text/chat/conversation.h"
#include "refrain/train/config.h"

namespace refrain::cli {

// Of the weights of a model, in one file or in several.
uint64_t fingerprint_of_model(const std::string& path);

struct FineTuning {
  std::string init;
  std::vector<std::string> freeze;
  int64_t lora_rank = 0;
  double lora_alpha = 16, lora_dropout = 0;
  std::vector<std::string> lora_targets = {"all-linear"};
  bool lora_rslora = false;
  std::string base_type = "f32";
  bool mask_prompt = true, packing = true;

  template <class V>
  void visit(V&& v) {
    v("init", init,
      "a model directory to start from: its tokenizer, settings and weights (reconstruct: a "
      "trained "
      "autoencoder, with its words); --context and dropout may be given anew");
    v("freeze", freeze,
      "names of tensors that do not learn (docs/formats.md), or how they begin; * stands for any "
      "text: embedding \"layers.*.mixer\"");
    v("lora_rank", lora_rank,
      "train adapters of this rank (LoRA) beside the model of --init, which stays as it is; "
      "without "
      "it the model itself");
    v("lora_alpha", lora_alpha, "what adapters add is multiplied by alpha / rank");
    v("lora_targets", lora_targets,
      "linear maps that get one: all-linear (all of the blocks), or names or how they end, each "
      "with "
      "a rank of its own by choice: q_proj v_proj:16");
    v("lora_dropout", lora_dropout, "rate on what adapters read");
    v("lora_rslora", lora_rslora, "multiply by alpha / sqrt(rank) instead");
    v("base_type", base_type,
      "how the model beside adapters stands in memory: f32, bf16 (half) or q8_0 (about a quarter)");
    v("mask_prompt", mask_prompt,
      "chat: learn completions and what the assistant writes, not what they answer");
    v("packing", packing,
      "chat: batches hold as many tokens as batch_size sequences of the context, however many "
      "conversations these are; none sees another");
  }

  bool starts_from_model() const { return !init.empty(); }
  bool has_adapters() const { return lora_rank > 0; }
  LoraConfig lora_config() const;
  // An Error for settings that contradict each other.
  void check(const CommandLine&, const TrainConfig&) const;
  // The adapters to train; none without --lora-rank. The model is to be stored as --base-type says.
  [[nodiscard]] std::unique_ptr<Lora> make_adapters(LanguageModel&) const;
  // Memory and first weights of a model that starts from --init, and of its adapters. A run that
  // `goes_on` has trained them already.
  void load(LanguageModel&, bool goes_on, uint64_t seed) const;
  // chat: a folder stands for its train.jsonl and valid.jsonl.
  static void take_folder(std::vector<std::string>& data, std::vector<std::string>& valid);
  // How the model in a directory writes conversations.
  text::ChatFormat chat_format(const std::string& directory) const;
  // The settings of the model to start from. What was given and contradicts them is an Error.
  void take_model(const CommandLine&, ModelConfig&, SettingMap& mixers,
                  std::string& tokenizer) const;
  // Freezes what --freeze names; an Error for a pattern that matches nothing, or a part of a tensor
  // alone, and if nothing is left that learns.
  void freeze_parameters(LanguageModel&) const;
};

}  // namespace refrain::cli

// Settings that were given and would change nothing: an Error that names the first of them and what
// it is for. What a run has recorded, and what has its default, on the command line as in a config
// file, are not given.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "refrain/generate/sampler.h"
#include "refrain/model/config.h"
#include "refrain/train/config.h"

namespace refrain::cli {

// An Error when `name` was given another value than its default: "--patience: expected ..., found
// ...", where `why` is what follows the flag's name.
void refuse_given(const CommandLine&, std::string_view name, const std::string& why);

// Settings of mixers (attention.rope_theta) that none of the `kinds` is; `stack` says in words
// where the kinds come from.
void check_mixer_effect(const CommandLine&, const std::vector<std::string>& kinds,
                        const std::string& stack);

// Of any training.
void check_training_effect(const CommandLine&, const TrainConfig&);

// Of a language model and its training; what is out of range in the model and its mixers is an
// Error too. A vocabulary of 0 tokens is one that is not known yet.
// `task`: of a training. A stack that reads later tokens can learn probes only.
void check_stack(const CommandLine&, ModelConfig, const TrainConfig&, const SettingMap& mixers,
                 std::string_view task = "probe");

// Of sampling; what is out of range is an Error too.
void check_sampling(const CommandLine&, const SamplingConfig&);

// What only other tasks than `task` have: tags, --skip-long, --buckets, as far as the verb has
// them.
void check_task_effect(const CommandLine&, std::string_view task);

}  // namespace refrain::cli

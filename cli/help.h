// What --help prints, and the short forms of flags.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/command.h"

namespace refrain::cli {

// A letter and the setting that it stands for.
const std::vector<std::pair<char, std::string_view>>& short_flags();

std::string short_flag_of(std::string_view name);  // "model" -> "-m"; "" for most

std::string help_of(const Verb&);
// Of the verbs whose names start with `prefix`.
std::string help_of(const std::vector<Verb>&, const std::string& prefix);

// "; did you mean 'near'?"; "" where nothing is near.
std::string did_you_mean(const std::string& near);

}  // namespace refrain::cli

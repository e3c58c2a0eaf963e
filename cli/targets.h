// Where verbs write: never over what they read, nor over a file of a trained model.
#pragma once
#include <initializer_list>
#include <string>
#include <vector>

namespace refrain::cli {

// What a verb reads: files, "-", directories with all that is in them; empty ones are none.
using Inputs = std::vector<std::string>;

// An Error, before any work is done, when the file that `flag` names is one of the inputs under
// whatever name, one that a trained model or a run consists of, or would if it were there, or one
// that cannot be written.
void check_target(const char* flag, const std::string& path, const Inputs& inputs);
// Likewise of files in a directory, which may be yet to be made.
void check_targets(const char* flag, const std::string& directory,
                   std::initializer_list<const char*> names, const Inputs& inputs);

// What a tokenizer is saved as.
inline constexpr std::initializer_list<const char*> kTokenizerFiles = {"tokenizer.json",
                                                                       "tokenizer_config.json"};

}  // namespace refrain::cli

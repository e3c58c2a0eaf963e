// Translation by a prefix language model: "<src> source <tgt>" is continued greedily to the end
// token.
#pragma once
#include <string>
#include <vector>

#include "cli/inputs.h"
#include "refrain/generate/generator.h"

namespace refrain::cli {

struct TranslationSettings {
  double max_length_factor = 2;
  int64_t max_tokens = 4096;
  std::string source_tag, target_tag;

  template <class V>
  void visit(V&& v) {
    v("max_length_factor", max_length_factor,
      "a translation has at most so many times its source's tokens, and 16 more");
    v("max_tokens", max_tokens, "tokens of sources and translations in a batch");
    v("source_tag", source_tag, "the token before a source text; empty = as the model was trained");
    v("target_tag", target_tag,
      "the token before its translation; empty = as the model was trained");
  }
};

struct Translation {
  std::string text;  // a line
  int64_t tokens = 0;
  StopReason reason = StopReason::kLength;
};

class Translator {
 public:
  // Error when tags or end token are missing. The model must outlive this.
  Translator(const LoadedModel& model, const TranslationSettings& settings);

  // In the order of the sources, which are as many as wanted; a blank one gives a blank one. What a
  // source gives does not depend on the others. Errors call the first source line `first_line`.
  std::vector<Translation> translate(const std::vector<std::string>& sources, int64_t first_line);

  // With the tags in use.
  const data::TaskDescription& task() const { return task_; }

 private:
  const LoadedModel& loaded_;
  TranslationSettings settings_;
  data::TaskDescription task_;
  int32_t source_tag_, target_tag_;
  Generator generator_;
};

}  // namespace refrain::cli

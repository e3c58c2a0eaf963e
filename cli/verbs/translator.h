// Translation by a prefix language model: "<src> source <tgt>" is continued to the end token, by
// beam search.
#pragma once
#include <string>
#include <vector>

#include "cli/inputs.h"
#include "refrain/generate/beam.h"

namespace refrain::cli {

struct TranslationSettings {
  BeamConfig beam;
  double max_length_factor = 2;
  int64_t max_tokens = 4096;
  bool skip_long = false;
  data::Direction direction;

  void check() const;  // an Error names the setting that is out of range

  template <class V>
  void visit(V&& v) {
    beam.visit(v);
    v("max_length_factor", max_length_factor,
      "a translation has at most so many times its source's tokens, and 16 more");
    v("max_tokens", max_tokens,
      "tokens of sources and translations under way together; a source may not have more");
    v("skip_long", skip_long,
      "tell of sources that have more than max_tokens and go on, instead of stopping there");
    v("source_tag", direction.source_tag,
      "the token before a source text; empty = as the model was trained");
    v("target_tag", direction.target_tag,
      "the token before its translation; empty = as the model was trained");
  }
};

struct SourceLine {
  std::string text;
  int64_t number = 0;  // in its file, from 1
};

struct Translation {
  std::string text;  // a line
  int64_t tokens = 0;
  double logprob = 0, score = 0;
  StopReason reason = StopReason::kEndToken;
};

class Translator {
 public:
  // Error when tags or end token are missing. The model must outlive this.
  Translator(const LoadedModel& model, const TranslationSettings& settings);

  // For every source its n_best translations, the best first, or fewer if there are no more; a
  // blank source, and one that is left out for its length, has a blank one. What a source gives
  // does not depend on the others. `file` is what messages call the file of the sources.
  std::vector<std::vector<Translation>> translate(const std::vector<SourceLine>& sources,
                                                  const std::string& file);

  const data::Direction& direction() const { return direction_; }

 private:
  const LoadedModel& loaded_;
  TranslationSettings settings_;
  data::Direction direction_;
  int32_t source_tag_, target_tag_;
  BeamSearch search_;
};

}  // namespace refrain::cli

// BLEU and chrF as verbs show them.
#pragma once
#include <string>
#include <string_view>

#include "refrain/eval/metrics.h"
#include "refrain/io/json.h"

namespace refrain::cli {

struct SimilaritySettings {
  std::string bleu_tokenize;
  int64_t chrf_word_order = 0;

  template <class V>
  void visit(V&& v) {
    v("bleu_tokenize", bleu_tokenize,
      "what BLEU counts: 13a (words, punctuation apart), char (characters) or none (text that is "
      "tokenized already); empty = char when the target tag is <ja> or <zh>, else 13a");
    v("chrf_word_order", chrf_word_order, "0 = chrF, 2 = chrF++");
  }
};

class Similarity {
 public:
  // `target_tag`: "<ja>", or empty when it is not known.
  Similarity(const SimilaritySettings& settings, std::string_view target_tag);

  void add(std::string_view hypothesis, std::string_view reference);
  void put(io::Json& scores) const;  // as "bleu" and "chrf"
  static std::string as_text(const io::Json& scores);

 private:
  eval::Bleu bleu_;
  eval::Chrf chrf_;
};

}  // namespace refrain::cli

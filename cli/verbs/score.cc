// Scores translations that are in a file, whoever made them.
#include "cli/output.h"
#include "cli/verbs.h"
#include "cli/verbs/similarity.h"
#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/text.h"

namespace refrain::cli {
namespace {

bool next_line(io::TextReader& reader, std::string& line) {
  if (!reader.line(line)) return false;
  if (const auto bad = find_invalid_utf8(line))
    throw_error("{}: line {}: expected UTF-8, found byte 0x{:02x}", reader.name(),
                reader.line_number(), static_cast<uint8_t>(line[*bad]));
  return true;
}

struct Score {
  std::string hyp = "-", ref;
  SimilaritySettings similarity{.bleu_tokenize = "13a"};
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("hyp", hyp, "file of translations, a line each; - is standard input");
    v("ref", ref, "file of references, a line each");
    // No target tag says what to count.
    similarity.visit([&](const char* name, auto& field, const char* help) {
      v(name, field,
        std::string_view(name) == "bleu_tokenize"
            ? "what BLEU counts: 13a (words, punctuation apart), char (characters, for text "
              "without spaces such as Japanese) or none (words of text that is tokenized already)"
            : help);
    });
    v("json", json, "print JSON");
  }

  void check(const CommandLine&) const { Similarity(similarity, ""); }

  int run(const CommandLine& line) {
    line.require({"ref", "bleu_tokenize"});
    Similarity scored(similarity, "");
    io::TextReader hypotheses(hyp), references(ref);
    int64_t pairs = 0;
    for (std::string hypothesis, reference;; ++pairs) {
      const bool more = next_line(hypotheses, hypothesis);
      if (next_line(references, reference) != more) {
        const io::TextReader& shorter = more ? references : hypotheses;
        throw_error("{}: expected as many lines as {} has, found {}", shorter.name(),
                    (more ? hypotheses : references).name(), pairs);
      }
      if (!more) break;
      scored.add(hypothesis, reference);
    }
    if (pairs == 0) throw_error("{}: expected a line or more, found none", hypotheses.name());
    io::Json scores = {{"pairs", pairs}};
    scored.put(scores);
    print(json ? io::to_text(scores)
               : Similarity::as_text(scores) + fmt::format("pairs           {}\n", pairs));
    return 0;
  }
};

}  // namespace

Verb score_verb() {
  return make_verb<Score>("score", "compare translations with references",
                          "[--hyp FILE] --ref FILE",
                          "BLEU and chrF, equal to sacreBLEU's of the same signature.");
}

}  // namespace refrain::cli

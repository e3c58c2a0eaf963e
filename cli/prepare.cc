// Text to a token file, once, to train and evaluate on it often.
#include <filesystem>

#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {

struct Prepare {
  data::SourceFiles source;
  std::string tokenizer, out;

  template <class V>
  void visit(V&& v) {
    v("task", source.task, "lm, translate or probe");
    v("data", source.inputs,
      "lm: files of text; translate: source lines and target lines, or one .tsv, .jsonl or .json; "
      "probe: one .jsonl");
    v("tokenizer", tokenizer,
      "directory with a tokenizer.json, or char, bpe:N, byte-bpe:N to train one");
    v("out", out, "token file to write");
    v("source_tag", source.source_tag, "translate: the token before a source text");
    v("target_tag", source.target_tag, "translate: the token before its translation");
    v("both_directions", source.both_directions,
      "translate: every pair the other way round as well, with the tags swapped");
    v("tags", source.tags, "translate: more tags for the tokenizer that is trained");
  }

  void check(const CommandLine& line) const {
    check_task(source.task);
    check_task_effect(line, source.task);
    if (!is_tokenizer_spec(tokenizer))
      refuse_given(line, "tags",
                   fmt::format("expected a --tokenizer to train, found {}", io::quote(tokenizer)));
  }

  int run(const CommandLine& line) {
    line.require({"data", "tokenizer", "out"});
    check(line);
    for (const std::string& input : source.inputs) {
      std::error_code none;
      if (std::filesystem::equivalent(input, out, none))
        throw_error("--out: expected another file than the text, found {}", out);
    }
    const data::Tokenizer made = make_tokenizer(tokenizer, source);
    const data::Prepared done = data::write_token_file(source, made, out);
    note(fmt::format("{}: {}, {}", out, count_of(done.tokens, "tokens"),
                     count_of(done.sequences, sequences_of(source.task))));
    note_run_together(done);
    if (done.blank > 0) note(fmt::format("left out for having no text: {}", done.blank));
    if (is_tokenizer_spec(tokenizer)) {
      const std::string directory =
          std::filesystem::path(out).replace_extension(".tokenizer").string();
      io::make_directories(directory);
      made.save(directory);
      note(fmt::format("{}: a {} tokenizer of {} tokens", directory, made.kind(),
                       made.vocab_size()));
    }
    return 0;
  }
};

}  // namespace

Verb prepare_verb() {
  return make_verb<Prepare>(
      "prepare", "turn text into a token file", "--data FILE... --tokenizer DIR --out FILE.tokens",
      "A token file stands for its text wherever --data is asked for, is read as it is needed, and "
      "works\n"
      "only with its tokenizer. One that is trained here is saved beside it: NAME.tokenizer for\n"
      "NAME.tokens. To translate, it gets both tags and </s> as special tokens.");
}

}  // namespace refrain::cli

// Text to a token file, once, to train and evaluate on it often.
#include <algorithm>
#include <filesystem>

#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/unknown_characters.h"
#include "cli/verbs.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {
namespace fs = std::filesystem;

struct Prepare {
  text::SourceFiles source{.inputs = {}, .source_tag = "", .target_tag = ""};
  std::string tokenizer, out;
  double character_coverage = 0;

  template <class V>
  void visit(V&& v) {
    v("task", source.task, "lm, translate or probe");
    v("data", source.inputs,
      "lm: files of text; translate: source lines and target lines, or one .tsv, .jsonl or .json; "
      "probe: one .jsonl");
    v("tokenizer", tokenizer,
      "directory with a tokenizer.json, or char, bpe:N, byte-bpe:N, word:N to train one");
    v("character_coverage", character_coverage, kCoverageHelp);
    v("out", out, "token file to write");
    v("source_tag", source.source_tag,
      "translate: the token before a source text; empty = by the files' names: <en> of train.en");
    v("target_tag", source.target_tag,
      "translate: the token before its translation; empty = by the files' names: <ja> of train.ja");
    v("both_directions", source.both_directions,
      "translate: every pair the other way round as well, with the tags swapped");
    v("tags", source.tags, "translate: more tags for the tokenizer that is trained");
  }

  void check(const CommandLine& line) const {
    check_task_without_model(source.task);
    check_task_effect(line, source.task);
    check_tokenizer_spec(tokenizer);
    check_coverage(line, tokenizer, character_coverage);
    if (!is_tokenizer_spec(tokenizer))
      refuse_given(line, "tags",
                   fmt::format("expected a --tokenizer to train, found {}", io::quote(tokenizer)));
  }

  int run(const CommandLine& line) {
    line.require({"data", "tokenizer", "out"});
    check(line);
    const bool trains = is_tokenizer_spec(tokenizer);
    const std::string beside = fs::path(out).replace_extension(".tokenizer").string();
    Inputs inputs = source.inputs;
    if (!trains) inputs.push_back(tokenizer);
    check_target("--out", out, inputs);
    if (trains) check_place(beside);
    const auto of_tags = settle_tags(source);
    const text::Tokenizer made = make_tokenizer(tokenizer, source, character_coverage);
    UnknownCharacters unknown(made);
    data::WriteEvents events;
    events.on_text = [&](auto text, auto ids) { unknown.look(text, ids); };
    // Both are on disk before either takes the place of an old one.
    events.before_commit = [&] {
      if (!trains) return;
      io::AtomicDirectory directory(beside);
      made.save(directory.path());
      directory.commit();
    };
    const data::Prepared done = data::write_token_file(source, made, out, events);
    note(fmt::format("{}: {}, {}", out, count_of(done.tokens, "tokens"),
                     count_of(done.sequences, sequences_of(source.task))));
    if (of_tags) note(*of_tags);
    note_run_together(done);
    unknown.tell(text::name_of(source.inputs));
    if (done.blank > 0) note(fmt::format("left out for having no text: {}", done.blank));
    if (trains)
      note(fmt::format("{}: a {} tokenizer of {} tokens", beside, made.kind(), made.vocab_size()));
    return 0;
  }

 private:
  // The tokenizer's directory is replaced whole: by nothing but another tokenizer.
  void check_place(const std::string& beside) const {
    std::error_code failed;
    const fs::file_status status = fs::status(out, failed);
    const auto refuse = [&](const std::string& found) {
      throw_error(
          "--out: expected a file beside which the tokenizer that is trained has its "
          "directory, found {}",
          found);
    };
    if (fs::exists(status) && !fs::is_regular_file(status)) refuse(out);
    if (fs::path(beside) == fs::path(out)) refuse(fmt::format("{}, its directory's name", out));
    check_targets("--out", beside, kTokenizerFiles, source.inputs);
    if (!fs::exists(beside, failed)) return;
    if (!fs::is_directory(beside, failed)) refuse(fmt::format("the file {}", beside));
    for (fs::directory_iterator entry(beside, failed), end; !failed && entry != end;
         entry.increment(failed)) {
      const std::string name = entry->path().filename();
      if (std::ranges::count(kTokenizerFiles, name) == 0)
        refuse(fmt::format("{} with more in it than a tokenizer ({})", beside, name));
    }
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

// Translates lines of text.
#include <optional>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/unknown_characters.h"
#include "cli/verbs.h"
#include "cli/verbs/translator.h"
#include "refrain/base/utf8.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/io/text.h"

namespace refrain::cli {
namespace {

constexpr size_t kLines = 128;  // translated together; output is written after each so many

struct Translate {
  std::string model, input = "-", output, cache_type = "f32";
  TranslationSettings translation;
  bool score = false, json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, kModelHelp);
    v("input", input, "file of source lines; - is standard input");
    v("output", output, "file for the translations, a line each; empty = standard output");
    translation.visit(v);
    v("cache_type", cache_type, kCacheTypeHelp);
    v("n_best", translation.beam.n_best,
      "translations of each source, at most beam_size; more than one are printed as with score");
    v("score", score, "print lines of: the source's number from 0 ||| translation ||| score");
    v("json", json,
      "print a JSON object a line: source, translation, tokens, stop_reason, logprob, score; with "
      "n_best, the list of all of them");
  }

  void check(const CommandLine& line) const {
    line.exclude("json", "score");
    parse_cache_type(cache_type);
    translation.check();
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    check(line);
    check_target("--output", output, {model, input});
    const LoadedModel loaded = load_generator(model);
    set_cache_type(loaded, cache_type);
    Translator translator(loaded, translation);
    const bool utf8 = text::rules_of(loaded.tokenizer).utf8;
    io::TextReader reader(input);
    std::optional<io::AtomicFile> file;
    if (!output.empty()) file.emplace(output);

    UnknownCharacters unknown(loaded.tokenizer);
    std::vector<SourceLine> sources;
    const auto flush = [&] {
      const auto translations = translator.translate(sources, reader.name());
      for (size_t i = 0; i < sources.size(); ++i) {
        const std::string text = lines_of(sources[i], translations[i]);
        file ? file->write(text) : print(text);
      }
      if (!file) flush_output();
      sources.clear();
    };
    for (std::string source; reader.line(source);) {
      const int64_t number = reader.line_number();
      if (const auto bad = find_invalid_utf8(source); bad && utf8)
        throw_error("{}: line {}: expected UTF-8, found byte 0x{:02x}", reader.name(), number,
                    static_cast<uint8_t>(source[*bad]));
      unknown.look(source, loaded.tokenizer.encode(source));
      sources.push_back({std::move(source), number});
      if (sources.size() == kLines) flush();
    }
    flush();
    unknown.tell(reader.name());
    if (file) file->commit();
    return 0;
  }

  static io::Json as_json(const Translation& t) {
    return {{"translation", valid_utf8(t.text)},
            {"tokens", t.tokens},
            {"stop_reason", to_text(t.reason)},
            {"logprob", t.logprob},
            {"score", t.score}};
  }

  std::string lines_of(const SourceLine& source, const std::vector<Translation>& best) const {
    const bool many = translation.beam.n_best > 1;
    if (json) {
      io::Json object = {{"source", valid_utf8(source.text)}};
      object.update(as_json(best[0]));
      if (many)
        for (const Translation& t : best) object["n_best"].push_back(as_json(t));
      return io::to_line(object) + "\n";
    }
    if (!score && !many) return best[0].text + "\n";
    std::string lines;
    for (const Translation& t : best)
      lines += fmt::format("{} ||| {} ||| {:.6f}\n", source.number - 1, t.text, t.score);
    return lines;
  }
};

}  // namespace

Verb translate_verb() {
  return make_verb<Translate>(
      "translate", "translate lines of text", "-m DIR [--input FILE] [--output FILE]",
      "An output line for every input line, in order; a blank one for a blank one. Of a beam of\n"
      "translations the one with the highest score is printed: its log probability divided by\n"
      "its number of tokens to the power of --length-penalty.");
}

}  // namespace refrain::cli

// Translates lines of text.
#include <optional>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/translator.h"
#include "cli/verbs.h"
#include "refrain/base/utf8.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/io/text.h"

namespace refrain::cli {
namespace {

constexpr size_t kLines = 128;  // translated together; output is written after each so many

struct Translate {
  std::string model, input = "-", output;
  TranslationSettings translation;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "model directory");
    v("input", input, "file of source lines; - is standard input");
    v("output", output, "file for the translations, a line each; empty = standard output");
    translation.visit(v);
    v("json", json, "print a JSON object a line: source, translation, tokens, stop_reason");
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    const LoadedModel loaded = load_with_tokenizer(model);
    Translator translator(loaded, translation);
    const bool utf8 = data::rules_of(loaded.tokenizer).utf8;
    io::TextReader reader(input);
    std::optional<io::AtomicFile> file;
    if (!output.empty()) file.emplace(output);

    std::vector<std::string> sources;
    int64_t lines = 0;
    const auto flush = [&] {
      const auto first_line = lines - static_cast<int64_t>(sources.size()) + 1;
      const std::vector<Translation> translations = translator.translate(sources, first_line);
      for (size_t i = 0; i < sources.size(); ++i) {
        const std::string text = line_of(sources[i], translations[i]);
        file ? file->write(text) : print(text);
      }
      if (!file) flush_output();
      sources.clear();
    };
    for (std::string source; reader.line(source);) {
      ++lines;
      if (const auto bad = find_invalid_utf8(source); bad && utf8)
        throw_error("{}: line {}: expected UTF-8, found byte 0x{:02x}", reader.name(), lines,
                    static_cast<uint8_t>(source[*bad]));
      sources.push_back(std::move(source));
      if (sources.size() == kLines) flush();
    }
    flush();
    if (file) file->commit();
    return 0;
  }

  std::string line_of(const std::string& source, const Translation& translation) const {
    if (!json) return translation.text + "\n";
    return io::to_line({{"source", valid_utf8(source)},
                        {"translation", valid_utf8(translation.text)},
                        {"tokens", translation.tokens},
                        {"stop_reason", to_text(translation.reason)}}) +
           "\n";
  }
};

}  // namespace

Verb translate_verb() {
  return make_verb<Translate>("translate", "translate lines of text",
                              "-m DIR [--input FILE] [--output FILE]",
                              "Greedy: each token is the most likely one. An output line for every "
                              "input line, in order.");
}

}  // namespace refrain::cli

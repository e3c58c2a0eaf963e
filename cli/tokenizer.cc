// Training tokenizers, and text to ids and back.
#include <fmt/ranges.h>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "refrain/io/file.h"
#include "refrain/io/text.h"

namespace refrain::cli {
namespace {

struct TokenizerTrain {
  std::string kind, out;
  std::vector<std::string> data, special;

  template <class V>
  void visit(V&& v) {
    v("kind", kind, "char, bpe:N or byte-bpe:N, where N is the number of all tokens");
    v("data", data, "files of text: plain, .jsonl or gzip of these; - is standard input");
    v("out", out, "directory for tokenizer.json and tokenizer_config.json");
    v("special", special, "special tokens, which get the first ids: \"<en>\" \"<ja>\" \"</s>\"");
  }

  int run(const CommandLine& line) {
    line.require({"kind", "data", "out"});
    data::TokenizerTraining training = data::Tokenizer::parse_spec(kind);
    training.special_tokens = special;
    const data::Tokenizer tokenizer =
        data::Tokenizer::train(training, data::text_of({.inputs = data}, training.kind));
    io::make_directories(out);
    tokenizer.save(out);
    note(fmt::format("{} tokens in {}", tokenizer.vocab_size(), out));
    return 0;
  }
};

struct TokenizerEncode {
  std::string model, input = "-";
  bool parse_special = false, lines = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "directory with a tokenizer.json, or that file");
    v("input", input, "file of text; - is standard input");
    v("parse_special", parse_special, "text equal to a special token becomes that token");
    v("lines", lines, "every line on its own: a line of ids for each");
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    const data::Tokenizer tokenizer = load_tokenizer(model);
    const auto print_ids = [&](const std::string& text) {
      print(fmt::format("{}\n", fmt::join(tokenizer.encode(text, parse_special), " ")));
    };
    if (lines) {
      io::TextReader reader(input);
      for (std::string text; reader.line(text);) print_ids(text);
    } else {
      print_ids(read_text(input));
    }
    return 0;
  }
};

struct TokenizerDecode {
  std::string model, input = "-";
  bool with_special = false, lines = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "directory with a tokenizer.json, or that file");
    v("input", input, "file of ids, white space between them; - is standard input");
    v("with_special", with_special, "print special tokens too");
    v("lines", lines, "every line on its own: a line of text for each");
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    const data::Tokenizer tokenizer = load_tokenizer(model);
    io::TextReader reader(input);
    std::vector<int32_t> ids;
    for (std::string text; reader.line(text);) {
      const auto where = fmt::format("{}: line {}", reader.name(), reader.line_number());
      const std::vector<int32_t> found = parse_ids(text, where);
      for (const int32_t id : found)
        if (id >= tokenizer.vocab_size())
          throw_error("{}: token id {} is not one of the vocabulary's 0 to {}", where, id,
                      tokenizer.vocab_size() - 1);
      if (lines)
        print(tokenizer.decode(found, with_special) + "\n");
      else
        ids.insert(ids.end(), found.begin(), found.end());
    }
    print(tokenizer.decode(ids, with_special));
    return 0;
  }
};

}  // namespace

Verb tokenizer_train_verb() {
  return make_verb<TokenizerTrain>("tokenizer train", "train a tokenizer on text",
                                   "--kind bpe:8000 --data FILE... --out DIR");
}

Verb tokenizer_encode_verb() {
  return make_verb<TokenizerEncode>("tokenizer encode", "text to token ids",
                                    "-m DIR [--input FILE]");
}

Verb tokenizer_decode_verb() {
  return make_verb<TokenizerDecode>("tokenizer decode", "token ids to text",
                                    "-m DIR [--input FILE]");
}

}  // namespace refrain::cli

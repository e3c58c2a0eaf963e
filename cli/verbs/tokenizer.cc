// Training tokenizers, and text to ids and back.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <utility>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/verbs.h"
#include "refrain/io/file.h"
#include "refrain/io/text.h"
#include "refrain/text/text_cuts.h"

namespace refrain::cli {
namespace {

struct TokenizerTrain {
  std::string kind, spec, out;
  double character_coverage = 0;
  std::vector<std::string> data, special;

  template <class V>
  void visit(V&& v) {
    v("kind", kind, "char, bpe:N, byte-bpe:N or word:N, where N is the number of all tokens");
    v("tokenizer", spec, "another name of --kind, as train calls it");
    v("character_coverage", character_coverage, kCoverageHelp);
    v("data", data, "files of text: plain, .jsonl, .json or gzip of these; - is standard input");
    v("out", out, "directory for tokenizer.json and tokenizer_config.json");
    v("special", special,
      "special tokens, which get the first ids: \"<en>\" \"<ja>\" \"</s>\"; of several documents, "
      "one that ends a text comes behind them if there is none");
  }

  void check(const CommandLine& line) {
    line.exclude("kind", "tokenizer");
    if (kind.empty()) kind = spec;
    if (kind.empty()) return;
    text::Tokenizer::parse_spec(kind);
    check_coverage(line, kind, character_coverage);
  }

  int run(const CommandLine& line) {
    line.require({spec.empty() ? "kind" : "tokenizer", "data", "out"});
    check(line);
    check_targets("--out", out, kTokenizerFiles, data);
    text::TokenizerTraining training = text::Tokenizer::parse_spec(kind);
    training.special_tokens = special;
    training.character_coverage = character_coverage;
    training.notes = note;
    constexpr std::array<std::string_view, 3> kEnds = {"</s>", "<|endoftext|>", "<|end_of_text|>"};
    if (std::find_first_of(special.begin(), special.end(), kEnds.begin(), kEnds.end()) ==
        special.end())
      for (const std::string& end : special_tokens_for({.inputs = data}, training.kind))
        training.special_tokens.push_back(end);
    const text::Tokenizer tokenizer =
        text::Tokenizer::train(training, text::text_of({.inputs = data}, training.kind));
    io::make_directories(out);
    tokenizer.save(out);
    note(fmt::format("{} tokens in {}", tokenizer.vocab_size(), out));
    return 0;
  }
};

// The tokenizer that one of two flags names.
text::Tokenizer named_tokenizer(const CommandLine& line, const std::string& model,
                                const std::string& path) {
  line.exclude("model", "tokenizer");
  if (path.empty()) line.require({"model"});
  return load_tokenizer(path.empty() ? model : path);
}

struct TokenizerEncode {
  std::string model, tokenizer_path, input = "-";
  bool parse_special = false, add_special_tokens = false, lines = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "directory with a tokenizer.json, that file, or a GGUF file");
    v("tokenizer", tokenizer_path, "another name of --model, as train calls it");
    v("input", input, "file of text; - is standard input");
    v("parse_special", parse_special, "text equal to a special token becomes that token");
    v("add_special_tokens", add_special_tokens,
      "what the file puts before and behind a text, such as <s>");
    v("lines", lines, "every line on its own: a line of ids for each");
  }

  int run(const CommandLine& line) {
    const text::Tokenizer tokenizer = named_tokenizer(line, model, tokenizer_path);
    std::span<const int32_t> first, last;
    if (add_special_tokens) first = tokenizer.template_before(), last = tokenizer.template_after();
    const char* between = "";
    const auto print_ids = [&](std::span<const int32_t> ids) {
      if (ids.empty()) return;
      print(fmt::format("{}{}", between, fmt::join(ids, " ")));
      between = " ";
    };
    io::TextReader reader(input);
    std::string text;
    if (lines) {
      for (; reader.line(text); between = "") {
        print_ids(first);
        print_ids(tokenizer.encode(text, parse_special));
        print_ids(last);
        print("\n");
      }
      return 0;
    }
    print_ids(first);
    text::PieceReader pieces(std::move(reader), tokenizer.cuts(parse_special));
    while (pieces.next(text)) print_ids(tokenizer.encode(text, parse_special));
    print_ids(last);
    print("\n");
    return 0;
  }
};

struct TokenizerDecode {
  std::string model, tokenizer_path, input = "-";
  bool with_special = false, lines = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "directory with a tokenizer.json, that file, or a GGUF file");
    v("tokenizer", tokenizer_path, "another name of --model, as train calls it");
    v("input", input, "file of ids, white space between them; - is standard input");
    v("with_special", with_special, "print special tokens too");
    v("lines", lines, "every line on its own: a line of text for each");
  }

  int run(const CommandLine& line) {
    const text::Tokenizer tokenizer = named_tokenizer(line, model, tokenizer_path);
    io::TextReader reader(input);
    if (!lines) {
      decode_as_it_comes(reader, tokenizer);
      return 0;
    }
    for (std::string text; reader.line(text);) {
      const auto where = fmt::format("{}: line {}", reader.name(), reader.line_number());
      print(tokenizer.decode(known_ids(tokenizer, text, where), with_special) + "\n");
    }
    return 0;
  }

  static std::vector<int32_t> known_ids(const text::Tokenizer& tokenizer, std::string_view text,
                                        const std::string& where) {
    std::vector<int32_t> ids = parse_ids(text, where);
    for (const int32_t id : ids)
      if (id >= tokenizer.vocab_size())
        throw_error("{}: token id {} is not one of the vocabulary's 0 to {}", where, id,
                    tokenizer.vocab_size() - 1);
    return ids;
  }

  // In pieces that end between ids, so that any number of them may stand on a line.
  void decode_as_it_comes(io::TextReader& reader, const text::Tokenizer& tokenizer) const {
    constexpr size_t kPiece = size_t{1} << 20;
    text::StreamDecoder decoder(tokenizer, with_special);
    std::string text, piece;
    int64_t line = 1;
    for (bool more = true; more;) {
      more = reader.read(piece, kPiece) && piece.size() == kPiece;
      text += piece;
      const size_t end = more ? text.find_last_of(" \t\r\n,") + 1 : text.size();
      std::string decoded;
      for (size_t at = 0; at < end;) {
        const size_t size = std::min(text.find('\n', at), end - 1) + 1 - at;
        const auto where = fmt::format("{}: line {}", reader.name(), line);
        for (const int32_t id :
             known_ids(tokenizer, std::string_view(text).substr(at, size), where))
          decoded += decoder.feed(id);
        at += size;
        line += text[at - 1] == '\n';
      }
      print(decoded);
      text.erase(0, end);
      if (text.size() > kLongestText) parse_ids(text, reader.name());  // no number is so long
    }
    print(decoder.finish());
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

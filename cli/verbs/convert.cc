// Models of other programs to model directories, and model directories to GGUF files.
#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/verbs.h"
#include "refrain/base/bytes.h"
#include "refrain/formats/chat_template.h"
#include "refrain/formats/gguf/gguf.h"
#include "refrain/formats/llama2c.h"
#include "refrain/formats/torch_cells.h"
#include "refrain/io/file.h"
#include "refrain/io/gguf/gguf.h"
#include "refrain/io/json.h"
#include "refrain/text/llama2c_tokenizer.h"

namespace refrain::cli {
namespace {

constexpr std::array<std::string_view, 6> kKinds = {"llama2c",   "hf",         "gguf",
                                                    "torch-rnn", "torch-lstm", "torch-gru"};
constexpr std::array<std::pair<std::string_view, io::GgufType>, 5> kTypes = {
    {{"f32", io::GgufType::kF32},
     {"f16", io::GgufType::kF16},
     {"bf16", io::GgufType::kBf16},
     {"q8_0", io::GgufType::kQ8_0},
     {"q4_0", io::GgufType::kQ4_0}}};

struct Convert {
  std::vector<std::string> from;
  std::string model, to, tokenizer, out;
  std::string type = WeightFormat().type;
  std::string max_shard_size = std::to_string(WeightFormat().largest_file);
  bool without_tokenizer = false;

  template <class V>
  void visit(V&& v) {
    v("from", from,
      "kind and place: llama2c MODEL.bin, hf DIR, gguf FILE, or torch-lstm FILE.safetensors");
    v("model", model, "--to: model directory, or GGUF file, to convert");
    v("to", to, "write another program's file: gguf");
    v("type", type,
      "of the weights that are written: f32, bf16 or f16; --to gguf: also q8_0 or q4_0");
    v("max_shard_size", max_shard_size,
      "bytes of weights in a file (5G, 200M); a larger model has several and an index");
    v("tokenizer", tokenizer, "llama2c: the tokenizer's .bin; torch-*: a directory with one");
    v("without_tokenizer", without_tokenizer,
      "--to gguf: leave the tokenizer out, so that other programs take ids");
    v("out", out, "model directory to write, which must be new or empty; --to gguf: file to write");
  }

  io::GgufType gguf_type() const {
    for (const auto& [name, value] : kTypes)
      if (type == name) return value;
    throw_error("--type: expected f32, f16, bf16, q8_0 or q4_0, found {}", io::quote(type));
  }
  WeightFormat format() const {
    if (type != "f32" && type != "bf16" && type != "f16")
      throw_error("--type: expected f32, bf16 or f16, found {}", io::quote(type));
    const size_t bytes = parse_bytes("--max-shard-size", max_shard_size);
    return {type, static_cast<int64_t>(std::min<size_t>(bytes, INT64_MAX))};
  }

  void check(const CommandLine& line) const {
    line.exclude("from", "to");
    line.exclude("from", "model");
    if (!to.empty()) {
      if (to != "gguf") throw_error("--to: expected gguf, found {}", io::quote(to));
      gguf_type();
      line.exclude("to", "tokenizer");
      line.exclude("to", "max_shard_size");
      return;
    }
    refuse_given(line, "without_tokenizer", "is about --to gguf");
    if (from.empty()) return;
    if (std::ranges::count(kKinds, from[0]) == 0)
      throw_error(
          "--from: expected llama2c, hf, gguf, torch-rnn, torch-lstm or torch-gru, found {}",
          io::quote(from[0]));
    if (from.size() != 2)
      throw_error("--from: expected a kind and a place (llama2c MODEL.bin), found {} values",
                  from.size());
    if ((from[0] == "hf" || from[0] == "gguf") && !tokenizer.empty())
      throw_error("--tokenizer: not used with --from {}, which has its own", from[0]);
  }

  int run(const CommandLine& line) {
    check(line);
    if (!to.empty()) {
      line.require({"model", "out"});
      write_gguf();
      return 0;
    }
    line.require({"from", "out"});
    format();  // an Error now, not after the work
    require_new_directory(out);
    if (from[0] == "llama2c") {
      line.require({"tokenizer"});
      const auto loaded = load_llama2c(from[1]);
      auto [pieces, scores] = text::read_llama2c_tokenizer(tokenizer, loaded->config().vocab_size);
      const auto made = text::Tokenizer::from_scored_pieces(std::move(pieces), std::move(scores));
      // There a text also ends where the next would begin.
      write(*loaded, {made.bos(), made.eos(), made.pad(), {made.bos()}}, &made);
    } else if (from[0] == "hf" || from[0] == "gguf") {
      convert_model();
    } else {
      const auto loaded = load_torch_cells(from[1], from[0].substr(from[0].find('-') + 1));
      if (tokenizer.empty()) {
        write(*loaded, {}, nullptr);
        note(fmt::format("{} has no tokenizer", out));
      } else {
        const text::Tokenizer found = load_tokenizer(tokenizer);
        if (found.vocab_size() != loaded->config().vocab_size)
          throw_error("--tokenizer: expected the model's {} tokens, found {}",
                      loaded->config().vocab_size, found.vocab_size());
        write(*loaded, {found.bos(), found.eos(), found.pad()}, &found);
      }
    }
    return 0;
  }

  // One whose weights are, or become, rows of float32.
  std::unique_ptr<LanguageModel> load_rows(const std::string& path, SpecialTokens& special) const {
    require_language_model(path);
    auto loaded = load_model(path, &special, note);
    if (loaded->parameters().is_packed())
      throw_error("{}: expected weights as rows, found a quantised model's ({})", path,
                  kernels::name_of(loaded->parameters().storage()));
    return loaded;
  }

  void convert_model() {
    const std::string& place = from[1];
    if (from[0] == "gguf" && io::exists(place) && !io::is_gguf(place))
      throw_error("{}: expected a GGUF file, found none", place);
    SpecialTokens special;
    const auto loaded = load_rows(place, special);
    if (has_tokenizer(place)) {
      const text::Tokenizer found = load_tokenizer(place);
      write(*loaded, special, &found);
    } else {
      write(*loaded, special, nullptr);
      note(fmt::format("{} has no tokenizer; neither has {}", place, out));
    }
  }

  void write(LanguageModel& converted, const SpecialTokens& special,
             const text::Tokenizer* tokens) {
    make_parent(out);
    io::AtomicDirectory directory(out);
    if (tokens) tokens->save(directory.path());
    if (from[0] == "hf")
      if (const auto task = data::read_task(from[1])) data::write_task(directory.path(), *task);
    if (from[0] == "hf" || from[0] == "gguf") {
      if (const auto chat = read_chat_template(from[1]))
        io::write_file(directory.path() + "/chat_template.jinja", *chat);
      if (tokens) name_special(directory.path() + "/tokenizer_config.json", special, *tokens);
    }
    save_model(directory.path(), converted, special, format());
    directory.commit();
    note(fmt::format("{}: {} parameters", out, converted.parameters().count()));
  }

  // The model's own ids have priority over the names that tokens usually have.
  static void name_special(const std::string& path, const SpecialTokens& special,
                           const text::Tokenizer& tokens) {
    io::Json config = io::read_json(path);
    for (const auto& [key, id] :
         {std::pair("bos_token", special.bos), std::pair("eos_token", special.eos),
          std::pair("pad_token", special.pad)})
      if (id >= 0 && id < tokens.vocab_size()) config[key] = tokens.token(id);
    io::write_file(path, io::to_text(config));
  }

  void write_gguf() const {
    check_target("--out", out, {model});
    SpecialTokens special;
    const auto loaded = load_rows(model, special);
    try {
      require_gguf_model(loaded->config());
    } catch (const Error& error) {
      throw_error("{}: {}", model, error.what());
    }
    GgufOptions options{.type = gguf_type()};
    if (without_tokenizer || !has_tokenizer(model)) {
      options.tokenizer.emplace_back("tokenizer.ggml.model", "no_vocab");
      if (!without_tokenizer) note(fmt::format("{} has no tokenizer; neither has {}", model, out));
    } else {
      const text::Tokenizer tokens = load_tokenizer(model);
      const int64_t ids = loaded->config().vocab_size;
      if (tokens.vocab_size() > ids)
        throw_error("{}: the tokenizer has {} tokens, expected at most the model's {}", model,
                    tokens.vocab_size(), ids);
      try {
        options.tokenizer = tokens.to_gguf(ids, note);
      } catch (const Error& error) {
        throw_error("{}: {}; --without-tokenizer leaves it out", model, error.what());
      }
    }
    if (const auto chat = read_chat_template(model))
      options.tokenizer.emplace_back("tokenizer.chat_template", *chat);
    save_gguf(out, *loaded, special, options, note);
    note(fmt::format("{}: {} parameters", out, loaded->parameters().count()));
  }
};

}  // namespace

Verb convert_verb() {
  return make_verb<Convert>(
      "convert", "read a model of another program, or write one",
      "--from gguf MODEL.gguf --out DIR\n"
      "--to gguf -m MODEL --type q8_0 --out MODEL.gguf",
      "--from llama2c     karpathy/llama2.c's model and tokenizer files\n"
      "--from hf          a Hugging Face directory of a family that is known (docs/formats.md), "
      "to\n"
      "                   one of --type and --max-shard-size\n"
      "--from gguf        a GGUF file of llama.cpp, of any type that is read, likewise\n"
      "--from torch-lstm  PyTorch's state_dict of an embedding (emb.weight), an nn.LSTM and an\n"
      "                   output (decoder.weight, decoder.bias), as safetensors; torch-gru and\n"
      "                   torch-rnn likewise\n"
      "--to gguf          what llama.cpp and Ollama read: models of the shape of Llama or Qwen, "
      "with\n"
      "                   their tokenizer and chat template");
}

}  // namespace refrain::cli

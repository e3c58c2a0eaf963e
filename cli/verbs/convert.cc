// Models of other programs to model directories.
#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "refrain/base/bytes.h"
#include "refrain/formats/llama2c.h"
#include "refrain/formats/torch_cells.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/text/llama2c_tokenizer.h"

namespace refrain::cli {
namespace {

constexpr std::array<std::string_view, 5> kKinds = {"llama2c", "hf", "torch-rnn", "torch-lstm",
                                                    "torch-gru"};

struct Convert {
  std::vector<std::string> from;
  std::string tokenizer, out;
  std::string type = WeightFormat().type;
  std::string max_shard_size = std::to_string(WeightFormat().largest_file);

  template <class V>
  void visit(V&& v) {
    v("from", from, "kind and place: llama2c MODEL.bin, hf DIR, or torch-lstm FILE.safetensors");
    v("tokenizer", tokenizer, "llama2c: the tokenizer's .bin; torch-*: a directory with one");
    v("out", out, "model directory to write; must be new or empty");
    v("type", type, "of the weights that are written: f32, bf16 or f16");
    v("max_shard_size", max_shard_size,
      "bytes of weights in a file (5G, 200M); a larger model has several and an index");
  }

  void check(const CommandLine&) const {
    if (from.empty()) return;
    if (std::ranges::count(kKinds, from[0]) == 0)
      throw_error("--from: expected llama2c, hf, torch-rnn, torch-lstm or torch-gru, found {}",
                  io::quote(from[0]));
    if (from.size() != 2)
      throw_error("--from: expected a kind and a place (llama2c MODEL.bin), found {} values",
                  from.size());
    if (from[0] == "hf" && !tokenizer.empty())
      throw_error("--tokenizer: not used with --from hf, whose DIR has one");
  }

  int run(const CommandLine& line) {
    line.require({"from", "out"});
    check(line);
    format();  // an Error now, not after the work
    require_new_directory(out);
    if (from[0] == "llama2c") {
      line.require({"tokenizer"});
      const auto model = load_llama2c(from[1]);
      auto [pieces, scores] = text::read_llama2c_tokenizer(tokenizer, model->config().vocab_size);
      const auto made = text::Tokenizer::from_scored_pieces(std::move(pieces), std::move(scores));
      // There a text also ends where the next would begin.
      write(*model, {made.bos(), made.eos(), made.pad(), {made.bos()}}, &made);
    } else if (from[0] == "hf") {
      require_language_model(from[1]);
      SpecialTokens special;
      const auto model = load_model(from[1], &special, note);
      if (model->parameters().is_packed())
        throw_error("{}: expected weights as rows, found a quantised model's ({})", from[1],
                    kernels::name_of(model->parameters().storage()));
      if (io::exists(from[1] + "/tokenizer.json")) {
        const text::Tokenizer found = load_tokenizer(from[1]);
        write(*model, special, &found);
      } else {
        write(*model, special, nullptr);
        note(fmt::format("{} has no tokenizer.json; neither has {}", from[1], out));
      }
    } else {
      const auto model = load_torch_cells(from[1], from[0].substr(from[0].find('-') + 1));
      if (tokenizer.empty()) {
        write(*model, {}, nullptr);
        note(fmt::format("{} has no tokenizer", out));
      } else {
        const text::Tokenizer found = load_tokenizer(tokenizer);
        if (found.vocab_size() != model->config().vocab_size)
          throw_error("--tokenizer: expected the model's {} tokens, found {}",
                      model->config().vocab_size, found.vocab_size());
        write(*model, {found.bos(), found.eos(), found.pad()}, &found);
      }
    }
    return 0;
  }

  WeightFormat format() const {
    if (type != "f32" && type != "bf16" && type != "f16")
      throw_error("--type: expected f32, bf16 or f16, found {}", io::quote(type));
    const size_t bytes = parse_bytes("--max-shard-size", max_shard_size);
    return {type, static_cast<int64_t>(std::min<size_t>(bytes, INT64_MAX))};
  }

  void write(LanguageModel& model, const SpecialTokens& special, const text::Tokenizer* tokens) {
    make_parent(out);
    io::AtomicDirectory directory(out);
    if (tokens) tokens->save(directory.path());
    if (from[0] == "hf")
      if (const auto task = data::read_task(from[1])) data::write_task(directory.path(), *task);
    save_model(directory.path(), model, special, format());
    directory.commit();
    note(fmt::format("{}: {} parameters", out, model.parameters().count()));
  }
};

}  // namespace

Verb convert_verb() {
  return make_verb<Convert>(
      "convert", "write a model of another program as a model directory",
      "--from llama2c MODEL.bin --tokenizer TOK.bin --out DIR",
      "llama2c     karpathy/llama2.c's model and tokenizer files\n"
      "hf          a Hugging Face directory of a family that is known (docs/formats.md), to one "
      "of\n"
      "            --type and --max-shard-size\n"
      "torch-lstm  PyTorch's state_dict of an embedding (emb.weight), an nn.LSTM and an output\n"
      "            (decoder.weight, decoder.bias), as safetensors; torch-gru and torch-rnn "
      "likewise");
}

}  // namespace refrain::cli

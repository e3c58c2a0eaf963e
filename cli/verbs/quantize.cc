// A model with its matrices stored in fewer bits.
#include <algorithm>
#include <cmath>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "cli/verbs/eval.h"
#include "refrain/formats/chat_template.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {

struct Quantize {
  std::string model, out, type = "q8_0";
  std::vector<std::string> data;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "model directory, with its weights as they were trained, or GGUF file");
    v("out", out, "model directory to write; must be new or empty");
    v("type", type,
      "how matrices are stored: bf16, f16, q8_0 (8.5 bits a weight) or q4 (5 bits a weight)");
    v("data", data,
      "files to score the model on, before and after, as eval does; none = it is not scored");
    v("json", json, "print JSON");
  }

  Storage storage() const {
    const auto named = kernels::storage_named(type);
    if (!named || *named == Storage::kFloat32)
      throw_error("--type: expected bf16, f16, q8_0 or q4, found {}", io::quote(type));
    return *named;
  }
  void check(const CommandLine&) const { storage(); }

  int run(const CommandLine& line) {
    line.require({"model", "out"});
    const Storage to = storage();
    require_new_directory(out);
    LoadedModel loaded = load_with_tokenizer(model);
    if (const Storage found = loaded.model->parameters().storage(); found != Storage::kFloat32)
      throw_error("{}: expected weights as they were trained, found a quantised model's ({})",
                  model, kernels::name_of(found));
    make_parent(out);
    io::AtomicDirectory directory(out);
    io::Json all = {{"type", type}, {"bytes", {{"f32", loaded.model->parameters().bytes()}}}};
    if (!data.empty()) all["scores"]["f32"] = scores_of(model, loaded, data);
    loaded.model.reset();  // before there is another
    loaded = load_with_tokenizer(model, to);
    const ParameterStore& parameters = loaded.model->parameters();
    all["bytes"][type] = parameters.bytes();
    put_tensors(parameters, to, all);
    expect_finite_weights(parameters);

    loaded.tokenizer.save(directory.path());
    if (const auto task = data::read_task(model)) data::write_task(directory.path(), *task);
    if (const auto chat = read_chat_template(model))
      io::write_file(directory.path() + "/chat_template.jinja", *chat);
    save_packed_model(directory.path(), *loaded.model, loaded.special);
    if (!data.empty()) all["scores"][type] = scores_of(out, loaded, data);
    const std::string text = json ? io::to_text(all) : as_text(all);
    directory.commit();
    print(text);
    return 0;
  }

 private:
  // Which tensors are stored so, and which stay as they are.
  void put_tensors(const ParameterStore& parameters, Storage to, io::Json& all) const {
    io::Json changed = io::Json::array(), kept = changed;
    for (const ParameterStore::Entry& entry : parameters.entries())
      (entry.is_packed() && entry.param->packed.type == to ? changed : kept)
          .push_back(entry.spec.name);
    if (changed.empty())
      throw_error(
          "{}: expected a matrix of 4096 weights or more, 32 or more in a row, found none: nothing "
          "to store as {}",
          model, type);
    all["tensors"] = {{type, std::move(changed)}, {"f32", std::move(kept)}};
  }

  // Scales and minima are of float16: weights may be too large for them.
  void expect_finite_weights(const ParameterStore& parameters) const {
    std::vector<float> row;
    for (const ParameterStore::Entry& entry : parameters.entries()) {
      if (!entry.is_packed()) continue;
      const int64_t columns = entry.spec.shape[1];
      row.resize(static_cast<size_t>(columns));
      for (int64_t r = 0; r < entry.spec.shape[0]; ++r) {
        kernels::unpack_row(entry.param->packed, r, columns, row.data());
        for (const float w : row)
          if (!std::isfinite(w))
            throw_error("{}: {}: expected weights that {} can hold, found one that it cannot",
                        model, entry.spec.name, type);
      }
    }
  }

  std::string as_text(const io::Json& all) const {
    const auto mib = [&](const std::string& of) {
      return static_cast<double>(all.at("bytes").at(of).get<size_t>()) / (1 << 20);
    };
    const io::Json& kept = all.at("tensors").at("f32");
    std::string text = fmt::format("{:<16}{:>12}{:>12}\n{:<16}{:>12.2f}{:>12.2f}\n", "", "f32",
                                   type, "weights, MiB", mib("f32"), mib(type));
    if (all.contains("scores"))
      for (const auto& [key, name, digits] : kScores) {
        const io::Json& scores = all["scores"];
        if (!scores.at("f32").contains(key)) continue;
        const double before = number(scores["f32"].at(key)), after = number(scores[type].at(key));
        text += fmt::format("{:<16}{:>12.{}f}{:>12.{}f}   {:+.2f} %\n", name, before, digits, after,
                            digits, before == 0 ? 0 : 100 * (after / before - 1));
      }
    text += fmt::format("{} matrices are stored as {}; {} tensors stay float32",
                        all["tensors"][type].size(), type, kept.size());
    constexpr size_t kNamed = 6;
    for (size_t i = 0; i < std::min(kNamed, kept.size()); ++i)
      text += (i == 0 ? ": " : ", ") + kept[i].get<std::string>();
    if (kept.size() > kNamed) text += ", ... (--json names all)";
    return text + "\n";
  }

  // BLEU and chrF are objects, with how they were counted.
  static double number(const io::Json& score) {
    return (score.is_object() ? score.at("score") : score).get<double>();
  }

  struct Score {
    const char *key, *name;
    int digits;
  };
  static constexpr Score kScores[] = {{"loss", "loss", 4},
                                      {"perplexity", "perplexity", 4},
                                      {"bits_per_byte", "bits per byte", 4},
                                      {"accuracy", "accuracy", 4},
                                      {"exact_match", "exact match", 4},
                                      {"bleu", "BLEU", 2},
                                      {"chrf", "chrF", 2}};
};

}  // namespace

Verb quantize_verb() {
  return make_verb<Quantize>(
      "quantize", "store a model's weights in fewer bits", "-m DIR -o DIR --type q8_0",
      "bf16   2 bytes a weight; inputs of products are rounded to bfloat16 as well\n"
      "f16    2 bytes a weight; numbers beyond 65,504 become infinite\n"
      "q8_0   blocks of 32 weights of a row: 8-bit integers and a scale; inputs likewise\n"
      "q4     blocks of 32: 4-bit integers, a scale and a minimum; inputs as for q8_0\n"
      "What is written runs with every verb that reads models, but it cannot be trained: keep the\n"
      "model that it was made of. Norms, biases and small tensors stay float32.");
}

}  // namespace refrain::cli

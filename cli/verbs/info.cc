// What a model directory holds.
#include <algorithm>

#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "refrain/autoencoder/word_autoencoder.h"
#include "refrain/formats/native.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/model/parameters/parameter_groups.h"

namespace refrain::cli {
namespace {

struct Info {
  std::string model;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, kModelHelp);
    v("json", json, "print JSON");
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    io::Json description;
    if (Autoencoder::is_model(model)) {
      description = describe(WordAutoencoder::load(model));
    } else {
      description = describe(*load_as_stored(model));
    }
    print(json ? io::to_text(description) : as_text(description));
    return 0;
  }

  static io::Json describe(const WordAutoencoder& loaded) {
    io::Json all;
    AutoencoderConfig shape = loaded.model->config();
    all["config"] = {{"width", shape.width}};
    shape.visit([&](const char* name, auto& field, const char*) { all["config"][name] = field; });
    std::map<std::string, int64_t> groups;
    loaded.model->parameters().visit([&](const ParamSpec& spec, Param&) {
      groups[spec.name.substr(0, spec.name.find('.'))] += spec.size();
    });
    for (const auto& [name, size] : groups) all["parameters"][name] = size;
    const int64_t count = loaded.model->parameters().count();
    all["parameters"]["all"] = count;
    all["bytes"] = count * static_cast<int64_t>(sizeof(float));
    all["words"] = loaded.words.size();
    all["task"] = "reconstruct";
    return all;
  }

  io::Json describe(LanguageModel& loaded) const {
    io::Json all;
    all["model_type"] = io::read_json(model + "/config.json").at("model_type");
    io::Json& config = all["config"];
    ModelConfig shape = loaded.config();
    shape.pattern = shape.full_pattern();
    shape.visit([&](const char* name, auto& field, const char*) {
      if (has_setting(shape, name)) config[name] = field;
    });
    const SettingMap mixers = shape.mixer_settings();
    for (const auto& [name, value] : mixers.values()) config[name] = value;

    std::map<std::string, int64_t> groups;
    std::vector<int64_t> blocks(static_cast<size_t>(shape.layers));
    loaded.parameters().visit([&](const ParamSpec& spec, Param&) {
      groups[group_of(spec.name)] += spec.size();
      constexpr std::string_view kBlocks = "layers.";
      if (spec.name.starts_with(kBlocks))
        blocks[std::stoul(spec.name.substr(kBlocks.size()))] += spec.size();
    });
    for (const auto& [name, size] : groups) all["parameters"][name] = size;
    all["parameters"]["all"] = loaded.parameters().count();
    all["block_parameters"] = blocks;
    all["storage"] = kernels::name_of(loaded.parameters().storage());
    all["bytes"] = loaded.parameters().bytes();
    const auto state_bytes = [&](int64_t tokens) {
      size_t bytes = 0;
      for (int64_t l = 0; l < shape.layers; ++l) bytes += loaded.state_bytes(l, tokens);
      return bytes;
    };
    // In the long run: a window's ring grows at first.
    all["state_bytes_per_token"] = (state_bytes(2 * shape.context) - state_bytes(shape.context)) /
                                   static_cast<size_t>(shape.context);
    all["state_bytes_at_context"] = state_bytes(shape.context);
    if (has_tokenizer(model)) {
      const text::Tokenizer tokenizer = load_tokenizer(model);
      all["tokenizer"] = {{"kind", tokenizer.kind()}, {"tokens", tokenizer.vocab_size()}};
    }
    if (const auto task = data::read_task(model)) all["task"] = data::to_json(*task);
    return all;
  }

  static std::string as_text(const io::Json& description) {
    std::string text;
    const auto add = [&](const std::string& name, const io::Json& value) {
      text += fmt::format("{:<32} {}\n", name,
                          value.is_string() ? value.get<std::string>() : io::to_line(value));
    };
    for (const auto& [name, value] : description.items()) {
      if (!value.is_object()) {
        add(name, value);
        continue;
      }
      text += name + "\n";
      for (const auto& [inner, of_inner] : value.items()) add("  " + inner, of_inner);
    }
    return text;
  }
};

}  // namespace

Verb info_verb() {
  return make_verb<Info>("info", "tell a model's settings, size and memory", "-m DIR [--json]");
}

}  // namespace refrain::cli

#include "refrain/formats/llama2c.h"

#include <array>
#include <map>
#include <span>
#include <string_view>

#include "refrain/base/error.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/io/input_file.h"
#include "refrain/mixers/attention/attention.h"

namespace refrain {
namespace {

constexpr int32_t kLaterVersions = 0x616b3432;  // "ak42": what files of version 1 on begin with

constexpr std::array kFields = {"dim",      "hidden_dim", "layers", "heads",
                                "kv_heads", "vocab",      "context"};
constexpr size_t kVocab = 5;
using Header = std::array<int32_t, kFields.size()>;

ModelConfig to_config(const Header& header) {
  for (size_t i = 0; i < header.size(); ++i)
    if (header[i] < 1 && (i != kVocab || header[i] == 0))
      throw_error("header: {}: expected a positive number, found {}", kFields[i], header[i]);
  ModelConfig c;
  c.d_model = header[0];
  c.d_ff = header[1];
  c.layers = header[2];
  c.heads = header[3];
  c.kv_heads = header[4];
  c.vocab_size = std::abs(int64_t{header[kVocab]});
  c.context = header[6];
  c.tie_embeddings = header[kVocab] > 0;
  c.rms_norm_eps = 1e-5;
  c.pattern = "attention";
  const AttentionConfig attention{.rope_theta = 10000, .rope_pairing = "half"};
  c.resolve();
  c.mixers.assign(static_cast<size_t>(c.layers), {c.pattern, attention});
  return c;
}

// Bytes of the whole file. resolve() has bounded the sizes: nothing overflows.
int64_t file_bytes(const ModelConfig& c) {
  const int64_t D = c.d_model, kv_width = c.kv_heads * c.head_dim;
  const int64_t layer = 2 * D + 2 * D * D + 2 * kv_width * D + 3 * D * c.d_ff;
  const int64_t matrices = c.tie_embeddings ? 1 : 2;
  const int64_t floats =
      matrices * c.vocab_size * D + c.layers * layer + D + c.context * c.head_dim;
  return static_cast<int64_t>(sizeof(Header) + sizeof(float) * static_cast<size_t>(floats));
}

// Takes the file's tensors one after another.
class Reader {
 public:
  Reader(const io::InputFile& file, const ModelConfig& config, LanguageModel& model)
      : file_(file), config_(config) {
    for (const auto& [name, shape, w, g] : model.parameters().file_tensors()) tensors_[name] = w;
  }

  void read(const std::string& name) {
    const Tensor to = tensors_.at(name);
    read_floats(to.data, to.size());
  }
  void read_layers(const std::string& name) {
    for (int64_t l = 0; l < config_.layers; ++l) read(in_layer(l, name));
  }
  // Row 2i + k of a head goes to its row i + k * d/2.
  void read_layers_rotary(const std::string& name) {
    const int64_t half = config_.head_dim / 2;
    for (int64_t l = 0; l < config_.layers; ++l) {
      const Tensor to = tensors_.at(in_layer(l, name));
      for (int64_t head = 0; head < to.rows(); head += config_.head_dim)
        for (int64_t i = 0; i < half; ++i)
          for (int64_t k = 0; k < 2; ++k) read_floats(to.row(head + i + k * half), to.cols());
    }
  }
  void skip(int64_t floats) { at_ += static_cast<size_t>(floats) * sizeof(float); }
  bool at_end() const { return at_ == file_.size(); }

 private:
  static std::string in_layer(int64_t l, const std::string& name) {
    return fmt::format("layers.{}.{}", l, name);
  }
  void read_floats(float* to, int64_t floats) {
    file_.read(at_, std::as_writable_bytes(std::span(to, static_cast<size_t>(floats))));
    skip(floats);
  }

  const io::InputFile& file_;
  size_t at_ = sizeof(Header);
  const ModelConfig& config_;
  std::map<std::string, Tensor> tensors_;
};

std::unique_ptr<LanguageModel> load(const io::InputFile& file) {
  Header header;
  if (file.size() < sizeof(header))
    throw_error("not a llama2.c model: expected a header of {} bytes, found {} bytes",
                sizeof(header), file.size());
  file.read(0, std::as_writable_bytes(std::span(header)));
  if (header[0] == kLaterVersions)
    throw_error("expected a llama2.c model of version 0, found version {}", header[1]);
  const ModelConfig config = to_config(header);
  if (const int64_t expected = file_bytes(config); std::cmp_not_equal(file.size(), expected))
    throw_error("expected {} bytes for the sizes in its header, found {}", expected, file.size());

  auto model = std::make_unique<LanguageModel>(config);
  Reader in(file, config, *model);
  in.read("embedding.weight");
  in.read_layers("mixer_norm.weight");
  in.read_layers_rotary("mixer.q_proj.weight");
  in.read_layers_rotary("mixer.k_proj.weight");
  in.read_layers("mixer.v_proj.weight");
  in.read_layers("mixer.o_proj.weight");
  in.read_layers("feed_forward_norm.weight");
  in.read_layers("feed_forward.gate_proj.weight");
  in.read_layers("feed_forward.down_proj.weight");
  in.read_layers("feed_forward.up_proj.weight");
  in.read("norm.weight");
  in.skip(config.context * config.head_dim);
  if (!config.tie_embeddings) in.read("head.weight");
  REFRAIN_CHECK(in.at_end());
  return model;
}

}  // namespace

std::unique_ptr<LanguageModel> load_llama2c(const std::string& path) {
  const io::InputFile file(path);
  try {
    return load(file);
  } catch (const Error& error) {
    if (std::string_view(error.what()).starts_with(path)) throw;  // of reading the file
    throw_error("{}: {}", path, error.what());
  }
}

}  // namespace refrain

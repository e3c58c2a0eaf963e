#include "refrain/formats/torch_cells.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/io/json.h"
#include "refrain/io/safetensors.h"
#include "refrain/kernels/sequence/recurrent.h"

namespace refrain {
namespace {

using io::TensorInfo;

constexpr std::array<std::string_view, 7> kOutputs = {"decoder", "head",   "lm_head", "fc",
                                                      "out",     "output", "linear"};
constexpr std::array<std::string_view, 4> kCellParts = {"weight_ih", "weight_hh", "bias_ih",
                                                        "bias_hh"};

// "encoder.rnn.weight_ih_l0" -> "encoder.rnn", "weight_ih_l0"
std::pair<std::string_view, std::string_view> split_name(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == name.npos) return {"", name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

bool is_cell_tensor(std::string_view leaf) {
  return std::any_of(kCellParts.begin(), kCellParts.end(), [&](std::string_view part) {
    return leaf.starts_with(part) && leaf.substr(part.size()).starts_with("_l");
  });
}

bool is_embedding(std::string_view module) {
  return module == "encoder" || module.find("emb") != module.npos;
}

bool is_output(std::string_view module) {
  return std::find(kOutputs.begin(), kOutputs.end(), module) != kOutputs.end();
}

// The tensors of a file, by the parts they play.
class Parts {
 public:
  explicit Parts(const io::Safetensors& file) {
    for (const TensorInfo& info : file.tensors()) place(info);
    if (!embedding_) throw_error("expected an embedding (emb.weight), found none");
    if (!output_) throw_error("expected an output (decoder.weight), found none");
    if (!cell("weight_ih", 0)) throw_error("expected a recurrent layer (weight_ih_l0), found none");
  }

  const TensorInfo& embedding() const { return *embedding_; }
  const TensorInfo& output() const { return *output_; }
  const TensorInfo* output_bias() const { return output_bias_; }
  // What is called <part>_l<layer>; null when absent.
  const TensorInfo* cell(std::string_view part, int64_t layer) const {
    const auto it = cells_.find(fmt::format("{}_l{}", part, layer));
    return it == cells_.end() ? nullptr : it->second;
  }
  int64_t layers() const {
    int64_t count = 0;
    while (cell("weight_ih", count)) ++count;
    return count;
  }
  const std::map<std::string, const TensorInfo*>& cells() const { return cells_; }

  [[noreturn]] static void refuse(const TensorInfo& info) {
    const std::string_view leaf = split_name(info.name).second;
    if (leaf.ends_with("_reverse"))
      throw_error("{}: expected one direction, found a bidirectional layer", io::quote(info.name));
    if (leaf.starts_with("weight_hr_l"))
      throw_error("{}: expected a layer without projection, found one (proj_size)",
                  io::quote(info.name));
    throw_error("{}: expected no tensor of this name", io::quote(info.name));
  }

 private:
  static void once(const TensorInfo*& slot, const TensorInfo& info, const char* what) {
    if (slot)
      throw_error("expected one {}, found {} and {}", what, io::quote(slot->name),
                  io::quote(info.name));
    slot = &info;
  }

  void place(const TensorInfo& info) {
    if (info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F16" && info.dtype != "F64")
      throw_error("{}: expected F32, BF16, F16 or F64, found {}", io::quote(info.name), info.dtype);
    if (std::find(info.shape.begin(), info.shape.end(), 0) != info.shape.end())
      throw_error("{}: expected numbers, found none", io::quote(info.name));
    const auto [prefix, leaf] = split_name(info.name);
    const std::string_view module = split_name(prefix).second;
    if (is_cell_tensor(leaf) && !leaf.ends_with("_reverse")) {
      if (!cells_.empty() && split_name(cells_.begin()->second->name).first != prefix)
        throw_error("expected one recurrent module, found {} and {}",
                    io::quote(cells_.begin()->second->name), io::quote(info.name));
      cells_[std::string(leaf)] = &info;
    } else if (leaf == "weight" && is_embedding(module)) {
      once(embedding_, info, "embedding");
    } else if (leaf == "weight" && is_output(module)) {
      once(output_, info, "output");
    } else if (leaf == "bias" && is_output(module)) {
      once(output_bias_, info, "output's bias");
    } else {
      refuse(info);
    }
  }

  const TensorInfo* embedding_ = nullptr;
  const TensorInfo* output_ = nullptr;
  const TensorInfo* output_bias_ = nullptr;
  std::map<std::string, const TensorInfo*> cells_;
};

void expect_shape(const TensorInfo& info, const std::vector<int64_t>& shape) {
  if (info.shape != shape)
    throw_error("{}: expected shape [{}], found [{}]", io::quote(info.name), fmt::join(shape, ", "),
                fmt::join(info.shape, ", "));
}

int64_t columns(const TensorInfo& info) {
  if (info.shape.size() != 2)
    throw_error("{}: expected a matrix, found {} dimensions", io::quote(info.name),
                info.shape.size());
  return info.shape[1];
}

struct Sizes {
  int64_t V, E, H, L;
  int64_t D() const { return std::max(E, H); }
};

Sizes check(const Parts& parts, kernels::Cell cell) {
  const int64_t E = columns(parts.embedding()), H = columns(parts.output());
  const Sizes s{parts.embedding().shape[0], E, H, parts.layers()};
  const int64_t G = kernels::gates_of(cell);
  const bool biases = parts.cell("bias_ih", 0) || parts.cell("bias_hh", 0);
  auto left = parts.cells();
  expect_shape(parts.output(), {s.V, s.H});
  if (parts.output_bias()) expect_shape(*parts.output_bias(), {s.V});
  for (int64_t l = 0; l < s.L; ++l)
    for (const std::string_view part : kCellParts) {
      const bool is_weight = part.starts_with("weight");
      if (!is_weight && !biases) continue;
      const TensorInfo* info = parts.cell(part, l);
      if (!info) throw_error("\"{}_l{}\": missing", part, l);
      left.erase(fmt::format("{}_l{}", part, l));
      std::vector<int64_t> shape = {G * s.H};
      if (is_weight) shape.push_back(part == "weight_ih" && l == 0 ? s.E : s.H);
      expect_shape(*info, shape);
    }
  if (!left.empty()) Parts::refuse(*left.begin()->second);
  return s;
}

std::unique_ptr<LanguageModel> empty_model(const Sizes& s, const std::string& kind,
                                           int64_t in_file) {
  ModelConfig config;
  config.vocab_size = s.V;
  config.d_model = s.D();
  config.layers = s.L;
  config.heads = 1;
  config.pattern = kind;
  config.block = "bare";
  SettingMap settings;
  settings.set(kind + ".hidden", std::to_string(s.H == s.D() ? 0 : s.H));
  config.resolve(settings);
  // Every layer becomes as wide as the embedding.
  constexpr int64_t kMostTimes = 8;
  if (const int64_t needed = count_weights(config); needed / kMostTimes > in_file)
    throw_error("expected a model of at most {} times the {} numbers of the file, found one of {}",
                kMostTimes, in_file, needed);
  return std::make_unique<LanguageModel>(config);
}

void fill(LanguageModel& model, const io::Safetensors& file, const Parts& parts, const Sizes& s) {
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, shape, w, g] : model.parameters().file_tensors()) tensors[name] = w;
  std::vector<float> values;
  // Rows that are shorter in the file end in zeros.
  const auto put = [&](const TensorInfo* info, const std::string& name) {
    if (!info) return;  // biases of zeros
    const Tensor to = tensors.at(name);
    values.resize(static_cast<size_t>(info->size()));
    file.read(*info, values);
    const int64_t width = info->shape.back();
    for (int64_t row = 0; row < info->size() / width; ++row)
      std::copy_n(values.data() + row * width, width, to.row(row));
  };
  put(&parts.embedding(), "embedding.weight");
  put(&parts.output(), "head.weight");
  put(parts.output_bias(), "head.bias");
  for (int64_t l = 0; l < s.L; ++l) {
    const std::string block = fmt::format("layers.{}.mixer.", l);
    for (const std::string_view part : kCellParts)
      put(parts.cell(part, l), fmt::format("{}{}_l0", block, part));
    if (s.H == s.D()) continue;
    const Tensor o = tensors.at(block + "o_proj.weight");
    for (int64_t j = 0; j < s.H; ++j) o.row(j)[j] = 1;
  }
}

}  // namespace

std::unique_ptr<LanguageModel> load_torch_cells(const std::string& path, const std::string& kind) {
  const io::Safetensors file(path);
  std::unique_ptr<LanguageModel> model;
  try {
    const Parts parts(file);
    const Sizes sizes = check(parts, kernels::cell_named(kind).value());
    int64_t in_file = 0;
    for (const TensorInfo& info : file.tensors()) in_file += info.size();
    model = empty_model(sizes, kind, in_file);
    fill(*model, file, parts, sizes);
  } catch (const Error& error) {
    throw_error("{}: {}", path, error.what());
  }
  return model;
}

}  // namespace refrain

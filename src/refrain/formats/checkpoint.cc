#include "refrain/formats/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/base/error.h"
#include "refrain/formats/family.h"
#include "refrain/formats/gguf/gguf.h"
#include "refrain/formats/weight_files.h"
#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/block.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kEmbedding = "embedding.weight";
constexpr const char* kHead = "head.weight";

std::string to_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void check(const WeightFiles::Entry& entry, const std::vector<int64_t>& shape) {
  const std::string where = fmt::format("{}: {}", entry.file->path(), io::quote(entry.info->name));
  if (entry.info->shape != shape)
    throw_error("{}: expected shape {}, found {}", where, to_text(shape),
                to_text(entry.info->shape));
  if (!is_readable(entry.info->dtype))
    throw_error("{}: expected F32, BF16, F16 or F64, found {}", where, entry.info->dtype);
}

// Where each of a model's parameters is in the files.
struct Places {
  struct Part {
    WeightFiles::Entry entry;
    bool transposed;
  };
  std::vector<std::vector<Part>> parameters;  // in the order of the model's; the parts of each
  WeightFiles::Entry second;                  // a tied model's head, beside its embedding
};

// The model's shapes suffice: it need not have taken memory.
Places find_tensors(const WeightFiles& files, const LanguageModel& model) {
  Places places;
  std::set<const io::TensorInfo*> used;
  const TensorLayout& layout = files.layout();
  const auto find = [&](const FileTensor& tensor) {
    const WeightFiles::Entry entry = files.find(tensor.name);
    if (entry.info) {
      check(entry, tensor.shape);
      used.insert(entry.info);
    }
    return entry;
  };
  for (const auto& [spec, param, offset, gradient] : model.parameters().entries()) {
    std::vector<Places::Part>& parts = places.parameters.emplace_back();
    for (const FileTensor& tensor : layout.tensors_of(spec)) {
      WeightFiles::Entry entry = find(tensor);
      if (spec.name == kEmbedding && model.config().tie_embeddings) {
        // Either stands for both.
        ParamSpec of_head = spec;
        of_head.name = kHead;
        const WeightFiles::Entry head = find(layout.tensors_of(of_head).front());
        if (head.info) (entry.info ? places.second : entry) = head;
      }
      if (!entry.info)
        throw_error("{}: {}: missing, expected a tensor of shape {}", files.path(),
                    io::quote(tensor.name), to_text(tensor.shape));
      parts.push_back({entry, tensor.transposed});
    }
  }
  files.each([&](const WeightFiles::Entry& entry) {
    if (!used.contains(entry.info) && !layout.is_redundant(entry.info->name))
      throw_error("{}: {}: expected no tensor of this name", entry.file->path(),
                  io::quote(entry.info->name));
  });
  return places;
}

// Elements of a tensor that are in memory at a time beside the model, or a row.
constexpr int64_t kPart = int64_t{1} << 20;

void check_equal(const WeightFiles::Entry& a, const WeightFiles::Entry& b) {
  std::vector<float> of_a, of_b;
  for (int64_t at = 0; at < a.info->size(); at += kPart) {
    of_a.resize(static_cast<size_t>(std::min(kPart, a.info->size() - at)));
    of_b.resize(of_a.size());
    a.file->read(*a.info, at, of_a);
    b.file->read(*b.info, at, of_b);
    if (std::memcmp(of_a.data(), of_b.data(), of_a.size() * sizeof(float)) != 0)
      throw_error("{}: {}: expected the values of {}, to which config.json ties it, found others",
                  b.file->path(), io::quote(b.info->name), a.info->name);
  }
}

// Entries [first, first + to.dim[0]) of the first dimension of a tensor whose parts are those of
// `parts`, one after another.
void read_rows(std::span<const Places::Part> parts, int64_t first, Tensor to) {
  int64_t done = 0;
  const int64_t wanted = to.dim[0], width = to.size() / std::max<int64_t>(1, wanted);
  for (const auto& [entry, transposed] : parts) {
    const int64_t rows = entry.info->shape[0];
    if (first < rows && done < wanted) {
      const Tensor some = to.slice(done, std::min(rows - first, wanted - done));
      entry.file->read(*entry.info, first * width, {some.data, static_cast<size_t>(some.size())});
      done += some.dim[0];
    }
    first = std::max<int64_t>(0, first - rows);
  }
}

// to [out, in] from a tensor [in, out].
void read_transposed(const WeightFiles::Entry& entry, Tensor to) {
  const int64_t in = entry.info->shape[0], out = entry.info->shape[1];
  const int64_t step = std::max<int64_t>(1, kPart / std::max<int64_t>(1, out));
  std::vector<float> some;
  for (int64_t first = 0; first < in; first += step) {
    const int64_t n = std::min(step, in - first);
    some.resize(static_cast<size_t>(n * out));
    entry.file->read(*entry.info, first * out, some);
    for (int64_t o = 0; o < out; ++o)
      for (int64_t i = 0; i < n; ++i) to.row(o)[first + i] = some[static_cast<size_t>(i * out + o)];
  }
}

void read_packed(ParameterStore& store, const ParameterStore::Entry& entry,
                 std::span<const Places::Part> parts) {
  const int64_t rows = entry.spec.shape[0], columns = entry.spec.shape[1];
  const int64_t panels = std::max<int64_t>(1, kPart / columns / kernels::kWeightPanel);
  const bool transposed = parts.front().transposed;  // then it is read whole
  const int64_t step = transposed ? rows : panels * kernels::kWeightPanel;
  std::vector<float> some;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t n = std::min(step, rows - first);
    some.resize(static_cast<size_t>(n * columns));
    const Tensor to(some.data(), {n, columns});
    transposed ? read_transposed(parts.front().entry, to) : read_rows(parts, first, to);
    store.set_rows(entry, first, to);
  }
}

void read(const Places& places, LanguageModel& model) {
  ParameterStore& store = model.parameters();
  size_t next = 0;
  for (const ParameterStore::Entry& entry : store.entries()) {
    const std::span<const Places::Part> parts = places.parameters[next++];
    if (entry.spec.name == kEmbedding && places.second.info)
      check_equal(parts.front().entry, places.second);
    if (entry.is_packed())
      read_packed(store, entry, parts);
    else if (parts.front().transposed)
      read_transposed(parts.front().entry, entry.param->w);
    else
      read_rows(parts, 0, entry.param->w);
  }
}

// As a file of the family has them. The model must outlive them.
std::vector<io::TensorToWrite> tensors_to_write(const LanguageModel& model,
                                                std::string_view dtype) {
  const TensorLayout& layout = *family_of(model.config()).tensors;
  std::vector<io::TensorToWrite> all;
  for (const ParameterStore::Entry& entry : model.parameters().entries()) {
    const ConstTensor w = entry.param->w;
    const float* rows = w.data;
    for (const FileTensor& tensor : layout.tensors_of(entry.spec)) {
      io::TensorToWrite to{.name = tensor.name, .shape = tensor.shape, .dtype = dtype};
      if (tensor.transposed) {
        to.make = [w] {
          std::vector<float> numbers(static_cast<size_t>(w.size()));
          auto at = numbers.begin();
          for (int64_t i = 0; i < w.cols(); ++i)
            for (int64_t o = 0; o < w.rows(); ++o) *at++ = w.row(o)[i];
          return numbers;
        };
      } else {
        to.data = rows;
        rows += std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1},
                                std::multiplies<>());
      }
      all.push_back(std::move(to));
    }
  }
  return all;
}

}  // namespace

int64_t count_weights(const ModelConfig& config) {
  const int64_t matrices = config.tie_embeddings ? 1 : 2;
  int64_t sum = matrices * config.vocab_size * config.d_model;
  if (config.learned_positions) sum += config.context * config.d_model;
  MixerDims dims = config.mixer_dims();
  dims.context = 1;                      // weights do not depend on it, tables that mixers make do
  std::map<std::string, int64_t> known;  // by the mixer as text: a deep stack has many alike
  for (const MixerConfig& mixer : config.mixers) {
    SettingMap settings;
    put_mixer_settings(mixer, settings);
    std::string key = mixer.kind();
    for (const auto& [name, value] : settings.values()) key += ' ' + value;
    const auto [it, is_new] = known.try_emplace(key, 0);
    if (is_new)
      Block(make_mixer(mixer, dims), config, 0).visit([&](const ParamSpec& spec, Param&) {
        it->second += spec.size();
      });
    sum += it->second;
  }
  return sum;
}

void save_weights(const std::string& path, const LanguageModel& model) {
  io::write_safetensors(path, tensors_to_write(model, "F32"), {{"format", "pt"}});
}

void save_config(const std::string& directory, const LanguageModel& model,
                 const SpecialTokens& special) {
  io::write_file(directory + "/config.json", io::to_text(to_json({model.config(), special})));
  io::write_file(directory + "/generation_config.json", io::to_text(to_json(special)));
}

void save_model(const std::string& directory, const LanguageModel& model,
                const SpecialTokens& special, const WeightFormat& format) {
  constexpr std::array<std::array<const char*, 3>, 3> kTypes = {
      {{"f32", "F32", "float32"}, {"bf16", "BF16", "bfloat16"}, {"f16", "F16", "float16"}}};
  const auto type =
      std::ranges::find_if(kTypes, [&](const auto& names) { return names[0] == format.type; });
  if (type == kTypes.end())
    throw_error("type: expected f32, bf16 or f16, found {}", io::quote(format.type));
  if (format.largest_file < 1)
    throw_error("largest_file: expected 1 byte or more, found {}", format.largest_file);
  Json config = to_json({model.config(), special});
  // Other programs take the type from here. Ours do from the file of the weights.
  if (config.contains("dtype")) config["dtype"] = (*type)[2];
  io::write_file(directory + "/config.json", io::to_text(config));
  io::write_file(directory + "/generation_config.json", io::to_text(to_json(special)));
  write_weight_files(directory, tensors_to_write(model, (*type)[1]), format.largest_file);
}

void save_packed_model(const std::string& directory, const LanguageModel& model,
                       const SpecialTokens& special) {
  save_config(directory, model, special);
  io::write_file(
      directory + "/config.json",
      io::to_text(with_storage(to_json({model.config(), special}), model.parameters().storage())));
  model.parameters().save_packed(directory + "/model.safetensors");
}

void load_weights(const std::string& directory, LanguageModel& model) {
  if (io::is_gguf(directory)) return load_gguf_weights(directory, model);
  const WeightFiles files(directory);
  if (const io::Safetensors* packed = files.packed())
    throw_error(
        "{}: expected weights of float32, bfloat16 or float16 as rows, found a quantised "
        "model's ({})",
        packed->path(), kernels::name_of(*packed_storage_of(*packed)));
  read(find_tensors(files, model), model);
}

namespace {

// `pack`: in what type of storage, if it is not packed already; nothing: as rows.
std::unique_ptr<LanguageModel> load(const std::string& directory, SpecialTokens* special,
                                    const Notes& notes, std::optional<Storage> pack) {
  if (io::is_gguf(directory)) return load_gguf(directory, special, notes, pack);
  const ModelDescription d = read_model_config(directory, notes);
  const WeightFiles files(directory);
  const io::Safetensors* packed = files.packed();
  std::unique_ptr<LanguageModel> model;
  try {
    // A little too little is told better by the name of what is missing.
    const int64_t needed = count_weights(d.config), held = files.weights();
    if (needed / 2 > held)
      throw_error("expected the settings of a model of {} weights, as its files hold, found {}",
                  held, needed);
    model = std::make_unique<LanguageModel>(d.config, LanguageModel::Memory::kLater);
  } catch (const Error& error) {
    throw_error("{}/config.json: {}", directory, error.what());
  }
  if (packed) {
    model->parameters().load_packed(*packed);
  } else {
    const Places places = find_tensors(files, *model);
    pack ? model->parameters().allocate_packed(*pack) : model->parameters().allocate();
    read(places, *model);
  }
  if (model->parameters().is_packed()) model->prepare_inference();
  if (special) *special = d.special;
  return model;
}

}  // namespace

std::unique_ptr<LanguageModel> load_model(const std::string& directory, SpecialTokens* special,
                                          const Notes& notes) {
  return load(directory, special, notes, std::nullopt);
}

std::unique_ptr<LanguageModel> load_packed_model(const std::string& directory,
                                                 SpecialTokens* special, const Notes& notes,
                                                 Storage type) {
  return load(directory, special, notes, type);
}

}  // namespace refrain

#include "refrain/formats/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/base/error.h"
#include "refrain/formats/family.h"
#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/block.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kEmbedding = "embedding.weight";
constexpr const char* kHead = "head.weight";

// Of the index of a large model's files: many times what the deepest have.
constexpr size_t kMaxIndexBytes = size_t{1} << 22;
constexpr size_t kMaxIndexValues = size_t{1} << 16;  // tensors that it names

std::string to_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool is_readable(const std::string_view dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16" || dtype == "F64";
}

// The tensors of a directory, whether they lie in one file or in several.
class WeightFiles {
 public:
  struct Entry {
    const io::Safetensors* file = nullptr;
    const io::TensorInfo* info = nullptr;
  };

  explicit WeightFiles(const std::string& directory) {
    path_ = directory + "/model.safetensors";
    if (io::exists(path_)) {
      add(path_);
    } else {
      const std::string index = path_ + ".index.json";
      if (!io::exists(index))
        throw_error("{}: expected model.safetensors or model.safetensors.index.json, found neither",
                    directory);
      path_ = index;
      read_index(directory);
    }
    each([&](const Entry& entry) {
      is_stack_ &= !entry.info->name.starts_with(kStack);
      is_ours_ |= entry.info->name == kEmbedding || entry.info->name == kHead;
    });
  }

  const std::string& path() const { return path_; }

  // What one of our names is in these files, of a whole model. Files of our own of former versions
  // have the names of Llamas.
  std::string name_of(std::string_view ours) const {
    return is_ours_ ? std::string(ours) : llama_name(ours);
  }

  // `transformers` leaves out "model." where it saves the stack alone. `info` is null when it is
  // absent.
  Entry find(std::string_view ours) const {
    const std::string name = name_of(ours);
    const bool shorter = is_stack_ && name.starts_with(kStack);
    const std::string in_file = shorter ? name.substr(kStack.size()) : name;
    for (const io::Safetensors& file : files_)
      if (const io::TensorInfo* info = file.find(in_file)) return {&file, info};
    return {};
  }

  template <class F>
  void each(F&& f) const {
    for (const io::Safetensors& file : files_)
      for (const io::TensorInfo& info : file.tensors()) f(Entry{&file, &info});
  }

  // The file, if its weights are packed.
  const io::Safetensors* packed() const {
    return files_.size() == 1 && packed_storage_of(files_.front()) ? &files_.front() : nullptr;
  }

  // The numbers that can be weights; of packed ones, as many as their bytes could be at most.
  int64_t weights() const {
    const int64_t of_byte = packed() ? 2 : 0;
    int64_t sum = 0;
    each([&](const Entry& entry) {
      if (is_readable(entry.info->dtype)) sum += entry.info->size();
      if (entry.info->dtype == "U8") sum += of_byte * entry.info->size();
    });
    return sum;
  }

 private:
  static constexpr std::string_view kStack = "model.";

  const io::Safetensors& add(const std::string& path) { return files_.emplace_back(path); }

  // The index maps every tensor to the file it is in.
  void read_index(const std::string& directory) {
    Json index = Json::object();
    io::each_member(io::read_file(path_, kMaxIndexBytes), path_, kMaxIndexValues,
                    [&](const std::string& key, Json&& value) {
                      if (key != "weight_map") return;
                      if (index.contains(key))
                        throw_error("{}: key {} twice in one object", path_, io::quote(key));
                      index[key] = std::move(value);
                    });
    const Json& map = io::member(index, "weight_map", path_);
    if (!map.is_object())
      throw_error("{}: weight_map: expected an object, found {}", path_, io::describe(map));
    std::map<std::string, std::set<std::string>> listed;  // tensors by file
    for (const auto& [tensor, file] : map.items()) {
      const std::string name = file.is_string() ? file.get<std::string>() : "";
      // A name, not a way out of the directory.
      if (!name.ends_with(".safetensors") || name.find('/') != name.npos ||
          name.find('\0') != name.npos)
        throw_error("{}: weight_map: {}: expected the name of a .safetensors file, found {}", path_,
                    io::quote(tensor), io::describe(file));
      listed[name].insert(tensor);
    }
    for (const auto& [name, tensors] : listed) {
      const io::Safetensors& file = add(directory + "/" + name);
      for (const std::string& tensor : tensors)
        if (!file.find(tensor))
          throw_error("{}: {}: missing; {} says that it is here", file.path(), io::quote(tensor),
                      path_);
      for (const io::TensorInfo& info : file.tensors())
        if (!tensors.contains(info.name))
          throw_error("{}: {}: {} does not say that it is here", file.path(), io::quote(info.name),
                      path_);
    }
  }

  std::string path_;
  std::deque<io::Safetensors> files_;  // entries point into them
  bool is_stack_ = true;               // no name begins with "model."
  bool is_ours_ = false;               // names are ours
};

// "model.rotary_emb.inv_freq" or "model.layers.<number>.self_attn.rotary_emb.inv_freq": versions of
// transformers saved what follows from rope_theta.
bool is_rotary_table(std::string_view name) {
  constexpr std::string_view kStack = "model.", kLayers = "layers.", kAttention = ".self_attn.";
  constexpr std::string_view kTable = "rotary_emb.inv_freq";
  if (name.starts_with(kStack)) name.remove_prefix(kStack.size());
  if (name == kTable) return true;
  if (!name.ends_with(kTable)) return false;
  name.remove_suffix(kTable.size());
  if (name.size() <= kLayers.size() + kAttention.size() || !name.starts_with(kLayers) ||
      !name.ends_with(kAttention))
    return false;
  name.remove_prefix(kLayers.size());
  name.remove_suffix(kAttention.size());
  return name.find_first_not_of("0123456789") == name.npos;
}

void check(const WeightFiles::Entry& entry, const std::vector<int64_t>& shape) {
  const std::string where = fmt::format("{}: {}", entry.file->path(), io::quote(entry.info->name));
  if (entry.info->shape != shape)
    throw_error("{}: expected shape {}, found {}", where, to_text(shape),
                to_text(entry.info->shape));
  if (!is_readable(entry.info->dtype))
    throw_error("{}: expected F32, BF16, F16 or F64, found {}", where, entry.info->dtype);
}

// Where each of a model's tensors is in the files, in the order of ParameterStore::file_tensors().
struct Places {
  std::vector<WeightFiles::Entry> tensors;
  WeightFiles::Entry second;  // a tied model's head, beside its embedding
};

// The model's shapes suffice: it need not have taken memory.
Places find_tensors(const WeightFiles& files, const LanguageModel& model) {
  Places places;
  std::set<const io::TensorInfo*> used;
  const bool tied = model.config().tie_embeddings;
  for (const auto& [name, shape, w, g] : model.parameters().file_tensors()) {
    WeightFiles::Entry entry = files.find(name);
    if (name == kEmbedding && tied) {
      // Either stands for both.
      const WeightFiles::Entry head = files.find(kHead);
      if (head.info) {
        check(head, shape);
        used.insert(head.info);
        (entry.info ? places.second : entry) = head;
      }
    }
    if (!entry.info)
      throw_error("{}: {}: missing, expected a tensor of shape {}", files.path(),
                  io::quote(files.name_of(name)), to_text(shape));
    check(entry, shape);
    used.insert(entry.info);
    places.tensors.push_back(entry);
  }
  files.each([&](const WeightFiles::Entry& entry) {
    if (!used.contains(entry.info) && !is_rotary_table(entry.info->name))
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
void read_rows(std::span<const WeightFiles::Entry> parts, int64_t first, Tensor to) {
  int64_t done = 0;
  const int64_t wanted = to.dim[0], width = to.size() / std::max<int64_t>(1, wanted);
  for (const auto& [file, info] : parts) {
    const int64_t rows = info->shape[0];
    if (first < rows && done < wanted) {
      const Tensor some = to.slice(done, std::min(rows - first, wanted - done));
      file->read(*info, first * width, {some.data, static_cast<size_t>(some.size())});
      done += some.dim[0];
    }
    first = std::max<int64_t>(0, first - rows);
  }
}

void read(const Places& places, LanguageModel& model) {
  ParameterStore& store = model.parameters();
  size_t next = 0;
  std::vector<float> some;
  for (const ParameterStore::Entry& entry : store.entries()) {
    const size_t count = std::max<size_t>(1, entry.spec.parts.size());
    const auto parts = std::span(places.tensors).subspan(next, count);
    next += count;
    if (entry.spec.name == kEmbedding && places.second.info)
      check_equal(parts.front(), places.second);
    if (!entry.is_packed()) {
      read_rows(parts, 0, entry.param->w);
      continue;
    }
    const int64_t rows = entry.spec.shape[0], columns = entry.spec.shape[1];
    const int64_t panels = std::max<int64_t>(1, kPart / columns / kernels::kWeightPanel);
    const int64_t step = panels * kernels::kWeightPanel;
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t n = std::min(step, rows - first);
      some.resize(static_cast<size_t>(n * columns));
      const Tensor to(some.data(), {n, columns});
      read_rows(parts, first, to);
      store.set_rows(entry, first, to);
    }
  }
}

}  // namespace

int64_t count_weights(const ModelConfig& config) {
  const int64_t matrices = config.tie_embeddings ? 1 : 2;
  int64_t sum = matrices * config.vocab_size * config.d_model;
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
  model.parameters().save(path, {{"format", "pt"}},  // transformers insists on it
                          family_of(model.config()).tensor_name);
}

void save_config(const std::string& directory, const LanguageModel& model,
                 const SpecialTokens& special) {
  io::write_file(directory + "/config.json", io::to_text(to_json({model.config(), special})));
  io::write_file(directory + "/generation_config.json", io::to_text(to_json(special)));
}

void save_model(const std::string& directory, const LanguageModel& model,
                const SpecialTokens& special) {
  save_config(directory, model, special);
  save_weights(directory + "/model.safetensors", model);
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

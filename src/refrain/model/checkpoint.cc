#include "refrain/model/checkpoint.h"

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
#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/block.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

std::string to_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::vector<int64_t> shape_of(const Tensor& t) { return {t.dim.begin(), t.dim.begin() + t.rank}; }

// The tensors of a directory, whether they lie in one file or in several.
class WeightFiles {
 public:
  struct Entry {
    const io::Safetensors* file;
    const io::TensorInfo* info;
  };

  explicit WeightFiles(const std::string& directory) {
    path_ = directory + "/model.safetensors";
    if (io::exists(path_)) {
      add(path_);
      return;
    }
    const std::string index = path_ + ".index.json";
    if (!io::exists(index))
      throw_error("{}: expected model.safetensors or model.safetensors.index.json, found neither",
                  directory);
    path_ = index;
    read_index(directory);
  }

  const std::string& path() const { return path_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }

  int64_t elements() const {
    int64_t sum = 0;
    for (const auto& [name, entry] : entries_) sum += entry.info->size();
    return sum;
  }

 private:
  const io::Safetensors& add(const std::string& path) {
    const io::Safetensors& file = files_.emplace_back(path);
    for (const io::TensorInfo& info : file.tensors()) entries_[info.name] = {&file, &info};
    return file;
  }

  // The index maps every tensor to the file it is in.
  void read_index(const std::string& directory) {
    const Json index = io::read_json(path_);
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
  std::map<std::string, Entry> entries_;
};

bool is_readable(const std::string& dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16" || dtype == "F64";
}

// "model.layers.<number>.self_attn.rotary_emb.inv_freq": old versions of transformers saved what
// follows from rope_theta.
bool is_rotary_table(std::string_view name) {
  constexpr std::string_view kBefore = "model.layers.", kAfter = ".self_attn.rotary_emb.inv_freq";
  if (name.size() <= kBefore.size() + kAfter.size() || !name.starts_with(kBefore) ||
      !name.ends_with(kAfter))
    return false;
  name.remove_prefix(kBefore.size());
  name.remove_suffix(kAfter.size());
  return name.find_first_not_of("0123456789") == name.npos;
}

void check(const WeightFiles::Entry& entry, const std::string& name, const Tensor& expected) {
  const std::string where = fmt::format("{}: {}", entry.file->path(), io::quote(name));
  if (entry.info->shape != shape_of(expected))
    throw_error("{}: expected shape {}, found {}", where, to_text(shape_of(expected)),
                to_text(entry.info->shape));
  if (!is_readable(entry.info->dtype))
    throw_error("{}: expected F32, BF16, F16 or F64, found {}", where, entry.info->dtype);
}

void read(const WeightFiles::Entry& entry, const Tensor& to) {
  entry.file->read(*entry.info, {to.data, static_cast<size_t>(to.size())});
}

void load(const WeightFiles& files, LanguageModel& model) {
  std::map<std::string, WeightFiles::Entry> left = files.entries();
  std::vector<std::pair<WeightFiles::Entry, Tensor>> found;
  Tensor embedding;
  visit_file_tensors(model, [&](const std::string& name, const Tensor& to) {
    const auto it = left.find(name);
    if (it == left.end())
      throw_error("{}: {}: missing, expected a tensor of shape {}", files.path(), io::quote(name),
                  to_text(shape_of(to)));
    check(it->second, name, to);
    found.emplace_back(it->second, to);
    left.erase(it);
    if (name == kEmbedding) embedding = to;
  });

  const WeightFiles::Entry* head = nullptr;
  for (const auto& [name, entry] : left) {
    if (is_rotary_table(name)) continue;
    if (name != kHead)
      throw_error("{}: {}: expected no tensor of this name", entry.file->path(), io::quote(name));
    check(entry, name, embedding);
    head = &entry;
  }

  for (const auto& [entry, to] : found) read(entry, to);
  if (!head) return;
  Buffer<float> second(static_cast<size_t>(embedding.size()));
  head->file->read(*head->info, second.span());
  if (std::memcmp(second.data(), embedding.data, second.size() * sizeof(float)) != 0)
    throw_error("{}: \"{}\": expected the values of {}, to which config.json ties it, found others",
                head->file->path(), kHead, kEmbedding);
}

// Weights of the embedding and the blocks, which is nearly all. Takes no memory for them.
int64_t count_weights(const ModelDescription& d) {
  std::map<std::string, int64_t> by_kind;
  int64_t sum = d.config.vocab_size * d.config.d_model;
  MixerShape shape = d.config.mixer_shape();
  shape.context = 1;  // weights do not depend on it, tables that mixers make do
  for (const std::string& kind : d.config.mixers()) {
    const auto [it, is_new] = by_kind.try_emplace(kind, 0);
    int64_t& weights = it->second;
    if (is_new)
      Block(make_mixer(kind, shape, d.mixer_settings), d.config, 0)
          .visit([&](const ParamSpec& spec, Param&) { weights += spec.size(); });
    sum += weights;
  }
  return sum;
}

}  // namespace

void visit_file_tensors(LanguageModel& model,
                        const std::function<void(const std::string&, Tensor)>& visit) {
  model.visit([&](const ParamSpec& spec, Param& param) {
    if (spec.parts.empty()) visit(spec.name, param.w);
    int64_t row = 0;
    for (const ParamPart& part : spec.parts) {
      visit(part.name, param.w.slice(row, part.rows));
      row += part.rows;
    }
    REFRAIN_CHECK(spec.parts.empty() || row == param.w.rows());
  });
}

void save_weights(const std::string& path, LanguageModel& model) {
  std::vector<io::TensorToWrite> tensors;
  visit_file_tensors(model, [&](const std::string& name, const Tensor& t) {
    tensors.push_back({name, shape_of(t), t.data});
  });
  io::write_safetensors(path, tensors, {{"format", "pt"}});  // transformers insists on it
}

void save_config(const std::string& directory, const LanguageModel& model,
                 const SpecialTokens& special) {
  io::write_file(directory + "/config.json",
                 io::to_text(to_json({model.config(), model.mixer_settings(), special})));
  io::write_file(directory + "/generation_config.json", io::to_text(to_json(special)));
}

void save_model(const std::string& directory, LanguageModel& model, const SpecialTokens& special) {
  save_config(directory, model, special);
  save_weights(directory + "/model.safetensors", model);
}

void load_weights(const std::string& directory, LanguageModel& model) {
  load(WeightFiles(directory), model);
}

std::unique_ptr<LanguageModel> load_model(const std::string& directory, SpecialTokens* special,
                                          const Notes& notes) {
  const ModelDescription d = read_model_config(directory, notes);
  const WeightFiles files(directory);
  std::unique_ptr<LanguageModel> model;
  try {
    // A little too little is told better by the name of what is missing.
    const int64_t needed = count_weights(d), held = files.elements();
    if (needed / 2 > held)
      throw_error("expected the settings of a model of {} weights, as its files hold, found {}",
                  held, needed);
    model = std::make_unique<LanguageModel>(d.config, d.mixer_settings);
  } catch (const Error& error) {
    throw_error("{}/config.json: {}", directory, error.what());
  }
  load(files, *model);
  if (special) *special = d.special;
  return model;
}

}  // namespace refrain

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/formats/gguf/blocks.h"
#include "refrain/formats/gguf/gguf.h"
#include "refrain/formats/gguf/names.h"

namespace refrain {
namespace {

using io::GgufType;

// Elements of a tensor that are in memory at a time beside the model, or a row.
constexpr int64_t kPart = int64_t{1} << 20;

std::string to_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Tensors that other programs write and llama.cpp does not compute with, or whose content is read
// as settings.
bool is_table(std::string_view name) {
  return name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd.weight");
}

// Where in the file one of our tensors, or a part of it, stands.
struct Place {
  const io::GgufTensor* tensor;
  bool paired;  // rows stand in another order
};

class Reader {
 public:
  Reader(const io::Gguf& file, const LanguageModel& model)
      : file_(file),
        architecture_(file.get_string("general.architecture")),
        head_dim_(model.config().head_dim) {
    std::set<const io::GgufTensor*> used;
    for (const auto& [name, shape, w, g] : model.parameters().file_tensors()) {
      const std::string gguf = gguf_name(name);
      const io::GgufTensor* tensor = gguf.empty() ? nullptr : file.find_tensor(gguf);
      const std::string where = fmt::format("{}: {}", file.path(), gguf.empty() ? name : gguf);
      if (!tensor) throw_error("{}: missing, expected a tensor of shape {}", where, to_text(shape));
      if (tensor->shape != shape)
        throw_error("{}: expected shape {}, found {}", where, to_text(shape),
                    to_text(tensor->shape));
      if (!is_readable(tensor->type))
        throw_error(
            "{}: expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K, found "
            "{}",
            where, io::gguf_type_info(tensor->type).name);
      used.insert(tensor);
      places_.push_back({tensor, has_paired_rows(architecture_, gguf)});
    }
    for (const io::GgufTensor& tensor : file.tensors())
      if (!used.contains(&tensor) && !is_table(tensor.name))
        throw_error("{}: {}: expected no tensor of this name", file.path(), io::quote(tensor.name));
  }

  // The type in which the parts of a tensor, from place `first` on, keep their numbers.
  Storage storage_of(size_t first, size_t parts) const {
    const auto one = [](GgufType type) {
      switch (type) {
        case GgufType::kF16:
          return Storage::kFloat16;
        case GgufType::kBf16:
          return Storage::kBf16;
        case GgufType::kQ8_0:
          return Storage::kQ8_0;
        case GgufType::kQ4_0:
        case GgufType::kQ4_1:
          return Storage::kQ4;
        default:
          return Storage::kFloat32;
      }
    };
    const Storage type = one(places_[first].tensor->type);
    for (size_t i = 1; i < parts; ++i)
      if (one(places_[first + i].tensor->type) != type) return Storage::kFloat32;
    return type;
  }
  // Where most weights are, or many.
  Storage main_storage() const {
    std::map<Storage, int64_t> sizes;
    for (size_t i = 0; i < places_.size(); ++i)
      if (places_[i].tensor->shape.size() == 2)
        sizes[storage_of(i, 1)] += static_cast<int64_t>(places_[i].tensor->bytes);
    return std::ranges::max_element(sizes, {}, [](const auto& one) { return one.second; })->first;
  }

  void read(ParameterStore& store) const {
    size_t next = 0;
    for (const ParameterStore::Entry& entry : store.entries()) {
      const size_t count = std::max<size_t>(1, entry.spec.parts.size());
      const auto parts = std::span(places_).subspan(next, count);
      if (entry.spec.shape.size() == 1) {
        read_vectors(parts, entry.param->w);
      } else {
        const Storage packed = entry.is_packed() ? entry.param->packed.type : Storage::kFloat32;
        const bool as_stored = storage_of(next, count) == packed;
        if (as_stored && packed == Storage::kQ8_0)
          read_stored<kernels::Q8Block>(parts, entry, store);
        else if (as_stored && packed == Storage::kQ4)
          read_stored<kernels::Q4Block>(parts, entry, store);
        else
          read_matrices(parts, entry, store);
      }
      next += count;
    }
  }

 private:
  // Biases, norms.
  void read_vectors(std::span<const Place> parts, Tensor to) const {
    int64_t first = 0;
    for (const auto& [tensor, paired] : parts) {
      std::vector<std::byte> bytes(tensor->bytes);
      file_.read(*tensor, 0, bytes);
      std::vector<float> values(static_cast<size_t>(tensor->row_size()));
      dequantise(tensor->type, bytes, values);
      for (int64_t i = 0; i < tensor->row_size(); ++i)
        to.data[first + i] = values[static_cast<size_t>(paired ? paired_row(i, head_dim_) : i)];
      first += tensor->row_size();
    }
  }

  // f(type, bytes of a row, its place from `first` on), of the rows [first, first + count) of parts
  // one after another.
  template <class F>
  void each_row(std::span<const Place> parts, int64_t first, int64_t count, F&& f) const {
    std::vector<std::byte> bytes;
    int64_t begin = 0;  // of the part
    for (const auto& [tensor, paired] : parts) {
      const int64_t rows = tensor->shape[0], end = begin + rows;
      const int64_t from = std::max(first, begin), to = std::min(first + count, end);
      const size_t each = tensor->row_bytes();
      if (from < to && !paired) {
        bytes.resize(static_cast<size_t>(to - from) * each);
        file_.read(*tensor, static_cast<size_t>(from - begin) * each, bytes);
        for (int64_t row = from; row < to; ++row)
          f(tensor->type, std::span(bytes).subspan(static_cast<size_t>(row - from) * each, each),
            row - first);
      }
      bytes.resize(each);
      for (int64_t row = from; paired && row < to; ++row) {
        const int64_t there = paired_row(row - begin, head_dim_);
        file_.read(*tensor, static_cast<size_t>(there) * each, bytes);
        f(tensor->type, std::span(bytes), row - first);
      }
      begin = end;
    }
  }

  // g(first, count) of parts of a matrix that end where panels do.
  template <class G>
  static void in_panels(const ParamSpec& spec, G&& g) {
    const int64_t panels = std::max<int64_t>(1, kPart / spec.shape[1] / kernels::kWeightPanel);
    const int64_t step = panels * kernels::kWeightPanel;
    for (int64_t first = 0; first < spec.shape[0]; first += step)
      g(first, std::min(step, spec.shape[0] - first));
  }

  void read_matrices(std::span<const Place> parts, const ParameterStore::Entry& entry,
                     ParameterStore& store) const {
    std::vector<float> some;
    const int64_t columns = entry.spec.shape[1];
    in_panels(entry.spec, [&](int64_t first, int64_t count) {
      some.resize(static_cast<size_t>(count * columns));
      const Tensor rows(some.data(), {count, columns});
      each_row(parts, first, count,
               [&](GgufType type, std::span<const std::byte> bytes, int64_t row) {
                 dequantise(type, bytes, {rows.row(row), static_cast<size_t>(columns)});
               });
      store.set_rows(entry, first, rows);
    });
  }

  template <class Block>
  void read_stored(std::span<const Place> parts, const ParameterStore::Entry& entry,
                   ParameterStore& store) const {
    std::vector<Block> some;
    const int64_t columns = entry.spec.shape[1], groups = columns / kernels::kWeightGroup;
    in_panels(entry.spec, [&](int64_t first, int64_t count) {
      some.resize(static_cast<size_t>(count * groups));
      each_row(parts, first, count,
               [&](GgufType type, std::span<const std::byte> bytes, int64_t row) {
                 read_blocks(type, bytes,
                             std::span(some).subspan(static_cast<size_t>(row * groups),
                                                     static_cast<size_t>(groups)));
               });
      kernels::pack_blocks(std::span<const Block>(some), columns, store.panels_from(entry, first));
    });
  }

  const io::Gguf& file_;
  std::string architecture_;
  int64_t head_dim_;
  std::vector<Place> places_;  // in the order of file_tensors()
};

void read_special(const io::Gguf& file, int64_t vocab_size, SpecialTokens& special) {
  // Files name ids that they do not have; llama.cpp ignores these as well.
  const auto id_of = [&](const char* name) -> int32_t {
    const int64_t id =
        file.get_int(fmt::format("tokenizer.ggml.{}_token_id", name), INT64_MIN, INT64_MAX, -1);
    return id >= 0 && id < vocab_size ? static_cast<int32_t>(id) : -1;
  };
  special.bos = id_of("bos");
  special.eos = id_of("eos");
  special.pad = id_of("padding");
  for (const char* end : {"eot", "eom"})
    if (const int32_t id = id_of(end); id >= 0 && id != special.eos) special.more_eos.push_back(id);
}

// Numbers that a file's tensors can have.
int64_t weights_of(const io::Gguf& file) {
  int64_t sum = 0;
  for (const io::GgufTensor& tensor : file.tensors()) {
    const io::GgufTypeInfo& info = io::gguf_type_info(tensor.type);
    sum += static_cast<int64_t>(tensor.bytes / info.bytes) * info.numbers;
  }
  return sum;
}

}  // namespace

ModelDescription read_gguf_config(const io::Gguf& file, const Notes& notes) {
  ModelDescription d = parse_model_config(config_of_gguf(file, notes), file.path(), notes);
  read_special(file, d.config.vocab_size, d.special);
  return d;
}

void load_gguf_weights(const std::string& path, LanguageModel& model) {
  const io::Gguf file(path);
  Reader(file, model).read(model.parameters());
}

std::unique_ptr<LanguageModel> load_gguf(const std::string& path, SpecialTokens* special,
                                         const Notes& notes, std::optional<Storage> pack) {
  const io::Gguf file(path);
  const ModelDescription d = read_gguf_config(file, notes);
  // A little too little is told better by the name of what is missing.
  if (const int64_t needed = count_weights(d.config), held = weights_of(file); needed / 2 > held)
    throw_error("{}: expected the settings of a model of {} weights, as its tensors hold, found {}",
                path, held, needed);
  std::unique_ptr<LanguageModel> model;
  try {
    model = std::make_unique<LanguageModel>(d.config, LanguageModel::Memory::kLater);
  } catch (const Error& error) {
    throw_error("{}: {}", path, error.what());
  }
  const Reader reader(file, *model);
  ParameterStore& store = model->parameters();
  if (!pack) {
    store.allocate();
  } else if (*pack != Storage::kFloat32) {
    store.allocate_packed(*pack);
  } else {
    std::map<std::string, Storage> types;
    size_t next = 0;
    for (const ParameterStore::Entry& entry : store.entries()) {
      const size_t parts = std::max<size_t>(1, entry.spec.parts.size());
      types[entry.spec.name] = reader.storage_of(next, parts);
      next += parts;
    }
    store.allocate_packed(reader.main_storage(),
                          [&](const ParamSpec& spec) { return types.at(spec.name); });
  }
  reader.read(store);
  if (store.is_packed()) model->prepare_inference();
  if (special) *special = d.special;
  return model;
}

}  // namespace refrain

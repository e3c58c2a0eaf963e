#include "refrain/formats/weight_files.h"

#include <map>
#include <set>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/model/parameters/parameter_store.h"

namespace refrain {
namespace {

using io::Json;

// Of the index of a large model's files: many times what the deepest have.
constexpr size_t kMaxIndexBytes = size_t{1} << 22;
constexpr size_t kMaxIndexValues = size_t{1} << 16;  // tensors that it names

constexpr const char *kOneFile = "/model.safetensors", *kIndex = "/model.safetensors.index.json";

std::map<std::string, std::string> metadata() {
  return {{"format", "pt"}};  // transformers insists on it
}

}  // namespace

bool is_readable(std::string_view dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16" || dtype == "F64";
}

WeightFiles::WeightFiles(const std::string& directory) : path_(directory + kOneFile) {
  if (io::exists(path_)) {
    add(path_);
  } else {
    const std::string index = directory + kIndex;
    if (!io::exists(index))
      throw_error("{}: expected model.safetensors or model.safetensors.index.json, found neither",
                  directory);
    path_ = index;
    read_index(directory);
  }
  std::vector<std::string_view> names;
  each([&](const Entry& entry) { names.push_back(entry.info->name); });
  layout_ = &layout_of(names);
  for (const std::string_view name : names) is_stack_ &= !name.starts_with(layout_->stack);
}

WeightFiles::Entry WeightFiles::find(const std::string& name) const {
  const bool shorter = is_stack_ && name.starts_with(layout_->stack);
  const std::string in_file = shorter ? name.substr(layout_->stack.size()) : name;
  for (const io::Safetensors& file : files_)
    if (const io::TensorInfo* info = file.find(in_file)) return {&file, info};
  return {};
}

const io::Safetensors* WeightFiles::packed() const {
  return files_.size() == 1 && packed_storage_of(files_.front()) ? &files_.front() : nullptr;
}

int64_t WeightFiles::weights() const {
  const int64_t of_byte = packed() ? 2 : 0;
  int64_t sum = 0;
  each([&](const Entry& entry) {
    if (is_readable(entry.info->dtype)) sum += entry.info->size();
    if (entry.info->dtype == "U8") sum += of_byte * entry.info->size();
  });
  return sum;
}

void WeightFiles::read_index(const std::string& directory) {
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
  std::vector<std::string> missing;
  for (const auto& [name, tensors] : listed)
    if (!io::exists(directory + "/" + name)) missing.push_back(name);
  if (!missing.empty())
    throw_error("{}/{}: missing, with {} tensors; {} of the {} files that {} names are missing",
                directory, missing[0], listed[missing[0]].size(), missing.size(), listed.size(),
                path_);
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

void write_weight_files(const std::string& directory, std::span<const io::TensorToWrite> tensors,
                        int64_t largest_file) {
  std::vector<size_t> ends;  // of each file, among the tensors
  int64_t in_file = 0, total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t bytes = io::tensor_bytes(tensors[i]);
    if (in_file > 0 && in_file + bytes > largest_file) {
      ends.push_back(i);
      in_file = 0;
    }
    in_file += bytes;
    total += bytes;
  }
  ends.push_back(tensors.size());
  if (ends.size() == 1) return io::write_safetensors(directory + kOneFile, tensors, metadata());
  Json map = Json::object();
  size_t begin = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, ends.size());
    const auto some = tensors.subspan(begin, ends[i] - begin);
    io::write_safetensors(directory + "/" + name, some, metadata());
    for (const io::TensorToWrite& tensor : some) map[tensor.name] = name;
    begin = ends[i];
  }
  io::write_file(directory + kIndex,
                 io::to_text({{"metadata", {{"total_size", total}}}, {"weight_map", map}}));
  if (io::exists(directory + kOneFile)) io::remove_all(directory + kOneFile);
}

}  // namespace refrain

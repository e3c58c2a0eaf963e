// model.safetensors.index.json of a model in two files, which is then loaded.
#include <filesystem>

#include "fuzz/target.h"
#include "fuzz/tiny.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/io/json.h"
#include "refrain/io/safetensors.h"

namespace refrain::fuzz {
namespace {

// Makes the two files; the index of them.
std::string sharded() {
  const auto model = tiny_model("attention");
  save_config(folder().path(), *model, {});
  std::vector<io::TensorToWrite> shards[2];
  io::Json map = io::Json::object();
  int64_t bytes = 0;
  for (const auto& [name, shape, w, g] : model->parameters().file_tensors()) {
    const size_t shard = map.size() % 2;
    map[name] = shard == 0 ? "a.safetensors" : "b.safetensors";
    shards[shard].push_back({name, shape, w.data});
    bytes += w.size() * 4;
  }
  io::write_safetensors(folder() / "a.safetensors", shards[0], {});
  io::write_safetensors(folder() / "b.safetensors", shards[1], {});
  return io::to_line({{"metadata", {{"total_size", bytes}}}, {"weight_map", map}});
}

void run(std::string_view input) {
  static const std::string index = sharded();
  put(input, "model.safetensors.index.json");
  load_model(folder().path());
}

std::vector<std::string> seeds() { return {sharded()}; }

const Register registered({"index", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

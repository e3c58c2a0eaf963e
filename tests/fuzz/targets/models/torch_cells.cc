// A state_dict of PyTorch's recurrent cells; the first byte chooses the kind.
#include "refrain/formats/torch_cells.h"

#include "fuzz/target.h"
#include "refrain/io/safetensors.h"

namespace refrain::fuzz {
namespace {

constexpr const char* kKinds[] = {"rnn", "lstm", "gru"};

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  load_torch_cells(put(rest, "cells.safetensors"), kKinds[choice % 3]);
}

std::vector<std::string> seeds() {
  constexpr int64_t kGates[] = {1, 4, 3}, V = 3, E = 2, H = 2;
  const std::vector<float> values(64, 0.5f);
  std::vector<std::string> all;
  for (size_t kind = 0; kind < 3; ++kind) {
    const int64_t G = kGates[kind] * H;
    const std::vector<io::TensorToWrite> tensors = {{"emb.weight", {V, E}, values.data()},
                                                    {"rnn.weight_ih_l0", {G, E}, values.data()},
                                                    {"rnn.weight_hh_l0", {G, H}, values.data()},
                                                    {"rnn.bias_ih_l0", {G}, values.data()},
                                                    {"rnn.bias_hh_l0", {G}, values.data()},
                                                    {"out.weight", {V, H}, values.data()},
                                                    {"out.bias", {V}, values.data()}};
    io::write_safetensors(folder() / "seed", tensors, {});
    all.push_back(static_cast<char>(kind) + bytes_of(folder() / "seed"));
  }
  return all;
}

const Register registered({"torch_cells", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

// A pass of a sequence autoencoder's decoder alone, from the bottleneck and the encoder's states to
// the loss, with no step forced; with backward to both of them and to all weights.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "bench/checks/check.h"
#include "bench/checks/planted.h"
#include "refrain/autoencoder/decoder.h"
#include "refrain/model/parameters/parameter_store.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {

class DecoderPass {
 public:
  // `lengths` of the sequences.
  DecoderPass(const AutoencoderConfig& config, const std::vector<int64_t>& lengths, bool backward);
  DecoderPass(const DecoderPass&) = delete;
  DecoderPass& operator=(const DecoderPass&) = delete;

  // Outputs, and with backward the gradients of z, of the encoder's states, of all weights.
  struct Result {
    std::vector<float> outputs, gradients;
  };
  void run(Result* result = nullptr);

  // Against the reference implementation in float64; gradients along the direction of all ones by
  // the complex step, where an error of e of their sum is seen as e.
  Check check(const Planted& planted);

  size_t activation_bytes();
  size_t bytes();  // and weights, and gradients with backward

 private:
  void step(ExecutionContext&, Arena& saved, Result*);

  AutoencoderConfig config_;
  Decoder decoder_;
  ParameterStore parameters_;
  bool backward_;
  std::vector<int64_t> lengths_;
  RaggedBatchBuilder data_;
  RaggedBatch batch_;
  Workspace workspace_;
  // The bottleneck [B, Z], the encoder's states [R, H] and the inputs [R, E].
  std::vector<float> z_, m_, x_, losses_, cosines_;
};

}  // namespace refrain::bench

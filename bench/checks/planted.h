// Errors that a test plants in what is about to be timed, to see that its check finds them. Nothing
// is planted in a run of the program.
#pragma once
#include <cstddef>
#include <functional>
#include <span>

#include "refrain/base/tensor.h"
#include "refrain/kernels/attention/attention.h"
#include "refrain/model/config.h"

namespace refrain::bench {

struct Planted {
  std::function<void(std::span<float>)> weights{};  // a model's, once the reference has copied them
  std::function<void(std::span<float>)> output{};   // what a kernel or a pass wrote
  std::function<void(std::span<float>)> state{};    // between a prompt and what comes after it
  std::function<void(kernels::AttentionShape&)> mask{};
  // What a model is made of, while its reference has what it should be: another window, say.
  std::function<void(ModelConfig&)> model{};
  std::function<void(std::span<int32_t>)> boundaries{};  // cu_seqlens of several sequences

  void in_weights(std::span<float> w) const { call(weights, w); }
  void in_output(std::span<float> y) const { call(output, y); }
  void in_output(Tensor y) const { in_output({y.data, static_cast<size_t>(y.size())}); }
  void in_state(std::span<float> s) const { call(state, s); }
  void in_mask(kernels::AttentionShape& shape) const {
    if (mask) mask(shape);
  }
  ModelConfig in_model(ModelConfig config) const {
    if (model) model(config);
    return config;
  }
  void in_boundaries(std::span<int32_t> cu_seqlens) const {
    if (boundaries) boundaries(cu_seqlens);
  }

 private:
  static void call(const std::function<void(std::span<float>)>& plant, std::span<float> values) {
    if (plant) plant(values);
  }
};

}  // namespace refrain::bench

// The decoder against PyTorch: logits, losses, every gradient, and ten steps of training
// (tools/make_golden.py says what the files hold and how they were made).
#include <gtest/gtest.h>

#include <cmath>

#include "refrain/formats/checkpoint.h"
#include "refrain/io/safetensors.h"
#include "refrain/model/parameters/tensor_names.h"
#include "refrain/model/workspace.h"
#include "refrain/train/optimizer.h"

#ifndef REFRAIN_GOLDEN
#error "REFRAIN_GOLDEN names the folder of golden files"
#endif

namespace refrain {
namespace {

class Golden : public ::testing::TestWithParam<const char*> {
 protected:
  Golden() : file_(std::string(REFRAIN_GOLDEN) + "/" + GetParam()) {
    ModelConfig c;
    c.vocab_size = 67;
    c.d_model = 32;
    c.d_ff = 48;
    c.layers = 2;
    c.heads = 4;
    c.kv_heads = 2;
    c.context = 32;
    c.tie_embeddings = file_.find("lm_head.weight") == nullptr;
    model_ = std::make_unique<LanguageModel>(c);
    for (const auto& [name, shape, w, g] : model_->parameters().file_tensors())
      read(llama_name(name), w);
    for (float id : values("tokens")) tokens_.push_back(static_cast<int32_t>(id));
    for (float id : values("targets")) targets_.push_back(static_cast<int32_t>(id));
    for (int32_t t : targets_) supervised_ += t >= 0;
    std::vector<int32_t> offset;
    for (float o : values("offsets")) offset.push_back(static_cast<int32_t>(o));
    batch_ = builder_.set(offset, std::vector<int32_t>(offset.size() - 1, 0));
  }

  std::vector<float> values(const std::string& name) const {
    const io::TensorInfo* info = file_.find(name);
    EXPECT_NE(info, nullptr) << name;
    std::vector<float> v(static_cast<size_t>(info->size()));
    file_.read(*info, v);
    return v;
  }
  void read(const std::string& name, Tensor to) const {
    const std::vector<float> v = values(name);
    ASSERT_EQ(static_cast<int64_t>(v.size()), to.size()) << name;
    std::copy(v.begin(), v.end(), to.begin());
  }

  // Forward and backward; the mean loss.
  double train(Recompute recompute) {
    losses_.assign(tokens_.size(), NAN);
    model_->clear_gradients();
    workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      model_->train(ctx, batch_, {.tokens = tokens_, .targets = targets_},
                    {.scale = 1.0f / static_cast<float>(supervised_), .recompute = recompute},
                    {losses_.data(), {batch_.rows()}}, saved);
    });
    model_->finish_gradients();
    double sum = 0;
    for (float l : losses_) sum += static_cast<double>(l);
    return sum / static_cast<double>(supervised_);
  }

  io::Safetensors file_;
  std::unique_ptr<LanguageModel> model_;
  std::vector<int32_t> tokens_, targets_;
  int64_t supervised_ = 0;
  RaggedBatchBuilder builder_;
  RaggedBatch batch_;
  Workspace workspace_;
  std::vector<float> losses_;
};

TEST_P(Golden, LogitsAndLosses) {
  const std::vector<float> want = values("logits"), token_loss = values("token_loss");
  std::vector<float> logits(want.size());
  std::vector<int32_t> rows;
  for (int32_t r = 0; r < batch_.rows(); ++r) rows.push_back(r);
  workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
    model_->logits(ctx, batch_, tokens_, {}, rows, {logits.data(), {batch_.rows(), 67}});
  });
  // The script prints 4e-6 between float32 and float64; twice that for another order of sums.
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(logits[i], want[i], 1e-5) << i;

  losses_.assign(tokens_.size(), NAN);
  workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
    model_->losses(ctx, batch_, tokens_, targets_, {}, {losses_.data(), {batch_.rows()}});
  });
  for (size_t i = 0; i < token_loss.size(); ++i) ASSERT_NEAR(losses_[i], token_loss[i], 1e-5);
}

TEST_P(Golden, EveryGradient) {
  model_->allocate_gradients();
  for (bool blocks : {false, true}) {
    EXPECT_NEAR(train({.blocks = blocks ? Recompute::kAllBlocks : 0}), values("loss")[0], 1e-6);
    for (const auto& [name, shape, w, got] : model_->parameters().file_tensors()) {
      const std::vector<float> want = values("grad." + llama_name(name));
      float largest = 0;
      for (float g : want) largest = std::max(largest, std::abs(g));
      for (size_t i = 0; i < want.size(); ++i)
        ASSERT_NEAR(got.data[i], want[i], 1e-5f * largest + 1e-8f) << name << " at " << i;
    }
  }
}

TEST_P(Golden, TenStepsOfTraining) {
  model_->allocate_gradients();
  TrainConfig config;
  config.adam_beta1 = 0.9;
  config.adam_beta2 = 0.95;
  config.adam_epsilon = 1e-5;  // with less, a gradient of nothing but rounding decides steps
  config.weight_decay = 0.1;
  config.max_grad_norm = 1;
  Optimizer optimizer(model_->parameters(), config);
  const std::vector<float> losses = values("losses"), norms = values("grad_norm");
  for (size_t step = 0; step < 10; ++step) {
    EXPECT_NEAR(train({}), losses[step], 3e-6) << "step " << step;
    EXPECT_NEAR(optimizer.step(1e-2), norms[step], 6e-5) << "step " << step;
  }
  EXPECT_NEAR(train({}), losses[10], 3e-6);
  for (const auto& [name, shape, w, g] : model_->parameters().file_tensors()) {
    const std::vector<float> want = values("final." + llama_name(name));
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(w.data[i], want[i], 2e-5) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Decoder, Golden,
                         ::testing::Values("decoder.safetensors", "decoder_tied.safetensors"));

}  // namespace
}  // namespace refrain

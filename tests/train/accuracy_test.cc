#include "refrain/train/accuracy.h"

#include <gtest/gtest.h>

#include <memory>

#include "refrain/data/probes.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

// A model that says 1 after 0, 2 after 1, ... whatever stood before: token i is the i-th unit
// vector, the block adds nothing, and the head's row i + 1 is the same vector.
std::unique_ptr<LanguageModel> successor_model(int64_t vocab) {
  ModelConfig config;
  config.vocab_size = config.d_model = vocab;
  config.layers = config.heads = 1;
  config.context = 8;
  auto model = std::make_unique<LanguageModel>(config);
  model->initialise(1);
  model->parameters().visit([&](const ParamSpec& spec, Param& p) {
    if (spec.name == "embedding.weight" || spec.name == "head.weight") {
      const bool head = spec.name == "head.weight";
      std::fill(p.w.begin(), p.w.end(), 0.0f);
      for (int64_t i = 0; i < vocab; ++i) p.w.row((i + head) % vocab)[i] = 1;
    } else if (spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight")) {
      std::fill(p.w.begin(), p.w.end(), 0.0f);
    }
  });
  return model;
}

TEST(Accuracy, CountsTheLikeliestWhereSomethingIsAsked) {
  const TemporaryFolder folder;
  const text::Tokenizer ten = data::number_tokenizer(10);
  const std::string lines =
      "{\"input\":[1,5,3],\"target\":[2,-1,4]}\n"        // all right
      "{\"input\":[9,9],\"target\":[0,1]}\n"             // one of two
      "{\"input\":[4,4,4,7],\"target\":[-1,-1,-1,0]}\n"  // none
      "{\"input\":[6],\"target\":[7]}\n";                // right
  data::write_token_file({.task = "probe", .inputs = {folder.put("p.jsonl", lines)}}, ten,
                         folder / "p.tokens");
  const data::DataSet set = data::DataSet::open(folder / "p.tokens");
  const auto model = successor_model(10);
  Workspace workspace;
  for (int64_t batch_size : {1, 2, 16}) {
    const Accuracy result =
        measure_accuracy(*model, set, {.context = 4, .batch_size = batch_size}, workspace);
    EXPECT_EQ(result.total, 6);
    EXPECT_EQ(result.correct, 4);
    EXPECT_EQ(result.sequences, 4);
    EXPECT_EQ(result.exact_match, 2);
  }
}

}  // namespace
}  // namespace refrain

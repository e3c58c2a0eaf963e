// A mixer from outside the library (examples/custom_mixer) in everything that a model is used for:
// the mixers' contract, plans, training, a stop and a resumption, files, generation.
#include <gtest/gtest.h>

#include <filesystem>
#include <mutex>

#include "examples/custom_mixer/moving_average.h"
#include "refrain/data/dataset.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/generate/generator.h"
#include "refrain/io/file.h"
#include "refrain/model/reference.h"
#include "refrain/text/source.h"
#include "refrain/train/language_model_task.h"
#include "refrain/train/trainer.h"
#include "support/error_of.h"
#include "support/mixer_contract.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

SettingMap with_half_life(const std::string& tokens) {
  SettingMap options;
  options.set("moving_average.half_life", tokens);
  return options;
}

class CustomMixer : public testing::Test {
 protected:
  void SetUp() override {
    static std::once_flag once;
    std::call_once(once, example::register_moving_average);
  }
};

TEST_F(CustomMixer, KeepsTheContract) {
  const MixerDims shape{8, 2, 2, 4, 64, 2};
  for (const int64_t found : {0, 3})
    contract<example::MovingAverage, example::MovingAverageRef>(
        shape, example::MovingAverageConfig{}, found);
  training_contract<example::MovingAverage>(MixerDims{32, 4, 4, 8, 64, 2},
                                            example::MovingAverageConfig{});
}

TEST_F(CustomMixer, IsKnownByItsName) {
  const std::vector<std::string> kinds = mixer_kinds();
  EXPECT_EQ(std::ranges::count(kinds, "moving_average"), 1);
  EXPECT_EQ(error_of(example::register_moving_average), "a mixer called 'moving_average' is known");
  EXPECT_NE(error_of([] { register_mixer("Moving average", {}); }), "");
  const MixerDims shape{8, 2, 2, 4, 64, 2};
  EXPECT_EQ(
      error_of([&] { make_mixer(parse_mixer("moving_average", with_half_life("0")), shape); }),
      "moving_average.half_life: expected more than 0, up to 1000000, found 0");
}

// A run over a small text. Each call is what a program does that starts, or goes on.
struct SmallRun {
  std::string directory, tokens;
  std::string pattern = "moving_average";
  int64_t stop_after = 0;
  size_t budget = 0;

  std::vector<float> operator()() const {
    const bool goes_on = RunDirectory::is_run(directory);
    const RunDirectory run =
        goes_on ? RunDirectory::open(directory) : RunDirectory::create(directory, false);
    const data::DataSet set = data::DataSet::open(tokens);
    ModelConfig config;
    config.vocab_size = set.vocab_size();
    config.d_model = 16;
    config.layers = 2;
    config.heads = 2;
    config.context = 32;
    config.pattern = pattern;
    TrainConfig training;
    training.max_steps = "30";
    training.batch_size = 4;
    training.warmup_steps = 2;
    training.learning_rate = 1e-2;
    LanguageModel model(with_settings(config, with_half_life("4")));
    model.initialise(1);
    model.allocate_gradients();
    const Planner planner(model, training, false, size_t{8} << 20);
    const Plan plan = budget > 0 ? planner.within(budget) : planner.unbounded();
    const auto write_model_files = [&](const std::string& path) { save_config(path, model, {}); };
    LanguageModelTask task(model, set, {}, training, plan, write_model_files);
    Trainer trainer(task, training, run, plan);
    if (goes_on) {
      EXPECT_TRUE(trainer.resume());
    }
    if (!goes_on) {
      write_model_files(run.place());
      run.write_settings(io::Json::object());
    }
    double first = 0, last = 0;
    TrainerEvents events;
    events.on_step = [&](const Progress& p) { (first == 0 ? first : last) = p.loss; };
    trainer.run(events, stop_after);
    if (stop_after == 0 && !goes_on) {
      EXPECT_LT(last, 0.8 * first);
    }
    return {model.parameters().weights().begin(), model.parameters().weights().end()};
  }
};

TEST_F(CustomMixer, PlansTrainsResumesSavesAndGenerates) {
  const TemporaryFolder folder;
  const std::string text = folder.path() + "/t.txt", tokens = folder.path() + "/t.tokens";
  std::string words;
  for (int i = 0; i < 200; ++i) words += "the cat sat on the mat and the dog ate the hat. ";
  io::write_file(text, words);
  const text::SourceFiles source{.inputs = {text}};
  const text::Tokenizer tokenizer =
      text::Tokenizer::train(text::Tokenizer::parse_spec("char"), text::text_of(source, "char"));
  data::write_token_file(source, tokenizer, tokens);

  const std::vector<float> whole = SmallRun{folder.path() + "/whole", tokens}();
  const std::string cut = folder.path() + "/cut";
  SmallRun{.directory = cut, .tokens = tokens, .stop_after = 11}();
  EXPECT_EQ((SmallRun{cut, tokens}()), whole) << "stopped and resumed";
  EXPECT_EQ(
      (SmallRun{
          .directory = folder.path() + "/small", .tokens = tokens, .budget = size_t{11} << 20}()),
      whole)
      << "within a budget";
  // Beside the library's own.
  SmallRun{folder.path() + "/hybrid", tokens, "moving_average attention"}();

  const std::unique_ptr<LanguageModel> model = load_model(cut);
  EXPECT_EQ(model->config().pattern, "moving_average");
  EXPECT_EQ(model->config().mixer_settings().values().at("moving_average.half_life"), "4");
  EXPECT_TRUE(std::ranges::equal(model->parameters().weights(), whole));
  GenerationRequest request;
  request.prompt = tokenizer.encode("the cat");
  request.max_new_tokens = 40;
  request.sampling.temp = 0;
  Generator generator(*model);
  const GenerationResult alone = generator.generate(request);
  ASSERT_EQ(alone.tokens, 40);
  // Token by token, through the state, the model is the function that the reference is.
  std::vector<int32_t> all = request.prompt;
  for (const SampledToken& choice : alone.choices) all.push_back(choice.token);
  const ReferenceModel<double> reference(*model);
  const auto logits = reference.logits(all);
  const int64_t V = model->config().vocab_size;
  for (size_t i = 0; i < alone.choices.size(); ++i) {
    const double* row = logits.data() + static_cast<int64_t>(request.prompt.size() + i - 1) * V;
    EXPECT_EQ(std::max_element(row, row + V) - row, alone.choices[i].token);
  }
}

}  // namespace
}  // namespace refrain

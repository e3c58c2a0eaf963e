// Trains a model with a mixer that the library does not have, checks that its forms agree, and
// generates with it.
//
// usage: custom_mixer TEXT_FILE OUT
#include <filesystem>
#include <iostream>

#include "moving_average.h"
#include "refrain/refrain.h"

int main(int argc, char** argv) try {
  if (argc != 3) refrain::throw_error("usage: custom_mixer TEXT_FILE OUT");
  example::register_moving_average();
  refrain::ThreadPool pool;  // a thread for each core
  const refrain::ThreadPool::Scope threads(pool);

  namespace data = refrain::data;
  namespace text = refrain::text;
  const text::SourceFiles source{.inputs = {argv[1]}};
  const auto tokenizer =
      text::Tokenizer::train(text::Tokenizer::parse_spec("char"), text::text_of(source, "char"));
  const auto directory = refrain::RunDirectory::create(argv[2], false);
  std::filesystem::create_directory(directory.place() + "/data");
  const std::string tokens = directory.place() + "/data/train.tokens";
  data::write_token_file(source, tokenizer, tokens);
  const data::DataSet dataset = data::DataSet::open(tokens);

  refrain::ModelConfig config;
  config.vocab_size = tokenizer.vocab_size();
  config.d_model = 64;
  config.layers = 2;
  config.context = 64;
  config.pattern = "moving_average";
  refrain::LanguageModel model(config);
  model.initialise(1);
  model.allocate_gradients();

  refrain::TrainConfig training;
  training.max_steps = "100";
  training.batch_size = 8;
  training.warmup_steps = 10;
  const refrain::Plan plan = refrain::Planner(model, training, false, 0).unbounded();
  const auto write_model_files = [&](const std::string& path) {
    refrain::save_config(path, model, {});
    tokenizer.save(path);
  };
  write_model_files(directory.place());
  refrain::LanguageModelTask task(model, dataset, {}, training, plan, write_model_files);
  refrain::Trainer trainer(task, training, directory, plan);
  directory.write_settings({{"pattern", config.pattern}});
  refrain::TrainerEvents events;
  events.on_step = [](const refrain::Progress& p) {
    if (p.step % 20 == 0) std::cout << "step " << p.step << ": loss " << p.loss << "\n";
  };
  trainer.run(events);

  // Whole, chunked and stepped, against the reference implementation in float64; gradients too.
  const std::string sentence = "the cat sat on the mat, and the dog sat on the log";
  bool agree = true;
  for (const refrain::FormDifference& d : refrain::check_forms(model, tokenizer.encode(sentence)))
    if (!d.passed()) {
      agree = false;
      std::cout << d.what << ", " << d.between << ": they differ by " << d.largest << "\n";
    }
  std::cout << (agree ? "all forms agree\n" : "the forms do not agree\n");

  refrain::GenerationRequest request{.prompt = tokenizer.encode("the "), .max_new_tokens = 60};
  request.sampling.temp = 0;
  std::vector<int32_t> ids;
  for (const refrain::SampledToken& choice : refrain::Generator(model).generate(request).choices)
    ids.push_back(choice.token);
  std::cout << "the " << tokenizer.decode(ids) << "\n";
  return agree ? 0 : 1;
} catch (const refrain::Error& error) {
  std::cerr << "custom_mixer: " << error.what() << "\n";
  return 2;
}

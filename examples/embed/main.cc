// Uses the library in another program: loads a model directory, continues a text, trains the model
// on that text for a few steps, and continues it again. Give it a text of some sentences: a few
// words are learnt by heart at once.
//
// usage: embed MODEL TEXT
#include <iostream>

#include "refrain/refrain.h"

namespace {

void go_on(const refrain::LanguageModel& model, const refrain::text::Tokenizer& tokenizer,
           const std::vector<int32_t>& prompt) {
  refrain::GenerationRequest request{.prompt = prompt, .max_new_tokens = 40};
  request.sampling.temp = 0;
  refrain::text::StreamDecoder text(tokenizer);
  std::cout << tokenizer.decode(prompt) << std::flush;
  refrain::Generator(model).generate(request, [&](const refrain::SampledToken& choice) {
    std::cout << text.feed(choice.token) << std::flush;
    return std::nullopt;
  });
  std::cout << text.finish() << "\n";
}

// Trains on the text. Prints the mean loss per token, without the first token, in nats, before each
// step.
void train(refrain::LanguageModel& model, const std::vector<int32_t>& text, int steps) {
  const std::span<const int32_t> tokens(text);
  const int64_t n = std::ssize(text) - 1;
  model.allocate_gradients();
  refrain::Optimizer optimizer(model.parameters(), refrain::TrainConfig());
  refrain::RaggedBatchBuilder builder;
  refrain::Workspace workspace;
  std::vector<float> losses(static_cast<size_t>(n));
  for (int step = 0; step < steps; ++step) {
    model.clear_gradients();
    workspace.run({}, [&](refrain::ExecutionContext& ctx, refrain::Arena& saved) {
      model.train(ctx, builder.whole(1, n),
                  {.tokens = tokens.first(tokens.size() - 1), .targets = tokens.subspan(1)},
                  {.scale = 1 / static_cast<float>(n)}, {losses.data(), {n}}, saved);
    });
    model.finish_gradients();
    optimizer.step(1e-4);
    double sum = 0;
    for (const float loss : losses) sum += loss;
    std::cout << "step " << step + 1 << ": loss " << sum / static_cast<double>(n) << "\n";
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) refrain::throw_error("usage: embed MODEL TEXT");
  refrain::ThreadPool pool;  // a thread for each core
  const refrain::ThreadPool::Scope threads(pool);
  const std::unique_ptr<refrain::LanguageModel> model = refrain::load_model(argv[1]);
  const auto tokenizer = refrain::text::Tokenizer::load(argv[1]);
  const std::vector<int32_t> text = tokenizer.encode(argv[2]);
  if (text.size() < 2) refrain::throw_error("expected a text of two tokens or more");
  go_on(*model, tokenizer, text);
  train(*model, text, 5);
  go_on(*model, tokenizer, text);
} catch (const refrain::Error& error) {
  std::cerr << "embed: " << error.what() << "\n";
  return 2;
}

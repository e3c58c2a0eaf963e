// config.json of an autoencoder beside the weights of a small one.
#include "refrain/autoencoder/autoencoder.h"

#include "fuzz/target.h"
#include "refrain/io/json.h"

namespace refrain::fuzz {
namespace {

std::string saved() {
  AutoencoderConfig config;
  config.width = 4;
  config.vocab_size = 5;
  config.hidden = 8;
  config.layers = 1;
  config.bottleneck = 4;
  config.heads = 2;
  Autoencoder model(config);
  model.save_config(folder().path());
  model.save_weights(folder() / "model.safetensors");
  return bytes_of(folder() / "config.json");
}

void run(std::string_view input) {
  static const std::string config = saved();
  put(input, "config.json");
  Autoencoder::load(folder().path());
}

std::vector<std::string> seeds() { return {saved()}; }

const Register registered({"autoencoder", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

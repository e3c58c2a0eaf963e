// vocab.txt of an autoencoder whose table is learnt, and the words of a text.
#include "fuzz/target.h"
#include "refrain/autoencoder/embeddings.h"
#include "refrain/base/error.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const Words words = words_of(input);
  for (const std::string& word : words) expect(!word.empty(), "an empty word");
  const std::vector<std::string> paths = {put(input, "text")};
  for (const Words& document : read_documents(paths))
    expect(!document.empty(), "a document without a word");
  put(input, "vocab.txt");
  Embeddings::load(folder().path());
}

std::vector<std::string> seeds() { return {"the\ncat\n.\n", "\xE7\x8C\xAB\na\n"}; }

const Register registered({"words", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

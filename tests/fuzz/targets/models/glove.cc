// Vectors in GloVe's text format.
#include "fuzz/target.h"
#include "refrain/autoencoder/embeddings.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const std::string path = put(input, "vectors.txt");
  for (const int64_t width : {0, 3}) {
    const Embeddings read = read_embeddings(path, {"the", "cat", "."}, width);
    expect(std::ssize(read.values()) == read.size() * read.width(), "vectors of another width");
  }
}

std::vector<std::string> seeds() {
  return {"the 0.5 -1e-3 2\ncat 1 2 3\n. 0 0 1\nother 7 8 9", "the 1 2 3\r\ncat 4 5 6\r\n"};
}

const Register registered({"glove", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

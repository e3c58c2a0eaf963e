// Text that may be packed, by pieces and by lines.
#include <zlib.h>

#include "fuzz/target.h"
#include "refrain/io/text.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const std::string path = put(input);
  io::TextReader reader(path);
  std::string piece;
  size_t bytes = 0;
  while (reader.read(piece, 100)) {
    expect(!piece.empty() && piece.size() <= 100, "a piece of another size");
    bytes += piece.size();
  }
  io::TextReader lines(path);
  size_t in_lines = 0;
  for (std::string line; lines.line(line, size_t{1} << 20);) in_lines += line.size();
  expect(in_lines <= bytes, "lines are longer than the text");
}

std::string packed(std::string_view text) {
  const std::string path = folder() / "packed";
  const gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  return bytes_of(path);
}

std::vector<std::string> seeds() {
  const std::string text = "the cat\r\nsat\n\non the mat";
  return {text,
          packed(text),
          packed(text) + packed("and more"),
          packed(std::string(5000, 'a')),
          "\xEF\xBB\xBFmarked\n",
          packed("")};
}

const Register registered({"gzip", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

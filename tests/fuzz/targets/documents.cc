// Texts to train on, plain or .jsonl. The first byte says how they may be cut.
#include "fuzz/target.h"
#include "refrain/data/source.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  const bool jsonl = choice & 1, utf8 = choice & 2;
  const auto cut = static_cast<data::Cut>(choice >> 2 & 3);
  const std::string path = put(rest, jsonl ? "input.jsonl" : "input.txt");
  data::DocumentReader reader({path}, {cut, utf8, size_t{16}});
  std::string piece, whole;
  bool begins = false;
  while (reader.next(piece, begins)) {
    expect(!piece.empty(), "an empty piece");
    whole += piece;
  }
  const bool gzip = rest.starts_with("\x1f\x8b"), marked = rest.starts_with("\xEF\xBB\xBF");
  if (!jsonl && cut != data::Cut::kAtSpace && !gzip && !marked)
    expect(whole == rest, "the pieces are another text");
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  const std::string plain =
                        "The cat sat on the mat.\r\n\r\nIt was \xC3\xA9t\xC3\xA9,  \xE7\x8C\xAB\n",
                    lines =
                        "{\"text\": \"the cat\"}\n{\"prompt\": \"a\", \"completion\": \" b\"}\n";
  for (char cut = 0; cut < 4; ++cut)
    for (char choice = 0; choice < 4; ++choice)
      all.push_back(static_cast<char>(cut << 2 | choice) + (choice & 1 ? lines : plain));
  return all;
}

const Register registered({"documents", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

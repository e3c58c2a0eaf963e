// Texts to train on, plain, .jsonl or .json. The first byte says how they may be cut.
#include "fuzz/target.h"
#include "refrain/text/source.h"
#include "refrain/text/text_cuts.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  using Rule = text::TextCuts::Rule;
  const bool objects = choice & 1, utf8 = choice & 2;
  const auto rule = static_cast<Rule>((choice >> 2 & 7) % 7);
  const std::string path = put(rest, !objects      ? "input.txt"
                                     : choice & 32 ? "input.json"
                                                   : "input.jsonl");
  std::vector<text::TextCuts::Added> added;
  if (choice & 64) added = {{"the cat", true}, {"mat", false, true, true}};
  text::DocumentReader reader({.inputs = {path}},
                              {text::TextCuts(rule, std::move(added)), utf8, size_t{16}});
  std::string piece, whole;
  bool begins = false;
  while (reader.next(piece, begins)) {
    expect(!piece.empty(), "an empty piece");
    whole += piece;
  }
  const bool gzip = rest.starts_with("\x1f\x8b"), marked = rest.starts_with("\xEF\xBB\xBF");
  if (!objects && rule != Rule::kAtSpace && !gzip && !marked)
    expect(whole == rest, "the pieces are another text");
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  const std::string plain =
                        "The cat sat on the mat.\r\n\r\nIt was \xC3\xA9t\xC3\xA9,  \xE7\x8C\xAB\n",
                    lines =
                        "{\"text\": \"the cat\"}\n{\"prompt\": \"a\", \"completion\": \" b\"}\n";
  for (char rule = 0; rule < 7; ++rule)
    for (const char choice : {0, 1, 2, 3, 32 | 1, 64, 64 | 2})
      all.push_back(static_cast<char>(rule << 2 | choice) + (choice & 1 ? lines : plain));
  all.push_back("\x21[{\"text\": \"a\"},\n {\"text\": \"b\\\"}\"}]\n");
  return all;
}

const Register registered({"documents", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

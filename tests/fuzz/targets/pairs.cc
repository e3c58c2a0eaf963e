// Pairs to translate: .tsv, .jsonl or two files, as the first byte says.
#include "fuzz/target.h"
#include "refrain/text/source.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  text::SourceFiles source;
  source.task = "translate";
  if (const unsigned format = choice & 3; format >= 2) {
    const auto [first, second] = parts_of(rest);
    source.inputs = {put(first, "input.en"), put(second, "input.ja")};
  } else {
    source.inputs = {put(rest, format == 0 ? "input.tsv" : "input.jsonl")};
  }
  source.both_directions = choice & 4;
  source.one_direction = choice & 8;
  text::PairReader reader(source, choice & 16);
  text::TextPair pair;
  while (reader.next(pair))
    expect(!text::is_blank(pair.source) && !text::is_blank(pair.target), "a pair without text");
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const char more : {0, 4, 8, 16, 28}) {
    all.push_back(static_cast<char>(more) + std::string("the cat\tle chat\r\n \tb\na b\tc d\n"));
    all.push_back(static_cast<char>(1 | more) +
                  std::string("{\"prompt\": \"a\", \"completion\": \"b\"}\n"
                              "{\"prompt\": \"c\", \"completion\": \"d\", "
                              "\"source_tag\": \"<x>\", \"target_tag\": \"<y>\"}\n"));
    all.push_back(static_cast<char>(2 | more) + std::string("a\nb\n") + '\0' + "c\nd\n");
  }
  return all;
}

const Register registered({"pairs", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

// Probes of ids, .jsonl, of a vocabulary that the first byte gives.
#include "refrain/data/probes.h"

#include "fuzz/target.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  const int64_t ids = 1 + choice;
  data::ProbeReader reader(put(rest, "input.jsonl"), ids);
  data::ProbeSequence sequence;
  while (reader.next(sequence)) {
    expect(sequence.input.size() == sequence.target.size(), "targets of another length");
    for (const int32_t id : sequence.input) expect(id >= 0 && id < ids, "no token's id");
  }
}

std::vector<std::string> seeds() {
  return {std::string(1, '\x09') + "{\"input\": [1, 2, 3], \"target\": [-1, -1, 4]}\n"};
}

const Register registered({"probes", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

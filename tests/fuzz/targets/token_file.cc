// A .tokens file, read whole, as a set and in two parts.
#include "refrain/data/token_file.h"

#include <algorithm>

#include "fuzz/target.h"
#include "refrain/data/dataset.h"

namespace refrain::fuzz {
namespace {

void read_all(const data::DataSet& set) {
  std::vector<int32_t> ids(std::min<size_t>(static_cast<size_t>(set.tokens()), 4096));
  set.read(0, ids);
  (void)set.text_bytes();
  if (!set.has_pairs()) return;
  for (int64_t i = 0; i < std::min<int64_t>(set.sequences(), 64); ++i) {
    const data::DataSet::Pair pair = set.pair(i);
    expect(0 <= pair.begin && pair.begin <= pair.target && pair.target <= pair.end &&
               pair.end <= set.tokens(),
           "a pair stands where no ids are");
    (void)set.rows(i);
  }
  (void)set.directions();
}

void run(std::string_view input) {
  const data::DataSet set = data::DataSet::open(put(input, "input.tokens"));
  read_all(set);
  const auto [first, second] = set.split(0.5);
  read_all(first);
  read_all(second);
}

// The same file as version 1 had it: without a fingerprint, which hardly any mutation survives.
std::string first_version(std::string bytes, size_t id_space, size_t hashes) {
  bytes[8] = 1;
  bytes.erase(bytes.size() - 16, 8);
  return bytes.erase(64 + id_space, 8 * hashes);
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  const auto write = [&](const data::TokenFileHeader& header, const std::vector<size_t>& marks) {
    const std::string path = folder() / "seed.tokens";
    data::TokenFileWriter file(path, header);
    for (size_t i = 0; i < 12; ++i) {
      for (const size_t mark : marks)
        if (mark == i) file.mark_boundary();
      file.add(static_cast<int32_t>(i % 5));
    }
    file.commit(20);
    all.push_back(bytes_of(path));
    all.push_back(first_version(all.back(), header.vocab_size > 65536 ? 48 : 24, 1));
  };
  write({data::TokenTask::kLm, 5, 7}, {0, 4});
  write({data::TokenTask::kLm, 70000, 7}, {0});
  write({data::TokenTask::kTranslate, 5, 7}, {0, 3, 6, 9});
  write({data::TokenTask::kProbe, 5, 7}, {0, 3, 6, 9});
  return all;
}

const Register registered({"token_file", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

#include "refrain/data/probes.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <unordered_set>

#include "refrain/base/error.h"
#include "refrain/data/batch.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::data {
namespace {

constexpr int64_t kMaxIds = int64_t{1} << 20, kMaxLength = int64_t{1} << 20;
constexpr int64_t kMaxSequences = 10'000'000;

void check_range(const char* probe, const char* setting, int64_t found, int64_t low, int64_t high) {
  if (found < low || found > high)
    throw_error("{}: {}: expected {} to {}, found {}", probe, setting, low, high, found);
}

int32_t draw_id(Random& random, int64_t first, int64_t end) {
  return static_cast<int32_t>(
      first + static_cast<int64_t>(random.below(static_cast<uint64_t>(end - first))));
}

// `count` different numbers of [first, end), in the order drawn.
std::vector<int32_t> draw_different(Random& random, int64_t first, int64_t end, int64_t count) {
  std::vector<int32_t> all;
  std::unordered_set<int32_t> seen;
  if (2 * count >
      end - first) {  // a shuffle of all of them; drawing anew would rarely find the last
    all.resize(static_cast<size_t>(end - first));
    std::iota(all.begin(), all.end(), static_cast<int32_t>(first));
    for (size_t i = 0; i < static_cast<size_t>(count); ++i)
      std::swap(all[i], all[i + random.below(all.size() - i)]);
    all.resize(static_cast<size_t>(count));
  }
  while (std::ssize(all) < count)
    if (const int32_t id = draw_id(random, first, end); seen.insert(id).second) all.push_back(id);
  return all;
}

void show(ProbeSequence& sequence, int32_t id, int32_t answer = kIgnore) {
  sequence.input.push_back(id);
  sequence.target.push_back(answer);
}

}  // namespace

void AssociativeRecall::check() const {
  check_range(kName, "vocab", vocab, 4, kMaxIds);
  check_range(kName, "pairs", pairs, 1, kMaxLength);
}

ProbeSequence AssociativeRecall::draw(Random& random) const {
  const int64_t keys = (vocab - 1) / 2;
  std::vector<int32_t> value(static_cast<size_t>(keys) + 1);
  for (int32_t& v : value) v = draw_id(random, keys + 1, vocab);
  ProbeSequence sequence;
  for (int64_t i = 0; i < pairs; ++i) {
    const int32_t key = draw_id(random, 1, keys + 1);
    show(sequence, key);
    show(sequence, value[static_cast<size_t>(key)]);
  }
  const int32_t asked = sequence.input[2 * random.below(static_cast<uint64_t>(pairs))];
  show(sequence, 0);
  show(sequence, asked, value[static_cast<size_t>(asked)]);
  return sequence;
}

void MultiQueryRecall::check() const {
  check_range(kName, "vocab", vocab, 4, kMaxIds);
  check_range(kName, "length", length, 4, kMaxLength);
  check_range(kName, "pairs", pairs, 1, std::min(length / 4, vocab / 2 - 1));
}

ProbeSequence MultiQueryRecall::draw(Random& random) const {
  constexpr double kPower = 0.01;
  const int64_t slots = (length - 2 * pairs) / 2;
  const std::vector<int32_t> keys = draw_different(random, 1, vocab / 2, pairs);
  const std::vector<int32_t> values = draw_different(random, vocab / 2, vocab, pairs);
  ProbeSequence sequence;
  for (size_t i = 0; i < keys.size(); ++i) {
    show(sequence, keys[i]);
    show(sequence, values[i]);
  }
  while (std::ssize(sequence.input) < length) show(sequence, noise ? draw_id(random, 0, vocab) : 0);
  std::vector<double> weight;
  for (int64_t i = 1; i <= slots; ++i)
    weight.push_back(kPower * std::pow(static_cast<double>(i), kPower - 1));
  for (size_t k = 0; k < keys.size(); ++k) {
    double left = random.uniform() * std::accumulate(weight.begin(), weight.end(), 0.0);
    size_t slot = 0, chosen = 0;
    for (; slot < weight.size() && left >= 0; ++slot)
      if (weight[slot] > 0) {  // slots that are taken have none
        chosen = slot;
        left -= weight[slot];
      }
    weight[chosen] = 0;
    const size_t at = 2 * keys.size() + 2 * chosen;
    sequence.input[at] = keys[k];
    sequence.target[at] = values[k];
  }
  return sequence;
}

void Induction::check() const {
  check_range(kName, "vocab", vocab, 2, kMaxIds);
  check_range(kName, "length", length, 3, kMaxLength);
}

ProbeSequence Induction::draw(Random& random) const {
  ProbeSequence sequence;
  for (int64_t i = 0; i + 1 < length; ++i) show(sequence, draw_id(random, 1, vocab));
  const auto at = static_cast<size_t>(draw_id(random, 0, length - 2));
  sequence.input[at] = 0;
  show(sequence, 0, sequence.input[at + 1]);
  return sequence;
}

void DelayedCopy::check() const {
  check_range(kName, "vocab", vocab, 2, kMaxIds);
  check_range(kName, "symbols", symbols, 1, kMaxLength);
  check_range(kName, "delay", delay, 0, kMaxLength);
}

ProbeSequence DelayedCopy::draw(Random& random) const {
  ProbeSequence sequence;
  for (int64_t i = 0; i < symbols; ++i) show(sequence, draw_id(random, 2, vocab + 2));
  for (int64_t i = 0; i < delay; ++i) show(sequence, 0);
  for (size_t i = 0; i < static_cast<size_t>(symbols); ++i) show(sequence, 1, sequence.input[i]);
  return sequence;
}

void SelectiveCopy::check() const {
  check_range(kName, "vocab", vocab, 2, kMaxIds);
  check_range(kName, "length", length, 1, kMaxLength);
  check_range(kName, "symbols", symbols, 1, length);
}

ProbeSequence SelectiveCopy::draw(Random& random) const {
  std::vector<int32_t> places = draw_different(random, 0, length, symbols);
  std::sort(places.begin(), places.end());
  ProbeSequence sequence;
  for (int64_t i = 0; i < length; ++i) show(sequence, 0);
  for (const int32_t place : places)
    sequence.input[static_cast<size_t>(place)] = draw_id(random, 2, vocab + 2);
  for (const int32_t place : places) show(sequence, 1, sequence.input[static_cast<size_t>(place)]);
  return sequence;
}

void RecallAfterGap::check() const {
  check_range(kName, "keys", keys, 1, kMaxIds / 4);
  check_range(kName, "pairs", pairs, 1, keys);
  check_range(kName, "gap", gap, 0, kMaxLength);
  check_range(kName, "noise", noise, 1, kMaxIds / 4);
}

ProbeSequence RecallAfterGap::draw(Random& random) const {
  const std::vector<int32_t> shown = draw_different(random, 1, 1 + keys, pairs);
  ProbeSequence sequence;
  for (const int32_t key : shown) {
    show(sequence, key);
    show(sequence, draw_id(random, 1 + keys, 1 + 2 * keys));
  }
  for (int64_t i = 0; i < gap; ++i) show(sequence, draw_id(random, 1 + 2 * keys, ids()));
  const size_t asked = random.below(static_cast<uint64_t>(pairs));
  show(sequence, 0);
  show(sequence, shown[asked], sequence.input[2 * asked + 1]);
  return sequence;
}

void Forecast::check() const {
  check_range(kName, "levels", levels, 2, 1024);
  check_range(kName, "length", length, 1, kMaxLength);
  check_range(kName, "horizon", horizon, 1, 4096);
  if (!(noise >= 0 && noise <= 100))
    throw_error("{}: noise: expected 0 to 100, found {}", kName, noise);
}

ProbeSequence Forecast::draw(Random& random) const {
  constexpr double kTwoPi = 2 * std::numbers::pi, kPeriods[] = {12, 5}, kSizes[] = {1, 0.5};
  constexpr double kRange = 2.5;  // beyond it a series stays at its last level
  double size[2], phase[2];
  for (size_t i = 0; i < 2; ++i) {
    size[i] = kSizes[i] * (0.5 + 0.5 * random.uniform());
    phase[i] = kTwoPi * random.uniform();
  }
  const double middle = random.uniform() - 0.5;
  ProbeSequence sequence;
  show(sequence, static_cast<int32_t>(levels + horizon));
  for (int64_t t = 0; t < length + horizon; ++t) {
    double x = middle + noise * random.normal();
    for (size_t i = 0; i < 2; ++i)
      x += size[i] * std::sin(kTwoPi * static_cast<double>(t) / kPeriods[i] + phase[i]);
    const double place = (x / kRange + 1) / 2 * static_cast<double>(levels);
    const auto level =
        static_cast<int32_t>(std::clamp(place, 0.0, static_cast<double>(levels) - 0.5));
    if (t < length)
      show(sequence, level);
    else
      show(sequence, static_cast<int32_t>(levels + t - length), level);
  }
  return sequence;
}

Forecast::Naive Forecast::naive(uint64_t seed, int64_t count) const {
  Random random(mix_key(seed, "naive forecast"));
  const auto changes = static_cast<size_t>(2 * levels - 1), steps = static_cast<size_t>(horizon);
  // Each change once, so that none has a share of 0.
  std::vector<std::vector<double>> seen(steps, std::vector<double>(changes, 1));
  const auto each_change = [&](auto&& f) {
    for (int64_t i = 0; i < count; ++i) {
      const ProbeSequence s = draw(random);
      for (size_t h = 0; h < steps; ++h) {
        const auto at = static_cast<size_t>(length) + 1 + h;
        f(h, static_cast<size_t>(levels - 1 + s.target[at] - s.input[static_cast<size_t>(length)]));
      }
    }
  };
  each_change([&](size_t h, size_t change) { seen[h][change] += 1; });
  Naive naive{};
  const double all = static_cast<double>(count) + static_cast<double>(changes);
  each_change([&](size_t h, size_t change) {
    naive.loss -= std::log(seen[h][change] / all);
    naive.correct += change == static_cast<size_t>(levels - 1);
  });
  const double questions = static_cast<double>(count * horizon);
  return {naive.loss / questions, naive.correct / questions};
}

void check_sizes(const ProbeKind& kind, const ProbeSizes& sizes) {
  check_range(kind.name.c_str(), "train", sizes.train, 0, kMaxSequences);
  check_range(kind.name.c_str(), "test", sizes.test, 0, kMaxSequences);
}

void write_probes(const ProbeKind& kind, uint64_t seed, const ProbeSizes& sizes,
                  const std::string& folder) {
  constexpr int kMaxMisses = 10'000;  // draws in a row that stand in train
  check_sizes(kind, sizes);
  io::make_directories(folder);
  const auto put = [](const ProbeSequence& s, io::AtomicFile& file) {
    file.write(io::to_line({{"input", s.input}, {"target", s.target}}) + "\n");
  };
  std::unordered_set<uint64_t> in_train;  // hashes: one test sequence too few would do no harm
  const auto hash = [](const ProbeSequence& s) {
    return mix_key(
        0, {reinterpret_cast<const char*>(s.input.data()), s.input.size() * sizeof(int32_t)});
  };
  Random train(mix_key(seed, kind.name + " train")), test(mix_key(seed, kind.name + " test"));
  io::AtomicFile train_file(folder + "/train.jsonl"), test_file(folder + "/test.jsonl");
  for (int64_t i = 0; i < sizes.train; ++i) {
    ProbeSequence sequence = kind.draw(train);
    in_train.insert(hash(sequence));
    if (kind.text)
      std::copy(sequence.input.begin() + 1, sequence.input.end(), sequence.target.begin());
    put(sequence, train_file);
  }
  int misses = 0;
  for (int64_t i = 0; i < sizes.test;) {
    const ProbeSequence sequence = kind.draw(test);
    if (in_train.contains(hash(sequence))) {
      if (++misses > kMaxMisses)
        throw_error(
            "{}: hardly a sequence that does not stand in train; expected settings that have more, "
            "or fewer to train on",
            kind.name);
      continue;
    }
    misses = 0;
    put(sequence, test_file);
    ++i;
  }
  train_file.commit();
  test_file.commit();
  number_tokenizer(kind.ids).save(folder);
}

text::Tokenizer number_tokenizer(int64_t n) {
  io::Json vocab = io::Json::object(), added = io::Json::array();
  io::Json::object_t::Container& members = vocab.get_ref<io::Json::object_t&>();
  for (int64_t id = 0; id < n; ++id) {
    const std::string token = fmt::format("<{}>", id);
    members.emplace_back(token, id);
    added.push_back({{"id", id}, {"content", token}, {"normalized", false}, {"special", false}});
  }
  const io::Json root = {{"added_tokens", std::move(added)},
                         {"model",
                          {{"type", "BPE"},
                           {"unk_token", nullptr},
                           {"vocab", std::move(vocab)},
                           {"merges", io::Json::array()}}}};
  return text::Tokenizer::from_json(io::to_line(root), "tokenizer of numbers");
}

bool ProbeReader::next(ProbeSequence& sequence) {
  if (!reader_.line(line_)) return false;
  const std::string where = fmt::format("{}: line {}", reader_.name(), reader_.line_number());
  const io::Json object = io::parse_json(line_, where);
  const auto read = [&](const char* key, int64_t lowest, std::vector<int32_t>& to) {
    const io::Json& list = io::member(object, key, where);
    if (!list.is_array() || list.empty())
      throw_error("{}: {}: expected a list of ids, found {}", where, key, io::describe(list));
    to.clear();
    for (const io::Json& value : list) {
      int64_t id = ids_;  // too high, as is what int64_t does not hold
      if (value.is_number_unsigned())
        id = static_cast<int64_t>(std::min(value.get<uint64_t>(), static_cast<uint64_t>(ids_)));
      else if (value.is_number_integer())
        id = value.get<int64_t>();
      if (id < lowest || id >= ids_)
        throw_error("{}: {}: expected ids of {} to {}, found {}", where, key, lowest, ids_ - 1,
                    io::describe(value));
      to.push_back(static_cast<int32_t>(id));
    }
  };
  read("input", 0, sequence.input);
  read("target", kIgnore, sequence.target);
  if (sequence.input.size() != sequence.target.size())
    throw_error("{}: {} ids in input, {} in target, expected as many", where, sequence.input.size(),
                sequence.target.size());
  if (std::all_of(sequence.target.begin(), sequence.target.end(),
                  [](int32_t id) { return id == kIgnore; }))
    throw_error("{}: target: nothing is asked", where);
  return true;
}

}  // namespace refrain::data

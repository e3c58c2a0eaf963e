#include "refrain/data/batches.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/random.h"
#include "refrain/data/permutation.h"

namespace refrain::data {
namespace {

constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();  // of a batch
constexpr int64_t kStretch = 100;  // batches whose pairs are sorted by length together

// Sequences in a batch of lm windows, or of pairs when it is not filled by max_tokens.
int64_t sequences_in_batch(const DataSet& data, const BatchConfig& config) {
  if (config.max_tokens == 0) return config.batch_size;
  return data.has_pairs() ? std::numeric_limits<int64_t>::max()
                          : config.max_tokens / config.context;
}

void check_config(const DataSet& data, const BatchConfig& config) {
  const auto at_least = [](const char* name, int64_t found, int64_t expected) {
    if (found < expected) throw_error("{} {}: expected at least {}", name, found, expected);
  };
  at_least("context", config.context, 1);
  at_least("batch_size", config.batch_size, 1);
  at_least("max_tokens", config.max_tokens, 0);
  if (config.max_tokens > 0 && !data.has_pairs())
    at_least("max_tokens", config.max_tokens, config.context);
  at_least("stream_chunk", config.stream_chunk, 0);
  const int64_t rows =
      std::min(config.stream_chunk > 0 ? config.stream_chunk : config.context, data.tokens());
  const int64_t windows = std::min(config.batch_size, data.tokens());
  if (config.max_tokens > kMaxRows || (config.max_tokens == 0 && windows > kMaxRows / rows))
    throw_error("a batch of {} sequences of {}, or {} tokens: expected at most {} tokens", windows,
                rows, config.max_tokens, kMaxRows);
}

// Ids first .. first + rows, each but the last an input, each but the first a target; the targets
// of the first `prompt` rows are not supervised.
void add_sequence(const DataSet& data, int64_t first, int64_t rows, int64_t prompt, Batch& out) {
  const size_t at = out.tokens.size();
  out.tokens.resize(at + static_cast<size_t>(rows) + 1);
  data.read(first, std::span(out.tokens).subspan(at));
  out.targets.insert(out.targets.end(), out.tokens.begin() + static_cast<ptrdiff_t>(at) + 1,
                     out.tokens.end());
  std::fill_n(out.targets.begin() + static_cast<ptrdiff_t>(at), prompt, kIgnore);
  out.tokens.pop_back();
  out.cu_seqlens.push_back(static_cast<int32_t>(out.tokens.size()));
  out.supervised += rows - prompt;
}

// Inputs with targets of their own.
void add_targets(const DataSet& data, const DataSet::Pair& pair, Batch& out) {
  const auto nothing_asked = static_cast<int32_t>(data.vocab_size());
  const size_t at = out.tokens.size(), rows = static_cast<size_t>(pair.target - pair.begin);
  out.tokens.resize(at + rows);
  out.targets.resize(at + rows);
  data.read(pair.begin, std::span(out.tokens).subspan(at));
  data.read(pair.target, std::span(out.targets).subspan(at));
  for (size_t i = at; i < at + rows; ++i) {
    if (out.tokens[i] == nothing_asked)
      throw_error("{}: id {} in a sequence, expected less than {}", data.name(), nothing_asked,
                  nothing_asked);
    if (out.targets[i] == nothing_asked)
      out.targets[i] = kIgnore;
    else
      ++out.supervised;
  }
  out.cu_seqlens.push_back(static_cast<int32_t>(out.tokens.size()));
}

void add_pair(const DataSet& data, int64_t i, Batch& out) {
  const DataSet::Pair pair = data.pair(i);
  if (data.has_targets()) return add_targets(data, pair, out);
  add_sequence(data, pair.begin, data.rows(i), pair.target - pair.begin - 1, out);
}

bool fits(const DataSet& data, const BatchConfig& config, int64_t i) {
  const int64_t rows = data.rows(i);
  if (rows > longest(config) && !config.skip_long)
    throw_error("{}: pair {} is {} tokens long, expected at most {}", data.name(), i + 1, rows,
                longest(config));
  return rows <= longest(config);
}

}  // namespace

int64_t longest(const BatchConfig& config) {
  return config.max_tokens > 0 ? std::min(config.context, config.max_tokens) : config.context;
}

struct Batches::Impl {
  DataSet data;
  BatchConfig config;
  uint64_t seed;
  bool by_pairs;
  Position at;
  int64_t batches = 0;  // of epoch at.epoch, as is all that follows
  double efficiency = 1;
  Permutation permuted{1, 0};  // lm: of the windows; else of the batches
  int64_t offset = 0, windows = 0;
  std::vector<uint32_t> short_enough;  // pairs, in file order
  std::vector<uint32_t> order;         // the same, shuffled
  std::vector<uint32_t> starts;        // places in `order` where a batch begins, and its end

  Impl(const DataSet& data_, const BatchConfig& config_, uint64_t seed_)
      : data(data_), config(config_), seed(seed_), by_pairs(data_.has_pairs()) {
    check_config(data, config);
    if (config.stream_chunk > 0)
      check_streams();
    else if (by_pairs)
      find_short_enough();
    else if (data.tokens() <= config.context)
      throw_error("{}: {} ids of text, expected at least {} for a context of {}", data.name(),
                  data.tokens(), config.context + 1, config.context);
    plan();
  }

  int64_t stream_length() const { return (data.tokens() - 1) / config.batch_size; }

  void check_streams() const {
    if (by_pairs || config.max_tokens > 0)
      throw_error("streams: expected running text and batches by sequences, found {}",
                  by_pairs ? data.task() : "max_tokens");
    if (stream_length() < 1)
      throw_error("{}: {} ids of text, expected at least {} for {} streams", data.name(),
                  data.tokens(), config.batch_size + 1, config.batch_size);
    if (stream_length() > kMaxRows)
      throw_error("{}: streams of {} ids, expected at most {}: a larger batch_size", data.name(),
                  stream_length(), kMaxRows);
  }

  void find_short_enough() {
    if (data.sequences() > std::numeric_limits<uint32_t>::max())
      throw_error("{}: {} pairs, expected at most {}", data.name(), data.sequences(),
                  std::numeric_limits<uint32_t>::max());
    int64_t shortest = std::numeric_limits<int64_t>::max();
    for (int64_t i = 0; i < data.sequences(); ++i) {
      shortest = std::min(shortest, data.rows(i));
      if (fits(data, config, i)) short_enough.push_back(static_cast<uint32_t>(i));
    }
    if (short_enough.empty())
      throw_error("{}: no pair is at most {} tokens long, the shortest is {}", data.name(),
                  longest(config), shortest);
  }

  int64_t rows(uint32_t i) const { return data.rows(i); }

  void plan() {
    if (config.stream_chunk > 0)
      batches = (stream_length() + config.stream_chunk - 1) / config.stream_chunk;
    else if (by_pairs)
      plan_pairs();
    else
      plan_windows();
  }

  void plan_windows() {
    const int64_t room = data.tokens() - config.context;  // offsets that leave a whole window
    Random random(mix_key(seed, "offset", at.epoch));
    offset =
        static_cast<int64_t>(random.below(static_cast<uint64_t>(std::min(config.context, room))));
    windows = (data.tokens() - 1 - offset) / config.context;
    permuted = {static_cast<uint64_t>(windows), mix_key(seed, "windows", at.epoch)};
    const int64_t in_batch = sequences_in_batch(data, config);
    batches = windows / in_batch + (windows % in_batch != 0);
  }

  void plan_pairs() {
    const size_t n = short_enough.size();
    const Permutation shuffled(n, mix_key(seed, "pairs", at.epoch));
    order.resize(n);
    for (size_t i = 0; i < n; ++i) order[i] = short_enough[shuffled(i)];
    if (config.max_tokens > 0 && config.buckets && !config.packing) sort_stretches();

    starts.assign(1, 0);
    int64_t widest = 0, used = 0, padded = 0, in_batch = 0;
    for (uint32_t i = 0; i < n; ++i) {
      const int64_t members = i - starts.back(), wider = std::max(widest, rows(order[i]));
      in_batch += rows(order[i]);
      const bool full = config.packing          ? in_batch > config.max_tokens
                        : config.max_tokens > 0 ? (members + 1) * wider > config.max_tokens
                                                : members == config.batch_size;
      if (full) {
        in_batch = rows(order[i]);
        padded += members * widest;
        starts.push_back(i);
      }
      widest = full ? rows(order[i]) : wider;
      used += rows(order[i]);
    }
    padded += (static_cast<int64_t>(n) - starts.back()) * widest;
    starts.push_back(static_cast<uint32_t>(n));
    efficiency = static_cast<double>(used) / static_cast<double>(padded);
    batches = static_cast<int64_t>(starts.size()) - 1;
    permuted = {static_cast<uint64_t>(batches), mix_key(seed, "batches", at.epoch)};
  }

  void sort_stretches() {
    int64_t total = 0;
    for (const uint32_t i : order) total += rows(i);
    const auto n = static_cast<int64_t>(order.size());
    const int64_t stretch = std::max<int64_t>(1, kStretch * config.max_tokens / (total / n));
    for (int64_t begin = 0; begin < n; begin += stretch)
      std::stable_sort(order.begin() + begin, order.begin() + std::min(begin + stretch, n),
                       [&](uint32_t a, uint32_t b) { return rows(a) < rows(b); });
  }

  void give(int64_t index, Batch& out) const {
    out.clear();
    if (config.stream_chunk > 0) {
      const int64_t length = stream_length();
      out.past_length = index * config.stream_chunk;
      const int64_t rows = std::min(config.stream_chunk, length - out.past_length);
      for (int64_t b = 0; b < config.batch_size; ++b)
        add_rows(data, b * length + out.past_length, rows, out);
    } else if (by_pairs) {
      const auto batch = permuted(static_cast<uint64_t>(index));
      for (uint32_t i = starts[batch]; i < starts[batch + 1]; ++i) add_pair(data, order[i], out);
    } else {
      const int64_t in_batch = sequences_in_batch(data, config);
      const int64_t end = std::min(windows, (index + 1) * in_batch);
      for (int64_t i = index * in_batch; i < end; ++i) {
        const auto window = static_cast<int64_t>(permuted(static_cast<uint64_t>(i)));
        add_sequence(data, offset + window * config.context, config.context, 0, out);
      }
    }
  }
};

Batches::Batches(const DataSet& data, const BatchConfig& config, uint64_t seed)
    : impl_(std::make_unique<Impl>(data, config, seed)) {}
Batches::~Batches() = default;
Batches::Batches(Batches&&) noexcept = default;
Batches& Batches::operator=(Batches&&) noexcept = default;

void Batches::next(Batch& out) {
  if (impl_->at.index == impl_->batches) {
    impl_->at = {impl_->at.epoch + 1, 0};
    impl_->plan();
  }
  impl_->give(impl_->at.index, out);
  ++impl_->at.index;
}

Batches::Position Batches::position() const { return impl_->at; }

void Batches::seek(Position position) {
  const bool same_epoch = impl_->at.epoch == position.epoch;
  impl_->at = {position.epoch, 0};
  if (!same_epoch) impl_->plan();
  if (position.index < 0 || position.index > impl_->batches)
    throw_error("{}: batch {} of epoch {}, which has {}: not the data this was trained on",
                impl_->data.name(), position.index, position.epoch, impl_->batches);
  impl_->at = position;
}

int64_t Batches::batches_in_epoch() const { return impl_->batches; }

double Batches::padding_efficiency() const { return impl_->efficiency; }

int64_t Batches::skipped() const {
  return impl_->by_pairs
             ? impl_->data.sequences() - static_cast<int64_t>(impl_->short_enough.size())
             : 0;
}

void add_rows(const DataSet& data, int64_t first, int64_t rows, Batch& out) {
  add_sequence(data, first, rows, 0, out);
}

bool next_in_order(const DataSet& data, const BatchConfig& config, Batch& out, int64_t& cursor) {
  check_config(data, config);
  REFRAIN_CHECK(cursor >= 0);
  out.clear();
  const int64_t most = sequences_in_batch(data, config);
  if (!data.has_pairs()) {
    if (data.tokens() < 2)
      throw_error("{}: {} ids of text, expected at least 2", data.name(), data.tokens());
    while (cursor < data.tokens() - 1 && out.sequences() < most) {
      const int64_t rows = std::min(config.context, data.tokens() - 1 - cursor);
      add_sequence(data, cursor, rows, 0, out);
      cursor += rows;
    }
    return out.sequences() > 0;
  }
  int64_t widest = 0;
  for (; cursor < data.sequences() && out.sequences() < most; ++cursor) {
    if (!fits(data, config, cursor)) continue;
    widest = std::max(widest, data.rows(cursor));
    if (config.max_tokens > 0 && (out.sequences() + 1) * widest > config.max_tokens) break;
    add_pair(data, cursor, out);
  }
  return out.sequences() > 0;
}

std::vector<int64_t> too_long(const DataSet& data, const BatchConfig& config) {
  std::vector<int64_t> pairs;
  if (data.has_pairs())
    for (int64_t i = 0; i < data.sequences(); ++i)
      if (data.rows(i) > longest(config)) pairs.push_back(i);
  return pairs;
}

}  // namespace refrain::data

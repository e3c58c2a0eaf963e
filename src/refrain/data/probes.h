// Probes of what a model can remember: generated sequences of ids. Some positions have a question
// with exactly one correct answer. The file has one sequence per line,
//
//   {"input": [0, 7, 12, ...], "target": [-1, -1, 12, ...]}
//
// with as many targets as inputs, -1 where there is no question. There is no text: the tokenizer of
// probes has the token "<7>" for the id 7.
//
// A kind of probe is a struct of settings (visit). It has its number of ids, check() of the
// settings, and draw(), which makes a sequence from a stream of random numbers, with targets at the
// questions. If a kind is text, it is learned as text: in train.jsonl every next id is a target.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/io/text.h"
#include "refrain/text/tokenizer.h"

namespace refrain::data {

struct ProbeSequence {
  std::vector<int32_t> input, target;
};

// Associative recall (Fu et al., 2023, arXiv 2212.14052): pairs of a key and a value, where a key
// has the same value everywhere in the sequence; then 0, a key that occurred, and a question for
// its value. Of the ids from 1 on, half are keys and the others values.
struct AssociativeRecall {
  static constexpr const char* kName = "recall";
  static constexpr bool kText = true;
  int64_t vocab = 20, pairs = 20;

  template <class V>
  void visit(V&& v) {
    v("vocab", vocab, "ids: 0, keys, and as many values or one more");
    v("pairs", pairs, "pairs shown before the question; keys come again");
  }
  void check() const;
  int64_t ids() const { return vocab; }
  ProbeSequence draw(Random&) const;
};

// Multi-query associative recall (Arora et al., 2023, arXiv 2312.04927): `pairs` of different keys
// and values, keys below vocab / 2 and values from there on; then every key once more, with a
// question for its value. The place of each question is one of (length - 2 pairs) / 2 slots of two
// tokens. Slot i is drawn with a weight of i^-0.99, each slot once. All other ids are 0.
struct MultiQueryRecall {
  static constexpr const char* kName = "multi-query-recall";
  static constexpr bool kText = false;
  int64_t vocab = 8192, length = 64, pairs = 4;
  bool noise = false;

  template <class V>
  void visit(V&& v) {
    v("vocab", vocab, "ids: 0, keys below the half, values from there on");
    v("length", length, "ids of a sequence");
    v("pairs", pairs, "keys with their values");
    v("noise", noise, "any id, and not 0, where nothing is shown or asked");
  }
  void check() const;
  int64_t ids() const { return vocab; }
  ProbeSequence draw(Random&) const;
};

// Induction (Olsson et al., 2022; Fu et al., 2023): random ids from 1 on, with a 0 in one place
// among them; then 0 again, with a question for the id that followed the first 0.
struct Induction {
  static constexpr const char* kName = "induction";
  static constexpr bool kText = true;
  int64_t vocab = 20, length = 30;

  template <class V>
  void visit(V&& v) {
    v("vocab", vocab, "ids: 0, and those drawn");
    v("length", length, "ids of a sequence");
  }
  void check() const;
  int64_t ids() const { return vocab; }
  ProbeSequence draw(Random&) const;
};

// Copying after a delay (Hochreiter and Schmidhuber, 1997; Arjovsky et al., 2016): symbols, a delay
// of 0, and then as many times 1, with questions for the symbols in their order.
struct DelayedCopy {
  static constexpr const char* kName = "copy";
  static constexpr bool kText = false;
  int64_t vocab = 8, symbols = 10, delay = 100;

  template <class V>
  void visit(V&& v) {
    v("vocab", vocab, "symbols to draw from");
    v("symbols", symbols, "symbols to copy");
    v("delay", delay, "ids between them and their copy");
  }
  void check() const;
  int64_t ids() const { return vocab + 2; }
  ProbeSequence draw(Random&) const;
};

// Selective copying (Jing et al., 2019; Gu and Dao, 2023): like copying, but the symbols are
// anywhere among `length` ids, and the others are 0.
struct SelectiveCopy {
  static constexpr const char* kName = "selective-copy";
  static constexpr bool kText = false;
  int64_t vocab = 16, symbols = 10, length = 100;

  template <class V>
  void visit(V&& v) {
    v("vocab", vocab, "symbols to draw from");
    v("symbols", symbols, "symbols to copy");
    v("length", length, "ids that the symbols stand among");
  }
  void check() const;
  int64_t ids() const { return vocab + 2; }
  ProbeSequence draw(Random&) const;
};

// Recall after a gap: pairs of different keys and values, `gap` ids of noise, then 0, a key that
// occurred, and a question for its value. Keys are the ids from 1 to `keys`, then come as many
// values, and then the ids of noise.
struct RecallAfterGap {
  static constexpr const char* kName = "recall-after-gap";
  static constexpr bool kText = false;
  int64_t keys = 8, pairs = 2, gap = 512, noise = 16;

  template <class V>
  void visit(V&& v) {
    v("keys", keys, "keys to draw from, and as many values");
    v("pairs", pairs, "keys with their values");
    v("gap", gap, "ids between them and the question");
    v("noise", noise, "ids that these are drawn from");
  }
  void check() const;
  int64_t ids() const { return 1 + 2 * keys + noise; }
  ProbeSequence draw(Random&) const;
};

// Forecasting: a series of two oscillations with fixed periods, of random sizes and phases around a
// random level, with noise, in `levels` levels; its first `length` values are shown, and there is a
// question for each of the next `horizon`. Ids: the levels; a question for the value after 1, 2,
// ... steps; and one that begins every sequence.
struct Forecast {
  static constexpr const char* kName = "forecast";
  static constexpr bool kText = false;
  int64_t levels = 32, length = 48, horizon = 12;
  double noise = 0.05;

  template <class V>
  void visit(V&& v) {
    v("levels", levels, "values that a series has");
    v("length", length, "values shown");
    v("horizon", horizon, "values to forecast");
    v("noise", noise, "standard deviation of what no forecast can know; oscillations are near 1");
  }
  void check() const;
  int64_t ids() const { return levels + horizon + 1; }
  ProbeSequence draw(Random&) const;

  // What forecasting the last value gives: how often it is right, and the loss in nats when changes
  // have their shares of `count` other series, step by step.
  struct Naive {
    double loss, correct;
  };
  Naive naive(uint64_t seed, int64_t count = 5000) const;
};

struct ProbeSizes {
  int64_t train = 5000, test = 500;
};

struct ProbeKind {
  std::string name;
  int64_t ids;
  bool text;
  std::function<ProbeSequence(Random&)> draw;
};
template <class Probe>
ProbeKind kind_of(const Probe& probe) {
  probe.check();
  return {Probe::kName, probe.ids(), Probe::kText,
          [probe](Random& random) { return probe.draw(random); }};
}

void check_sizes(const ProbeKind& kind, const ProbeSizes& sizes);  // an Error, before any work

// Writes train.jsonl, test.jsonl and the tokenizer into a folder, which is created if it does not
// exist. The same seed gives the same bytes. No sequence of test is in train. An Error if there are
// not enough different sequences.
void write_probes(const ProbeKind& kind, uint64_t seed, const ProbeSizes& sizes,
                  const std::string& folder);

// "<0>" to "<n-1>", and nothing else.
text::Tokenizer number_tokenizer(int64_t n);

// The sequences of a file, one per line. They are checked: ids are below `ids`, and each has a
// question.
class ProbeReader {
 public:
  ProbeReader(const std::string& path, int64_t ids) : reader_(path), ids_(ids) {}
  bool next(ProbeSequence& sequence);  // false at the end

 private:
  io::TextReader reader_;
  int64_t ids_;
  std::string line_;
};

}  // namespace refrain::data

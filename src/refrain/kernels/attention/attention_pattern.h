// Which keys a query sees, and where they are.
//
// The keys of a query come in two lists, each a range that moves forward with the query:
//
//   kStrided  key i has position (i + 1) stride - 1; a query sees those before its window
//   kLocal    key i has position i; a query sees its window, or all up to itself without one
//
// Keys outside of the ranges are never visited: a query costs window + position / stride keys.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "refrain/kernels/attention/attention.h"

namespace refrain::kernels {

struct Range {
  int64_t low, high;  // [low, high)
};

class KeyRange {
 public:
  enum Kind { kStrided, kLocal };
  KeyRange(const AttentionShape& shape, Kind kind)
      : kind_(kind), window_(shape.window), stride_(shape.stride) {}
  Kind kind() const { return kind_; }

  // The part of the list that the query at position t sees.
  Range seen(int64_t t) const {
    const int64_t first = window_ > 0 ? std::max<int64_t>(0, t - window_ + 1) : 0;
    if (kind_ == kLocal) return {first, t + 1};
    return {0, stride_ > 0 ? first / stride_ : 0};
  }
  // Positions of the queries that see key i.
  Range seen_by(int64_t i) const {
    constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
    if (kind_ == kStrided) return {position(i) + window_, kForever};
    return {i, window_ > 0 ? i + window_ : kForever};
  }
  int64_t position(int64_t i) const { return kind_ == kLocal ? i : (i + 1) * stride_ - 1; }

  // The longest run of evenly spaced rows from key i on, at most `most` long. k is null where there
  // are no such rows.
  template <class T>
  struct Run {
    T *k, *v;
    int64_t row, length;
  };
  template <class T>
  Run<T> run(const AttentionKeys<T>& keys, int64_t start, int64_t i, int64_t most) const {
    const int64_t p = position(i);
    if (p >= start) {
      const int64_t row = (kind_ == kLocal ? 1 : stride_) * keys.own.row;
      return rows(keys.own.k, keys.own.v, (p - start) * keys.own.row, row, most);
    }
    if (kind_ == kStrided)
      return rows(keys.strided.k, keys.strided.v, i * keys.strided.row, keys.strided.row,
                  std::min(most, start / stride_ - i));
    const int64_t slot = window_ > 0 ? p % window_ : p;
    const int64_t end = window_ > 0 ? window_ - slot : most;
    return rows(keys.past.k, keys.past.v, slot * keys.past.row, keys.past.row,
                std::min({most, start - p, end}));
  }

 private:
  template <class T>
  static Run<T> rows(T* k, T* v, int64_t offset, int64_t row, int64_t length) {
    return {k ? k + offset : nullptr, v ? v + offset : nullptr, row, length};
  }

  Kind kind_;
  int64_t window_, stride_;
};

inline Range intersection(Range a, Range b) {
  return {std::max(a.low, b.low), std::min(a.high, b.high)};
}
inline Range shifted(Range range, int64_t by) { return {range.low + by, range.high + by}; }

// Multiply-adds of one product of queries and keys: an estimate, to decide whether to share them.
inline int64_t attention_work(const AttentionShape& shape, int64_t queries, int64_t start) {
  int64_t keys = start + queries;
  if (shape.window > 0)
    keys = std::min(keys, shape.window + (shape.stride > 0 ? keys / shape.stride : 0));
  return queries * keys * shape.heads * shape.head_dim;
}

}  // namespace refrain::kernels

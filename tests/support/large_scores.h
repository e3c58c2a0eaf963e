// What tests of attention with large scores share: queries and keys whose scores float32 has to the
// last bit, whatever their size, and attention with its gradients in float64. So what a kernel may
// be off by is what it does after the scores, and that does not grow with them.
#pragma once
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "support/kernel_testing.h"

namespace refrain {

// A score is ± 2^(q + k) plus a small integer times 2^(of_q + of_k): what all of a row's scores
// have in common, and what tells them apart.
struct ScoreSize {
  int q, k, of_q = 0, of_k = 0;

  // Rows of several heads, `row` floats apart.
  struct Rows {
    std::span<float> values;
    int64_t row, columns, head_dim;
  };
  // Common parts have the sign of the row's parity.
  static void fill(const Rows& rows, uint64_t key, int common, int apart, bool signs) {
    Random random(key);
    for (int64_t i = 0; i * rows.row < static_cast<int64_t>(rows.values.size()); ++i)
      for (int64_t j = 0; j < rows.columns; ++j) {
        const double small = std::floor(7 * random.uniform()) - 3;
        const double value = j % rows.head_dim == 0
                                 ? std::ldexp(signs && i % 2 == 1 ? -1 : 1, common)
                                 : std::ldexp(small, apart);
        rows.values[static_cast<size_t>(i * rows.row + j)] = static_cast<float>(value);
      }
  }
  void fill_q(const Rows& rows) const { fill(rows, 21, q, of_q, true); }
  void fill_k(const Rows& rows) const { fill(rows, 22, k, of_k, false); }
  std::string name() const { return "scores of 2^" + std::to_string(q + k); }
};

// Differences of a few units up to 2^23, where a float32 ends; then ties and differences that leave
// one key everything, up to scores far beyond float32. No gradient overflows.
inline const std::vector<ScoreSize> kScoreSizes = {
    {3, 4},           {5, 9},           {10, 10},         {11, 12},          {15, 16, 6, 5},
    {20, 20, 10, 10}, {32, 31, 20, 20}, {63, 63, 50, 56}, {100, 64, 90, 60}, {100, 85, 90, 77}};

// One of the arrays of AttentionInDouble: values, and the sizes of the terms they are sums of.
struct Sums {
  std::vector<double> value, size;
  explicit Sums(size_t n) : value(n), size(n) {}
  void add(int64_t i, double weight, double weight_size, double x) {
    value[static_cast<size_t>(i)] += weight * x;
    size[static_cast<size_t>(i)] += weight_size * std::abs(x);
  }
};

// One head, dense: q and d_o [m, d], k and v [n, d].
struct HeadInDouble {
  int64_t d;
  double scale;
  std::vector<double> q, k, v, d_o;
};

struct AttentionInDouble {
  Sums o, dq, dk, dv;

  template <class Sees>
  AttentionInDouble(const HeadInDouble& head, const Sees& sees)
      : o(head.q.size()), dq(head.q.size()), dk(head.k.size()), dv(head.v.size()) {
    const int64_t d = head.d;
    const double scale = head.scale;
    const std::vector<double>&q = head.q, &k = head.k, &v = head.v, &d_o = head.d_o;
    const auto m = static_cast<int64_t>(q.size()) / d, n = static_cast<int64_t>(k.size()) / d;
    const auto dot = [d](const std::vector<double>& a, int64_t i, const std::vector<double>& b,
                         int64_t j, bool sizes) {
      double sum = 0;
      for (int64_t c = 0; c < d; ++c) {
        const double term = a[static_cast<size_t>(i * d + c)] * b[static_cast<size_t>(j * d + c)];
        sum += sizes ? std::abs(term) : term;
      }
      return sum;
    };
    for (int64_t i = 0; i < m; ++i) {
      std::vector<double> p(static_cast<size_t>(n)), dp(p.size()), dp_size(p.size());
      double top = -INFINITY, sum = 0, delta = 0, delta_size = 0;
      for (int64_t j = 0; j < n; ++j) {
        p[static_cast<size_t>(j)] = sees(i, j) ? scale * dot(q, i, k, j, false) : -INFINITY;
        top = std::max(top, p[static_cast<size_t>(j)]);
      }
      for (double& x : p) sum += x = std::exp(x - top);
      for (size_t j = 0; j < p.size(); ++j) {
        p[j] /= sum;
        dp[j] = dot(d_o, i, v, static_cast<int64_t>(j), false);
        dp_size[j] = dot(d_o, i, v, static_cast<int64_t>(j), true);
        delta += p[j] * dp[j];
        delta_size += p[j] * dp_size[j];
      }
      for (int64_t j = 0; j < n; ++j) {
        const auto at = static_cast<size_t>(j);
        const double ds = scale * p[at] * (dp[at] - delta);
        const double ds_size = scale * p[at] * (dp_size[at] + delta_size);
        for (int64_t c = 0; c < d; ++c) {
          const int64_t of_q = i * d + c, of_k = j * d + c;
          o.add(of_q, p[at], p[at], v[static_cast<size_t>(of_k)]);
          dv.add(of_k, p[at], p[at], d_o[static_cast<size_t>(of_q)]);
          dq.add(of_q, ds, ds_size, k[static_cast<size_t>(of_k)]);
          dk.add(of_k, ds, ds_size, q[static_cast<size_t>(of_q)]);
        }
      }
    }
  }
};

// got(i) is want's value i, but for `error` of the size of its terms.
template <class Got>
void expect_near(const char* what, const Sums& want, double error, const Got& got) {
  for (size_t i = 0; i < want.value.size(); ++i)
    ASSERT_LE(std::abs(double{got(static_cast<int64_t>(i))} - want.value[i]),
              error * want.size[i] + 1e-36)
        << what << "[" << i << "]: " << got(static_cast<int64_t>(i)) << ", expected "
        << want.value[i];
}

}  // namespace refrain

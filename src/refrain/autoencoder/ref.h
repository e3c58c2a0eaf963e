// Reference implementation of the sequence autoencoder: plain loops, for any number type. It is the
// specification of autoencoder.h. Weights are looked up by their names in files.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "refrain/autoencoder/config.h"
#include "refrain/kernels/attention/cross_attention_ref.h"
#include "refrain/kernels/loss/reconstruction_loss.h"
#include "refrain/kernels/sequence/recurrent_ref.h"

namespace refrain {

template <class T>
class AutoencoderRef {
 public:
  using Vector = std::vector<T>;

  AutoencoderRef(const AutoencoderConfig& config, const std::map<std::string, Vector>& weights)
      : c_(config), w_(weights) {}

  // Dropout: what element j of that which layer l reads at step t is multiplied with; none = 1.
  std::function<double(bool decoder, int64_t l, int64_t t, int64_t j)> dropout;

  // One sequence, x [tokens, E]: the outputs, and in `loss` the sum of the rows' losses.
  Vector run(int64_t tokens, const Vector& x, std::span<const uint8_t> forced, T& loss) const {
    return run(tokens, x, x, forced, loss);
  }
  // With targets other than x, for the gradient of x as an input.
  Vector run(int64_t tokens, const Vector& x, const Vector& target, std::span<const uint8_t> forced,
             T& loss) const {
    const int64_t H = c_.hidden, E = c_.width, S = kernels::states_of(c_.kind_of_cell());
    std::vector<Vector> state(static_cast<size_t>(c_.layers), Vector(size(S * H)));
    Vector memory;
    for (int64_t t = 0; t < tokens; ++t) append(memory, step(false, t, state, part(x, t * E, E)));
    Vector read = memory;
    if (c_.reads_positions())
      for (int64_t i = 0; i < tokens * H; ++i) read[size(i)] += position(i / H, i % H);
    Vector z = linear("bottleneck", part(memory, (tokens - 1) * H, H));
    if (c_.bottleneck_norm == "rms_norm") {
      T sum = 0;
      for (const T& v : z) sum += v * v;
      for (size_t i = 0; i < z.size(); ++i)
        z[i] *= at("bottleneck_norm.weight")[i] /
                std::sqrt(sum / static_cast<double>(c_.bottleneck) + 1e-5);
    }
    return decode(z, read, x, target, forced, loss);
  }

  // The decoder alone, from the bottleneck z and what attention reads of the encoder, [tokens, H].
  Vector decode(const Vector& z, const Vector& read, const Vector& x, const Vector& target,
                std::span<const uint8_t> forced, T& loss) const {
    const int64_t H = c_.hidden, E = c_.width, S = kernels::states_of(c_.kind_of_cell());
    const int64_t tokens = static_cast<int64_t>(target.size()) / E;
    std::vector<Vector> state(static_cast<size_t>(c_.layers), Vector(size(S * H)));
    const Vector start = linear("decoder.start", z);
    for (size_t i = 0; i < start.size(); ++i)
      state[i / size(S * H)][i % size(S * H)] = std::tanh(start[i]);

    Vector all, past;
    loss = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      Vector u(size(E));
      if (t > 0) {
        const bool given = t < std::ssize(forced) && forced[static_cast<size_t>(t)];
        u = part(given ? x : all, (t - 1) * E, E);
      }
      Vector h = step(true, t, state, u);
      if (c_.has_attention()) {
        for (int64_t j = 0; j < H; ++j) h[size(j)] += position(t, j);
        append(past, h);
        Vector joined = h;
        append(joined, attend(t, h, c_.reads_encoder() ? read : past));
        h = linear("decoder.context", joined);
        for (T& s : h)
          if (!(kernels::real_part(s) > 0)) s = 0;
      }
      const Vector y = linear("decoder.out", h);
      loss += row_loss(y, part(target, t * E, E));
      append(all, y);
    }
    return all;
  }

 private:
  static size_t size(int64_t n) { return static_cast<size_t>(n); }
  static Vector part(const Vector& v, int64_t first, int64_t n) {
    return {v.begin() + first, v.begin() + first + n};
  }
  static void append(Vector& to, const Vector& v) { to.insert(to.end(), v.begin(), v.end()); }
  const Vector& at(const std::string& name) const { return w_.at(name); }

  // rows x wᵀ (+ b)
  static Vector times(const Vector& w, const Vector& x) {
    Vector y(w.size() / x.size());
    for (size_t i = 0; i < y.size(); ++i)
      for (size_t j = 0; j < x.size(); ++j) y[i] += w[i * x.size() + j] * x[j];
    return y;
  }
  Vector linear(const std::string& name, const Vector& x) const {
    Vector y = times(at(name + ".weight"), x);
    for (size_t i = 0; i < y.size(); ++i) y[i] += at(name + ".bias")[i];
    return y;
  }
  double position(int64_t t, int64_t j) const {
    const double angle =
        static_cast<double>(t) *
        std::pow(10000.0, -2.0 * static_cast<double>(j / 2) / static_cast<double>(c_.hidden));
    return j % 2 == 0 ? std::sin(angle) : std::cos(angle);
  }
  // One step of a stack of cells; the topmost h.
  Vector step(bool decoder, int64_t t, std::vector<Vector>& state, Vector x) const {
    const int64_t H = c_.hidden;
    for (size_t l = 0; l < state.size(); ++l) {
      const std::string name = (decoder ? "decoder.cells." : "encoder.") + std::to_string(l) + ".";
      for (size_t j = 0; dropout && j < x.size(); ++j)
        x[j] *= dropout(decoder, static_cast<int64_t>(l), t, static_cast<int64_t>(j));
      Vector a = times(at(name + "weight_ih_l0"), x), h(size(H));
      for (size_t i = 0; i < a.size(); ++i) a[i] += at(name + "bias_ih_l0")[i];
      const kernels::RecurrentCellRef<T> cell{
          c_.kind_of_cell(), H, at(name + "weight_hh_l0").data(), at(name + "bias_hh_l0").data()};
      cell.forward(1, a.data(), h.data(), state[l].data());
      x = h;
    }
    return x;
  }
  Vector attend(int64_t t, const Vector& r, const Vector& all) const {
    const int64_t H = c_.hidden, width = c_.attention_width(), d = width / c_.heads;
    const int64_t before = c_.reads_itself() && c_.window > 0 ? std::min(t, c_.window - 1) : t;
    const Vector memory = c_.reads_itself() ? part(all, (t - before) * H, (before + 1) * H) : all;
    const int64_t rows = static_cast<int64_t>(memory.size()) / H;
    const Vector q = times(at("decoder.attention.q_proj.weight"), r);
    Vector o(size(width)), k(size(rows * d)), v(size(rows * d));
    for (int64_t h = 0; h < c_.heads; ++h) {
      for (int64_t j = 0; j < rows; ++j) {
        const Vector m = part(memory, j * H, H);
        const Vector key = times(at("decoder.attention.k_proj.weight"), m);
        const Vector value = times(at("decoder.attention.v_proj.weight"), m);
        std::copy_n(key.begin() + h * d, d, k.begin() + j * d);
        std::copy_n(value.begin() + h * d, d, v.begin() + j * d);
      }
      const kernels::CrossHeadRef head{1,
                                       rows,
                                       d,
                                       1 / std::sqrt(static_cast<double>(d)),
                                       c_.reads_encoder() ? c_.window : 0,
                                       c_.stride,
                                       t};
      head.forward(q.data() + h * d, k.data(), v.data(), o.data() + h * d);
    }
    return o;
  }
  T row_loss(const Vector& y, const Vector& x) const {
    T xx = 0, yy = 0, xy = 0, apart = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      xx += x[i] * x[i];
      yy += y[i] * y[i];
      xy += x[i] * y[i];
    }
    const bool by_cosine = c_.loss == "cosine";
    const T length = by_cosine ? std::sqrt(xx) : T(1);
    for (size_t i = 0; i < y.size(); ++i) {
      const T difference = y[i] - x[i] / length;
      apart += difference * difference / static_cast<double>(y.size());
    }
    if (!by_cosine) return apart;
    const T cosine = xy / (std::sqrt(xx) * std::sqrt(yy));
    return kernels::kCosineShare * (1.0 - cosine) + kernels::kDistanceShare * apart;
  }

  const AutoencoderConfig& c_;
  const std::map<std::string, Vector>& w_;
};

}  // namespace refrain

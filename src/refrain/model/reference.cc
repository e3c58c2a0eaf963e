#include "refrain/model/reference.h"

#include <cmath>

#include "refrain/kernels/activation_ref.h"
#include "refrain/kernels/attention_ref.h"
#include "refrain/kernels/cross_entropy_ref.h"
#include "refrain/kernels/embedding_ref.h"
#include "refrain/kernels/rms_norm_ref.h"
#include "refrain/kernels/rope_ref.h"
#include "refrain/mixers/attention/attention.h"
#include "refrain/model/checkpoint.h"

namespace refrain {
namespace {

// The twins take views that may write, and do not write to what they read.
template <class T>
TensorOf<T> view(const std::vector<T>& values, int64_t columns) {
  return {const_cast<T*>(values.data()), {static_cast<int64_t>(values.size()) / columns, columns}};
}

template <class T>
void add(const std::vector<T>& from, std::vector<T>& to) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

}  // namespace

template <class T>
ReferenceModel<T>::ReferenceModel(LanguageModel& model)
    : config_(model.config()), mixer_settings_(model.mixer_settings()) {
  for (const std::string& kind : config_.mixers())
    if (kind != "attention") throw_error("the mixer '{}' has no plain form to compare with", kind);
  visit_file_tensors(
      model, [&](const std::string& name, Tensor w) { weights_[name].assign(w.begin(), w.end()); });
}

// x [R, in] times the named matrix [out, in], transposed.
template <class T>
std::vector<T> ReferenceModel<T>::linear(const Vector& x, const std::string& name,
                                         int64_t in) const {
  const TensorOf<T> from = view(x, in), w = view(weight(name), in);
  Vector y(static_cast<size_t>(from.rows() * w.rows()));
  const TensorOf<T> to = view(y, w.rows());
  for (int64_t row = 0; row < from.rows(); ++row)
    for (int64_t o = 0; o < w.rows(); ++o) {
      T sum = 0;
      for (int64_t i = 0; i < in; ++i) sum += from.row(row)[i] * w.row(o)[i];
      to.row(row)[o] = sum;
    }
  return y;
}

template <class T>
std::vector<T> ReferenceModel<T>::rms_norm(Vector x, const std::string& name) const {
  const int64_t D = config_.d_model;
  Vector reciprocal(x.size() / static_cast<size_t>(D));
  kernels::rms_norm_ref(view(x, D), view(weight(name), D), config_.rms_norm_eps, view(x, D),
                        view(reciprocal, 1));
  return x;
}

template <class T>
std::vector<T> ReferenceModel<T>::attention(const Vector& x, const std::string& prefix,
                                            Vector* state) const {
  const int64_t D = config_.d_model, d = config_.head_dim, H = config_.heads, G = config_.kv_heads;
  const int64_t rows = static_cast<int64_t>(x.size()) / D;
  const auto settings = mixer_settings_.get<AttentionConfig>("attention.");
  const auto pairing = settings.rope_pairing == "half" ? kernels::RopePairing::kHalf
                                                       : kernels::RopePairing::kAdjacent;
  Vector q = linear(x, prefix + "q_proj.weight", D), k = linear(x, prefix + "k_proj.weight", D);
  const Vector v = linear(x, prefix + "v_proj.weight", D);
  const auto rotate = [&](Vector& values, int64_t heads) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t h = 0; h < heads; ++h)
        kernels::rope_ref(view(values, heads * d).row(row) + h * d, d, settings.rope_theta,
                          static_cast<double>(row), pairing);
  };
  rotate(q, H);
  rotate(k, G);
  // Head h of [rows, heads d] as [rows, d] of its own.
  const auto head = [&](const Vector& values, int64_t heads, int64_t h) {
    Vector one;
    for (int64_t row = 0; row < rows; ++row) {
      const T* from = view(values, heads * d).row(row) + h * d;
      one.insert(one.end(), from, from + d);
    }
    return one;
  };
  Vector mixed(static_cast<size_t>(rows * H * d)), out(static_cast<size_t>(rows * d));
  for (int64_t h = 0; h < H; ++h) {
    const int64_t g = h / (H / G);
    kernels::attention_ref(rows, rows, d, 1 / std::sqrt(static_cast<double>(d)),
                           head(q, H, h).data(), head(k, G, g).data(), head(v, G, g).data(),
                           out.data());
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < d; ++i)
        view(mixed, H * d).row(row)[h * d + i] = view(out, d).row(row)[i];
  }
  if (state) {
    state->clear();
    for (int64_t row = 0; row < rows; ++row)
      for (const TensorOf<T>& part : {view(k, G * d), view(v, G * d)})
        state->insert(state->end(), part.row(row), part.row(row) + G * d);
  }
  return linear(mixed, prefix + "o_proj.weight", H * d);
}

template <class T>
std::vector<T> ReferenceModel<T>::feed_forward(const Vector& x, const std::string& prefix) const {
  Vector gate = linear(x, prefix + "gate_proj.weight", config_.d_model);
  const Vector up = linear(x, prefix + "up_proj.weight", config_.d_model);
  for (size_t i = 0; i < gate.size(); ++i)
    gate[i] = kernels::activation_ref(kernels::Activation::kSilu, gate[i]) * up[i];
  return linear(gate, prefix + "down_proj.weight", config_.d_ff);
}

template <class T>
std::vector<T> ReferenceModel<T>::logits(std::span<const int32_t> tokens,
                                         std::vector<Vector>* states) const {
  const int64_t D = config_.d_model;
  Vector x(tokens.size() * static_cast<size_t>(D));
  kernels::embedding_ref(tokens, view(weight("model.embed_tokens.weight"), D), view(x, D));
  if (states) states->resize(static_cast<size_t>(config_.layers));
  for (int64_t l = 0; l < config_.layers; ++l) {
    const std::string block = "model.layers." + std::to_string(l) + ".";
    Vector* state = states ? &(*states)[static_cast<size_t>(l)] : nullptr;
    add(attention(rms_norm(x, block + "input_layernorm.weight"), block + "self_attn.", state), x);
    add(feed_forward(rms_norm(x, block + "post_attention_layernorm.weight"), block + "mlp."), x);
  }
  const char* head = config_.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  return linear(rms_norm(std::move(x), "model.norm.weight"), head, D);
}

template <class T>
T ReferenceModel<T>::loss(std::span<const int32_t> tokens, std::span<const int32_t> targets) const {
  Vector log_p = logits(tokens), losses(tokens.size());
  const TensorOf<T> rows = view(log_p, config_.vocab_size);
  kernels::log_softmax_ref(rows, rows);
  kernels::cross_entropy_ref(rows, targets, 0, view(losses, 1));
  T sum = 0;
  for (const T& loss : losses) sum += loss;
  return sum;
}

template class ReferenceModel<double>;
template class ReferenceModel<std::complex<double>>;

}  // namespace refrain

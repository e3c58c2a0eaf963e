#include "refrain/model/reference.h"

#include <cmath>
#include <memory>

#include "refrain/kernels/elementwise/activation_ref.h"
#include "refrain/kernels/elementwise/embedding_ref.h"
#include "refrain/kernels/elementwise/reduce_ref.h"
#include "refrain/kernels/elementwise/rms_norm_ref.h"
#include "refrain/kernels/loss/cross_entropy_ref.h"
#include "refrain/mixers/registry.h"

namespace refrain {
namespace {

// The references take views that may write, and do not write to what they read.
template <class T>
TensorOf<T> view(const std::vector<T>& values, int64_t columns) {
  return {const_cast<T*>(values.data()), {static_cast<int64_t>(values.size()) / columns, columns}};
}

constexpr const char* kMixer = "mixer.";

std::string block_name(size_t l) { return "layers." + std::to_string(l) + "."; }

template <class T>
void add(const std::vector<T>& from, std::vector<T>& to) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

}  // namespace

template <class T>
ReferenceModel<T>::ReferenceModel(LanguageModel& model)
    : config_(model.config()),
      cache_type_(model.cache_type()),
      mixer_weights_(static_cast<size_t>(config_.layers)) {
  model.parameters().visit([&](const ParamSpec& spec, Param&) {
    for (size_t l = 0; l < mixer_weights_.size(); ++l) {
      if (!spec.name.starts_with(block_name(l) + kMixer)) continue;
      std::vector<std::string>& names = mixer_weights_[l].emplace_back();
      for (const ParamPart& part : spec.parts) names.push_back(part.name);
      if (spec.parts.empty()) names.push_back(spec.name);
    }
  });
  for (const ParameterStore::Entry& entry : model.parameters().entries()) {
    const ParamSpec& spec = entry.spec;
    std::vector<float> whole(static_cast<size_t>(spec.size()));
    Tensor rows = entry.param->w;
    rows.data = whole.data();
    model.parameters().read_rows(entry, rows);
    const int64_t columns = spec.size() / spec.shape[0];
    auto at = whole.begin();
    for (const ParamPart& part : spec.parts) {
      weights_[part.name].assign(at, at + part.rows * columns);
      at += part.rows * columns;
    }
    if (spec.parts.empty()) weights_[spec.name].assign(whole.begin(), whole.end());
  }
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
std::vector<T> ReferenceModel<T>::norm(Vector x, const std::string& name) const {
  const int64_t D = config_.d_model;
  if (config_.centred()) kernels::center_rows_ref(view(x, D), view(x, D));
  Vector reciprocal(x.size() / static_cast<size_t>(D));
  kernels::rms_norm_ref(view(x, D), view(weight(name + ".weight"), D), config_.rms_norm_eps,
                        view(x, D), view(reciprocal, 1));
  return config_.centred() ? plus(std::move(x), name + ".bias") : x;
}

template <class T>
std::vector<T> ReferenceModel<T>::plus(Vector rows, const std::string& bias) const {
  const Vector& b = weight(bias);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] += b[i % b.size()];
  return rows;
}

template <class T>
std::vector<T> ReferenceModel<T>::mixer(const Vector& x, size_t block, Vector* state) const {
  std::vector<Vector> weights;
  for (const auto& parts : mixer_weights_[block]) {
    Vector& whole = weights.emplace_back();
    for (const std::string& name : parts)
      whole.insert(whole.end(), weight(name).begin(), weight(name).end());
  }
  const size_t tokens = x.size() / static_cast<size_t>(config_.d_model);
  const MixerConfig& kind = config_.mixers[block];
  const std::unique_ptr<Mixer> fast = make_mixer(kind, config_.mixer_dims());
  const size_t state_bytes = fast->state_bytes(static_cast<int64_t>(tokens));
  Vector y(x.size()), left(state_bytes / sizeof(float));
  MixerDims dims = config_.mixer_dims();
  dims.cache_type = cache_type_;
  reference_forward<T>(kind, dims,
                       {weights, static_cast<int64_t>(tokens), x.data(), y.data(), left.data()});
  if (state) *state = std::move(left);
  return y;
}

template <class T>
std::vector<T> ReferenceModel<T>::feed_forward(const Vector& x, const std::string& prefix) const {
  Vector up = linear(x, prefix + "up_proj.weight", config_.d_model);
  if (!config_.gated()) {
    const bool bias = config_.feed_forward_bias;
    if (bias) up = plus(std::move(up), prefix + "up_proj.bias");
    const kernels::Activation f = config_.plain_activation().value();
    for (T& value : up) value = kernels::activation_ref(f, value, config_.precision());
    Vector down = linear(up, prefix + "down_proj.weight", config_.d_ff);
    return bias ? plus(std::move(down), prefix + "down_proj.bias") : down;
  }
  Vector gate = linear(x, prefix + "gate_proj.weight", config_.d_model);
  for (size_t i = 0; i < gate.size(); ++i)
    gate[i] =
        kernels::activation_ref(kernels::Activation::kSilu, gate[i], config_.precision()) * up[i];
  return linear(gate, prefix + "down_proj.weight", config_.d_ff);
}

template <class T>
std::vector<T> ReferenceModel<T>::logits(std::span<const int32_t> tokens,
                                         std::vector<Vector>* states) const {
  const int64_t D = config_.d_model;
  Vector x(tokens.size() * static_cast<size_t>(D));
  kernels::embedding_ref(tokens, view(weight("embedding.weight"), D), view(x, D));
  if (config_.learned_positions) {
    const Vector& positions = weight("position_embedding.weight");
    for (size_t i = 0; i < x.size(); ++i) x[i] += positions[i];
  }
  if (states) states->resize(static_cast<size_t>(config_.layers));
  for (size_t l = 0; l < mixer_weights_.size(); ++l) {
    const std::string block = block_name(l);
    Vector* state = states ? &(*states)[l] : nullptr;
    if (config_.bare()) {
      x = mixer(x, l, state);
      continue;
    }
    add(mixer(norm(x, block + "mixer_norm"), l, state), x);
    add(feed_forward(norm(x, block + "feed_forward_norm"), block + "feed_forward."), x);
  }
  if (!config_.bare()) x = norm(std::move(x), "norm");
  Vector logits = linear(x, config_.tie_embeddings ? "embedding.weight" : "head.weight", D);
  return config_.bare() ? plus(std::move(logits), "head.bias") : logits;
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

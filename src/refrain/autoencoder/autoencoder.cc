#include "refrain/autoencoder/autoencoder.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>

#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/kernels/elementwise/embedding.h"
#include "refrain/kernels/elementwise/rms_norm.h"
#include "refrain/layers/dropout.h"

namespace refrain {
namespace {

constexpr float kNormEps = 1e-5f;
constexpr const char* kModelType = "refrain_autoencoder";

// Of dropout; the decoder has the odd ones.
uint64_t encoder_site(size_t layer) { return 2 * layer; }

AutoencoderConfig checked(const AutoencoderConfig& config) {
  config.check();
  return config;
}

void check_lengths(const RaggedBatch& w) {
  for (int64_t b = 0; b < w.sequences(); ++b)
    if (w.length(b) < 1)
      throw_error("sequence {}: expected a token that no mask hides, found none", b + 1);
}

}  // namespace

Autoencoder::Autoencoder(const AutoencoderConfig& config, Memory memory)
    : config_(checked(config)), squeeze_{config.hidden, config.bottleneck, true}, decoder_(config) {
  for (int64_t l = 0; l < config_.layers; ++l)
    encoder_.emplace_back(config_.kind_of_cell(), l == 0 ? config_.width : config_.hidden,
                          config_.hidden);
  parameters_.declare([this](const ParamVisitor& v) { visit(v); });
  if (memory == Memory::kTaken) parameters_.allocate();
}

void Autoencoder::visit(const ParamVisitor& v) {
  if (config_.vocab_size > 0)
    v({"table.weight", {config_.vocab_size, config_.width}, Init::normal(1), false}, table_);
  for (size_t l = 0; l < encoder_.size(); ++l)
    encoder_[l].visit(prefixed(v, "encoder." + std::to_string(l) + "."));
  squeeze_.visit(v, "bottleneck.weight",
                 Init::normal(1 / std::sqrt(static_cast<float>(config_.hidden))));
  if (config_.bottleneck_norm == "rms_norm")
    v({"bottleneck_norm.weight", {config_.bottleneck}, Init::constant(1), false}, norm_);
  decoder_.visit(prefixed(v, "decoder."));
}

Autoencoder::Encoded Autoencoder::encode(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x,
                                         Arena* saved, Arena& rows) const {
  const int64_t B = w.sequences(), H = config_.hidden, Z = config_.bottleneck;
  const bool again = saved && ctx.checkpoint_interval > 0;
  Encoded e;
  Tensor below;
  if (again) {
    e.m = rows.take({w.rows(), H});
    below = ctx.scratch.take({w.rows(), H});
  }
  ConstTensor in = x;
  for (size_t l = 0; l < encoder_.size(); ++l) {
    std::optional<Arena::Frame> frame;
    if (saved) frame.emplace(ctx.scratch);
    e.runs.push_back(encoder_[l].forward(ctx, w, layer_input(ctx, w, in, l), {}, saved));
    Tensor h = e.runs.back().rows.h;
    if (again) {
      const Tensor to = l + 1 == encoder_.size() ? e.m : below;
      if (!ctx.planning()) std::copy_n(h.data, h.size(), to.data);
      h = to;
    } else {
      e.m = h;
    }
    in = h;
  }
  e.last = rows.take({B, H});
  e.z = rows.take({B, Z});
  if (!ctx.planning())
    for (int64_t b = 0; b < B; ++b)
      std::copy_n(e.m.row(w.first(b) + w.length(b) - 1), H, e.last.row(b));
  squeeze_.forward(ctx.in_float32(), e.last, e.z);
  if (norm_.w.rank == 0) return e;
  e.r = rows.take({B});
  e.normed = rows.take({B, Z});
  if (!ctx.planning()) kernels::rms_norm_forward(e.z, {norm_.w, kNormEps}, e.normed, e.r);
  return e;
}

ConstTensor Autoencoder::memory(ExecutionContext& ctx, const RaggedBatch& w, const Encoded& e,
                                Arena& arena) const {
  if (!config_.reads_positions()) return e.m;
  const Tensor m = arena.take({w.rows(), config_.hidden});
  add_position_codes(ctx, w, e.m, m);
  return m;
}

void Autoencoder::encode_backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x,
                                  const Encoded& e, const Decoder::Gradients& given,
                                  Tensor dx) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t B = w.sequences(), H = config_.hidden;
  const Tensor dlast = ctx.scratch.take({B, H});
  Tensor dz = given.dz;
  if (norm_.w.rank > 0) {
    dz = ctx.scratch.take({B, config_.bottleneck});
    if (!ctx.planning()) kernels::rms_norm_backward(e.z, norm_.w, e.r, given.dz, {dz, norm_.g});
  }
  squeeze_.backward(ctx.in_float32().over({}), e.last, dz, dlast);
  for (int64_t b = 0; b < B && !ctx.planning(); ++b) {
    float* to = given.dm.row(w.first(b) + w.length(b) - 1);
    for (int64_t j = 0; j < H; ++j) to[j] += dlast.row(b)[j];
  }
  std::vector<Recurrent::Activations> runs = e.runs;
  if (ctx.checkpoint_interval > 0) {
    ConstTensor in = x;
    for (size_t l = 0; l < encoder_.size(); ++l) {
      runs[l] = encoder_[l].recompute_forward(ctx, layer_input(ctx, w, in, l), runs[l]);
      in = runs[l].rows.h;
    }
  }
  Tensor dh = given.dm;
  for (size_t l = encoder_.size(); l-- > 0;) {
    const Tensor din = l == 0 ? dx : ctx.scratch.take({w.rows(), H});
    const ConstTensor in = layer_input(ctx, w, l == 0 ? x : runs[l - 1].rows.h, l);
    encoder_[l].backward(ctx, in, runs[l], dh, din, {});
    apply_dropout(ctx, w, din, encoder_site(l));
    dh = din;
  }
}

ConstTensor Autoencoder::layer_input(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor below,
                                     size_t l) const {
  if (ctx.dropout.rate == 0) return below;
  const Tensor in = ctx.scratch.take({below.rows(), below.cols()});
  if (!ctx.planning()) std::copy_n(below.data, below.size(), in.data);
  apply_dropout(ctx, w, in, encoder_site(l));
  return in;
}

void Autoencoder::train(const ExecutionContext& context, const RaggedBatch& w,
                        const TrainingBatch& training, Tensor losses, Tensor cosines,
                        Arena& saved) {
  check_lengths(w);
  ExecutionContext ctx = context;
  ctx.cu_seqlens = w.cu_seqlens;
  Arena::Frame scratch_frame(ctx.scratch), saved_frame(saved);
  const int64_t R = w.rows(), E = config_.width, H = config_.hidden;
  const Encoded e = encode(ctx, w, training.x, &saved, saved);
  Decoder::Gradients g{ctx.scratch.take({R, E}),
                       ctx.scratch.take({w.sequences(), config_.bottleneck}),
                       ctx.scratch.take({R, H})};
  const Tensor dx = ctx.scratch.take({R, E});
  if (!training.tokens.empty()) g.dx = ctx.scratch.take({R, E});
  if (g.dx && !ctx.planning()) std::fill(g.dx.begin(), g.dx.end(), 0.0f);
  {
    Arena::Frame decoder_frame(saved);
    const Decoder::Input in{e.code(), memory(ctx, w, e, saved), training.x, training.forced,
                            training.longest};
    const Decoder::Activations run = decoder_.forward(ctx, w, in, true, saved);
    if (!ctx.planning())
      kernels::reconstruction_loss(config_.kind_of_loss(), run.y, training.x, losses, cosines,
                                   {g.dy, training.scale});
    decoder_.backward(ctx, w, in, run, g);
  }
  // What is computed again takes the memory that the decoder had.
  ExecutionContext in_saved{saved,         ctx.dropout,      ctx.checkpoint_interval,
                            ctx.recompute, ctx.compute_type, ctx.cu_seqlens};
  encode_backward(ctx.checkpoint_interval > 0 ? in_saved : ctx, w, training.x, e, g, dx);
  if (g.dx.rank == 0 || ctx.planning()) return;
  kernels::add(dx, g.dx, dx);
  kernels::embedding_backward(training.tokens, dx, table_.g);
}

void Autoencoder::reconstruct(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                              std::vector<std::vector<float>>* map) const {
  check_lengths(w);
  Arena::Frame frame(ctx.scratch);
  const Encoded e = encode(ctx, w, x, nullptr, ctx.scratch);
  const Decoder::Input in{e.code(), memory(ctx, w, e, ctx.scratch), {}, {}};
  const Decoder::Activations run = decoder_.forward(ctx, w, in, false, ctx.scratch);
  if (ctx.planning()) return;
  kernels::copy(run.y, y);
  if (!map) return;
  map->clear();
  for (int64_t b = 0; b < w.sequences(); ++b)
    for (int64_t t = 0; t < w.length(b); ++t)
      map->push_back(decoder_.attention_weights(w, run, b, t));
}

void Autoencoder::score(ConstTensor y, ConstTensor x, Tensor losses, Tensor cosines) const {
  kernels::reconstruction_loss(config_.kind_of_loss(), y, x, losses, cosines);
}

bool Autoencoder::is_model(const std::string& directory) {
  const std::string path = directory + "/config.json";
  if (!io::exists(path)) return false;
  const io::Json json = io::read_json(path);
  const io::Json* type = io::find(json, "model_type");
  return type && *type == kModelType;
}

void Autoencoder::save_config(const std::string& directory) const {
  io::Json json = {{"architectures", {"RefrainAutoencoder"}},
                   {"model_type", kModelType},
                   {"width", config_.width},
                   {"vocab_size", config_.vocab_size}};
  AutoencoderConfig config = config_;
  config.visit([&](const char* name, auto& field, const char*) { json[name] = field; });
  io::write_file(directory + "/config.json", io::to_text(json));
}

AutoencoderConfig Autoencoder::read_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  const io::Json json = io::read_json(path);
  if (io::get_string(json, "model_type", path) != kModelType)
    throw_error("{}: model_type: expected \"{}\", found {}", path, kModelType,
                io::describe(json.at("model_type")));
  constexpr int64_t kMost = int64_t{1} << 24;
  // "fused" is of former versions, and only measured.
  std::set<std::string> known = {"architectures", "fused", "model_type", "width", "vocab_size"};
  AutoencoderConfig config;
  config.width = io::get_int(json, "width", path, 1, kMost);
  config.vocab_size = io::get_int(json, "vocab_size", path, 0, kMost);
  config.visit([&](const char* name, auto& field, const char*) {
    known.insert(name);
    // Files of former versions do not have these.
    const bool is_later = std::string_view(name) == "window" || std::string_view(name) == "stride";
    if (is_later && !io::find(json, name)) return;
    using Field = std::decay_t<decltype(field)>;
    if constexpr (std::is_same_v<Field, bool>)
      field = io::get_bool(json, name, path);
    else if constexpr (std::is_integral_v<Field>)
      field = io::get_int(json, name, path, 0, kMost);
    else
      field = io::get_string(json, name, path);
  });
  for (const auto& [key, value] : json.items())
    if (!known.contains(key) && !value.is_null())
      throw_error("{}: {}: expected no setting of this name, found {}", path, io::quote(key),
                  io::describe(value));
  try {
    config.check();
  } catch (const Error& error) {
    throw_error("{}: {}", path, error.what());
  }
  return config;
}

std::unique_ptr<Autoencoder> Autoencoder::load(const std::string& directory) {
  auto model = std::make_unique<Autoencoder>(read_config(directory), Memory::kLater);
  model->load_weights(directory);
  return model;
}

void Autoencoder::load_weights(const std::string& directory) {
  parameters_.load(directory + "/model.safetensors");
}

}  // namespace refrain

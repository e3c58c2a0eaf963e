#include "refrain/model/language_model.h"

#include "refrain/model/workspace.h"

namespace refrain {
namespace {

ModelConfig resolved(ModelConfig config) {
  config.resolve();
  return config;
}

}  // namespace

LanguageModel::LanguageModel(ModelConfig config, Memory memory)
    : config_(resolved(std::move(config))),
      embedding_(config_.vocab_size, config_.d_model, config_.tie_embeddings,
                 config_.learned_positions ? config_.context : 0),
      stack_(config_),
      head_(config_, config_.tie_embeddings ? &embedding_.table() : nullptr) {
  parameters_.declare([this](const ParamVisitor& v) {
    embedding_.visit(v);
    stack_.visit(v);
    head_.visit(v);
  });
  if (memory == Memory::kTaken) parameters_.allocate();
}

void LanguageModel::initialise(uint64_t seed, const Initialisation& initialisation) {
  parameters_.initialize(seed, initialisation.scheme(config_.bare()));
}

void LanguageModel::pack_weights(Storage type) {
  parameters_.pack(type);
  prepare_inference();
}

void LanguageModel::prepare_inference() {
  Workspace().run({}, [&](ExecutionContext& ctx, Arena&) { stack_.prepare_inference(ctx); });
}

void LanguageModel::set_cache_type(kernels::CacheType type) {
  if (!stack_.set_cache_type(type) && type != kernels::CacheType::kFloat32)
    throw_error(
        "cache_type: expected f32, because no block of the pattern '{}' has a cache of keys and "
        "values; found {}",
        config_.full_pattern(), kernels::name_of(type));
  cache_type_ = type;
}

void LanguageModel::adapt(Lora* lora) {
  lora_ = lora;
  if (lora && !parameters_.is_packed())
    parameters_.set_trainable([](const ParamSpec&) { return false; });
}

ExecutionContext LanguageModel::with_adapters(const ExecutionContext& context) const {
  ExecutionContext ctx = context;
  if (!ctx.adapters && lora_) ctx.adapters = &lora_->adapters();
  return ctx;
}

void LanguageModel::allocate_gradients() {
  trained().allocate_gradients();
  embedding_.allocate_gradient();
}

size_t LanguageModel::training_bytes(int moments) const {
  return parameters_.training_bytes(moments) +
         (lora_ ? lora_->parameters().training_bytes(moments) : 0) + embedding_.gradient_bytes();
}

void LanguageModel::clear_gradients() {
  trained().clear_gradients();
  embedding_.clear_gradient();
}

void LanguageModel::finish_gradients() {
  stack_.finish_gradients();
  embedding_.finish_gradients();
}

Stack::Pass LanguageModel::run(const ExecutionContext& context, const RaggedBatch& batch,
                               std::span<const int32_t> tokens, std::span<const State> states,
                               Stack::Pass pass) const {
  ExecutionContext ctx = with_adapters(context);
  embedding_.forward(ctx, batch, tokens, pass.x.front());
  stack_.forward(ctx, batch, pass, states);
  return pass;
}

void LanguageModel::losses(ExecutionContext& ctx, const RaggedBatch& batch,
                           std::span<const int32_t> tokens, std::span<const int32_t> targets,
                           std::span<const State> states, Tensor losses) const {
  Arena::Frame frame(ctx.scratch);
  const Stack::Pass pass =
      run(ctx, batch, tokens, states, stack_.inference_pass(batch.rows(), ctx.scratch));
  head_.losses(ctx, batch, pass.x.back(), targets, losses);
}

void LanguageModel::logits(ExecutionContext& ctx, const RaggedBatch& batch,
                           std::span<const int32_t> tokens, std::span<const State> states,
                           std::span<const int32_t> rows, Tensor logits) const {
  Arena::Frame frame(ctx.scratch);
  const Stack::Pass pass =
      run(ctx, batch, tokens, states, stack_.inference_pass(batch.rows(), ctx.scratch));
  head_.logits(ctx, pass.x.back(), rows, logits);
}

}  // namespace refrain

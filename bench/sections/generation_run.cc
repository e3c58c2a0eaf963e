#include "bench/sections/generation_run.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bench/checks/model_check.h"
#include "refrain/model/form_check.h"
#include "refrain/model/operations.h"

namespace refrain::bench {

namespace {

LanguageModel& in_cache_type(LanguageModel& model, kernels::CacheType type) {
  model.set_cache_type(type);
  return model;
}

}  // namespace

GenerationRun::GenerationRun(const Setup& setup, const ModelConfig& config,
                             std::optional<Storage> packed)
    : planted_(setup.planted),
      model_(planted_.in_model(config)),
      prompt_(config.context),
      tokens_(random_tokens(config.context + setup.new_tokens, config.vocab_size, 1)),
      state_(in_cache_type(model_, setup.cache_type), static_cast<int64_t>(tokens_.size())),
      logits_(static_cast<size_t>(config.vocab_size)) {
  model_.initialise(1);
  spread_weights(model_);
  constexpr size_t kRows = 24;
  const bool is_quantised = packed.value_or(Storage::kFloat32) != Storage::kFloat32;
  const std::unique_ptr<LanguageModel> right =
      planted_.model || is_quantised ? spread_model(config) : nullptr;
  if (is_quantised) right->pack_weights(*packed);
  first_logits_ = ReferenceModel<double>(right ? in_cache_type(*right, setup.cache_type) : model_)
                      .logits(std::span(tokens_).first(std::min(kRows, tokens_.size())));
  planted_.in_weights(model_.parameters().weights());
  if (packed) model_.pack_weights(*packed);
}

// The next `count` tokens and the logits of the last.
void GenerationRun::read(int64_t count) {
  const auto first = static_cast<int32_t>(state_.position());
  const RaggedBatch batch =
      data_.set(std::vector<int32_t>{0, static_cast<int32_t>(count)}, std::vector<int32_t>{first});
  SequenceState* const rows[] = {&state_};
  const StateView view(rows, model_.config().layers);
  const std::vector<int32_t> last = {static_cast<int32_t>(count - 1)};
  const auto chunk =
      std::span(tokens_).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
    model_.logits(ctx, batch, chunk, view.states(), last,
                  {logits_.data(), {1, model_.config().vocab_size}});
  });
  state_.advance(count);
}

void GenerationRun::read_until(int64_t position) {
  constexpr int64_t kPiece = 512;  // as Generator reads prompts
  while (state_.position() < position) read(std::min(kPiece, position - state_.position()));
}

void GenerationRun::read_prompt() {
  state_.reset();
  read_until(prompt_);
}

void GenerationRun::read_again() {
  for (int64_t i = 1; i <= new_tokens(); ++i) {
    state_.reset();
    read_until(prompt_ + i);
  }
}

void GenerationRun::read_tokens() {
  for (int64_t i = 0; i < new_tokens(); ++i) read(1);
}

Check GenerationRun::check() {
  read_prompt();
  for (int64_t l = 0; l < model_.config().layers; ++l)
    planted_.in_state({reinterpret_cast<float*>(state_.row(static_cast<size_t>(l))),
                       model_.state_bytes(l, prompt_) / sizeof(float)});
  read_tokens();
  const std::vector<float> stepped = logits_;
  const auto all = static_cast<int32_t>(tokens_.size());
  const int64_t V = model_.config().vocab_size;
  std::vector<int32_t> rows(first_logits_.size() / static_cast<size_t>(V));
  std::iota(rows.begin(), rows.end(), 0);
  // Longer ones are not held whole: their last logits are those of chunks.
  constexpr int32_t kMostWhole = 1 << 14;
  const auto together = all <= kMostWhole ? all : static_cast<int32_t>(rows.size());
  if (together == all) rows.push_back(all - 1);
  std::vector<float> whole(rows.size() * static_cast<size_t>(V));
  const RaggedBatch batch = data_.whole(1, together);
  Workspace().run({}, [&](ExecutionContext& ctx, Arena&) {
    model_.logits(ctx, batch, std::span(tokens_).first(static_cast<size_t>(together)), {}, rows,
                  {whole.data(), {static_cast<int64_t>(rows.size()), V}});
  });
  if (together < all) {
    state_.reset();
    read_until(all);
    whole.insert(whole.end(), logits_.begin(), logits_.end());
  }
  planted_.in_output(whole);
  Check check;
  // Where operands are rounded, a rounding may fall to the other side in another form.
  const bool is_exact = model_.parameters().storage() == Storage::kFloat32;
  const double share = is_exact ? 1e-4 : FormCheck().rounded_tolerance;
  double largest = 0;
  for (const double logit : first_logits_) largest = std::max(largest, std::abs(logit));
  for (size_t i = 0; i < first_logits_.size(); ++i)
    check.near(fmt::format("logit {}", i), static_cast<double>(whole[i]), first_logits_[i],
               std::max(share, kernels::cache_step(model_.cache_type())) * largest);
  const float* last = whole.data() + first_logits_.size();
  for (size_t i = 0; i < stepped.size(); ++i)
    check.near(fmt::format("logit {}, stepped less whole", i), static_cast<double>(stepped[i]),
               static_cast<double>(last[i]), share * largest);
  return check;
}

double GenerationRun::prompt_operations() {
  return static_cast<double>(prompt_) * model_operations(model_, prompt_);
}

size_t GenerationRun::state_bytes() const {
  size_t bytes = 0;
  for (int64_t l = 0; l < model_.config().layers; ++l) bytes += model_.state_bytes(l, prompt_);
  return bytes;
}

size_t GenerationRun::token_bytes() {
  const ModelConfig& config = model_.config();
  size_t bytes = model_.parameters().bytes() + state_bytes();
  // Of a table of its own, a row.
  if (!config.tie_embeddings) bytes -= model_.parameters().entries().front().bytes();
  return bytes;
}

size_t GenerationRun::bytes() {
  return model_.parameters().bytes() + state_bytes() + workspace_.bytes();
}

std::string GenerationRun::shape_text() const {
  const ModelConfig& config = model_.config();
  return fmt::format("after {}, {} blocks, {} wide, {} heads, {:.3g} M", prompt_, config.layers,
                     config.d_model, config.heads,
                     static_cast<double>(model_.parameters().count()) / 1e6);
}

}  // namespace refrain::bench

#include "refrain/model/stack.h"

#include <algorithm>

#include "refrain/mixers/registry.h"

namespace refrain {

Stack::Stack(const ModelConfig& config) : width_(config.d_model) {
  MixerDims dims = config.mixer_dims();
  for (const MixerConfig& mixer : config.mixers) {
    dims.index = std::ssize(blocks_);
    blocks_.emplace_back(make_mixer(mixer, dims), config, dims.index);
  }
}

void Stack::visit(const ParamVisitor& v) {
  for (size_t l = 0; l < blocks_.size(); ++l)
    blocks_[l].visit(prefixed(v, "layers." + std::to_string(l) + "."));
}

void Stack::prepare_inference(ExecutionContext& ctx) {
  for (Block& block : blocks_) block.prepare_inference(ctx);
}

bool Stack::set_cache_type(kernels::CacheType type) {
  bool any = false;
  for (Block& block : blocks_)
    if (block.set_cache_type(type)) any = true;
  return any;
}

std::vector<size_t> Stack::state_bytes(int64_t tokens) const {
  std::vector<size_t> bytes;
  for (const Block& block : blocks_) bytes.push_back(block.state_bytes(tokens));
  return bytes;
}

bool Stack::bounded_state() const {
  constexpr int64_t kLong = int64_t{1} << 30;
  return state_bytes(kLong) == state_bytes(2 * kLong);
}

Stack::Pass Stack::training_pass(int64_t rows, const TrainingPass& of, Arena& saved) const {
  Pass pass{.saved = &saved, .recompute = &of.recompute, .first = of.first, .is_last = of.is_last};
  const auto take = [&] { return saved.take({rows, width_}); };
  // Below the first, two take turns; what it reads is neither.
  while (pass.x.size() < std::min<size_t>(of.first, 2)) pass.x.push_back(take());
  while (pass.x.size() < of.first) pass.x.push_back(pass.x[pass.x.size() - 2]);
  while (pass.x.size() < blocks_.size()) pass.x.push_back(take());
  pass.x.push_back(makes_input_again(of.recompute, of.first) ? pass.x.front() : take());
  return pass;
}

Stack::Pass Stack::inference_pass(int64_t rows, Arena& scratch) const {
  Pass pass;
  const Tensor turns[] = {scratch.take({rows, width_}), scratch.take({rows, width_})};
  while (pass.x.size() <= blocks_.size()) pass.x.push_back(turns[pass.x.size() % 2]);
  return pass;
}

BlockRecompute Stack::recompute_of(const Pass& pass, size_t block) const {
  if (!pass.saved) return {};
  const bool comes_next = pass.is_last && block + 1 == blocks_.size();
  return {.all = static_cast<int64_t>(block) < pass.recompute->blocks && !comes_next,
          .mixer = pass.recompute->mixers,
          .feed_forward = pass.recompute->feed_forwards};
}

void Stack::forward(ExecutionContext& ctx, const RaggedBatch& batch, Pass& pass,
                    std::span<const State> states) const {
  for (size_t l = 0; l < blocks_.size(); ++l) {
    if (pass.saved) pass.marks.push_back(pass.saved->mark());
    const SaveOptions save =
        l < pass.first ? SaveOptions() : SaveOptions{pass.saved, recompute_of(pass, l)};
    blocks_[l].forward(ctx, batch, pass.x[l], pass.x[l + 1], states.empty() ? nullptr : &states[l],
                       save);
  }
}

void Stack::backward(ExecutionContext& ctx, const RaggedBatch& batch, const Pass& pass,
                     const StackStates& states, Tensor d,
                     const std::function<void(Tensor)>& make_input) const {
  for (size_t l = blocks_.size(); l-- > pass.first;) {
    pass.saved->rewind(pass.marks[l]);
    const BlockStates its{states.values.empty() ? nullptr : &states.values[l],
                          states.gradients.empty() ? nullptr : &states.gradients[l]};
    Tensor x = pass.x[l];
    if (l == 0 && makes_input_again(*pass.recompute, pass.first))
      make_input(x = pass.x[1]);  // unused by now
    blocks_[l].backward(ctx, batch, x, d, its, {pass.saved, recompute_of(pass, l)});
  }
}

void Stack::finish_gradients() {
  for (Block& block : blocks_) block.finish_gradients();
}

}  // namespace refrain

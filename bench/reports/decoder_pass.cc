#include "bench/reports/decoder_pass.h"

#include <complex>
#include <map>
#include <numeric>

#include "bench/checks/model_check.h"
#include "refrain/autoencoder/ref.h"
#include "refrain/base/random.h"
#include "refrain/kernels/loss/reconstruction_loss.h"

namespace refrain::bench {
namespace {

using Complex = std::complex<double>;
constexpr double kStep = 1e-30;

std::vector<float> normal(int64_t n, uint64_t key, double scale) {
  Random random(key);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = static_cast<float>(scale * random.normal());
  return values;
}

std::vector<int32_t> boundaries_of(const std::vector<int64_t>& lengths) {
  std::vector<int32_t> cu_seqlens{0};
  for (const int64_t n : lengths) cu_seqlens.push_back(cu_seqlens.back() + static_cast<int32_t>(n));
  return cu_seqlens;
}

std::vector<Complex> stepped(std::span<const float> from, bool step) {
  std::vector<Complex> to(from.begin(), from.end());
  if (step)
    for (Complex& c : to) c.imag(kStep);
  return to;
}

}  // namespace

DecoderPass::DecoderPass(const AutoencoderConfig& config, const std::vector<int64_t>& lengths,
                         bool backward)
    : config_(config), decoder_(config_), backward_(backward), lengths_(lengths) {
  const auto visit = [this](const ParamVisitor& v) { decoder_.visit(v); };
  parameters_.declare(visit);
  parameters_.allocate();
  parameters_.initialize(1);
  spread_weights(visit);
  if (backward) parameters_.allocate_gradients();
  batch_ = data_.set(boundaries_of(lengths), std::vector<int32_t>(lengths.size()));
  const int64_t R = batch_.rows();
  z_ = normal(batch_.sequences() * config_.bottleneck, 1, 1);
  m_ = normal(R * config_.hidden, 2, 0.5);
  x_ = normal(R * config_.width, 3, 0.06);
  losses_.resize(static_cast<size_t>(R));
  cosines_.resize(losses_.size());
}

void DecoderPass::step(ExecutionContext& ctx, Arena& saved, Result* result) {
  const int64_t R = batch_.rows(), E = config_.width, H = config_.hidden;
  const ConstTensor x(x_.data(), {R, E});
  const Decoder::Input in{
      {z_.data(), {batch_.sequences(), config_.bottleneck}}, {m_.data(), {R, H}}, x, {}};
  const Decoder::Activations run =
      decoder_.forward(ctx, batch_, in, backward_, backward_ ? saved : ctx.scratch);
  Tensor dy;
  if (backward_) dy = ctx.scratch.take({R, E});
  if (!ctx.planning())
    kernels::reconstruction_loss(kernels::ReconstructionLoss::kCosine, run.y, x,
                                 {losses_.data(), {R}}, {cosines_.data(), {R}},
                                 {dy, 1 / static_cast<float>(R)});
  if (result && !ctx.planning()) result->outputs.assign(run.y.begin(), run.y.end());
  if (!backward_) return;
  const Tensor dz = ctx.scratch.take({batch_.sequences(), config_.bottleneck});
  const Tensor dm = ctx.scratch.take({R, H});
  decoder_.backward(ctx, batch_, in, run, {dy, dz, dm});
  if (!result || ctx.planning()) return;
  result->gradients.assign(dz.begin(), dz.end());
  result->gradients.insert(result->gradients.end(), dm.begin(), dm.end());
  const std::span<float> weights = parameters_.gradients();
  result->gradients.insert(result->gradients.end(), weights.begin(), weights.end());
}

void DecoderPass::run(Result* result) {
  if (backward_) parameters_.clear_gradients();
  workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) { step(ctx, saved, result); });
}

size_t DecoderPass::activation_bytes() {
  return count_bytes([&](ExecutionContext& ctx, Arena& saved) { step(ctx, saved, nullptr); })
      .total();
}

size_t DecoderPass::bytes() {
  return (backward_ ? 2 : 1) * parameters_.weights().size_bytes() + activation_bytes();
}

Check DecoderPass::check(const Planted& planted) {
  std::map<std::string, std::vector<Complex>> weights;
  decoder_.visit([&](const ParamSpec& spec, Param& p) {
    const auto add = [&](const std::string& name, Tensor w) {
      weights["decoder." + name] = stepped({w.begin(), w.end()}, backward_);
    };
    if (spec.parts.empty()) add(spec.name, p.w);
    int64_t row = 0;
    for (const ParamPart& part : spec.parts) {
      add(part.name, p.w.slice(row, part.rows));
      row += part.rows;
    }
  });
  const AutoencoderRef<Complex> reference(config_, weights);
  std::vector<Complex> want;
  double of_loss = 0;
  int64_t row = 0;
  for (int64_t b = 0; b < batch_.sequences(); ++b) {
    const int64_t T = lengths_[static_cast<size_t>(b)];
    const auto rows = [&](const std::vector<float>& all, int64_t first, int64_t count,
                          int64_t width) {
      return std::span(all).subspan(static_cast<size_t>(first * width),
                                    static_cast<size_t>(count * width));
    };
    const std::vector<Complex> x = stepped(rows(x_, row, T, config_.width), false);
    Complex loss;
    const std::vector<Complex> y =
        reference.decode(stepped(rows(z_, b, 1, config_.bottleneck), backward_),
                         stepped(rows(m_, row, T, config_.hidden), backward_), x, x, {}, loss);
    want.insert(want.end(), y.begin(), y.end());
    of_loss += loss.imag() / kStep / static_cast<double>(batch_.rows());
    row += T;
  }
  planted.in_weights(parameters_.weights());
  // What attention has of the encoder, or all that a plain decoder begins with.
  planted.in_state(config_.reads_encoder() ? m_ : z_);
  std::vector<int32_t> cu_seqlens = boundaries_of(lengths_);
  planted.in_boundaries(cu_seqlens);
  batch_ = data_.set(cu_seqlens, std::vector<int32_t>(lengths_.size()));
  Result got;
  run(&got);
  planted.in_output(got.outputs);

  Check check;
  double largest = 0, sum = 0, squares = 0;
  for (const Complex& y : want) largest = std::max(largest, std::abs(y.real()));
  for (size_t i = 0; i < want.size(); ++i)
    check.near(fmt::format("output {}", i), static_cast<double>(got.outputs[i]), want[i].real(),
               1e-4 * largest);
  for (const float g : got.gradients) {
    sum += static_cast<double>(g);
    squares += static_cast<double>(g) * static_cast<double>(g);
  }
  if (backward_) check.near("sum of all gradients", sum, of_loss, 1e-3 * std::sqrt(squares));
  return check;
}

}  // namespace refrain::bench

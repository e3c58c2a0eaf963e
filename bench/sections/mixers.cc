// Mixers by themselves, with whatever settings they are given: forward, and forward with backward,
// over made inputs.
#include <cmath>
#include <complex>
#include <numeric>

#include "bench/sections/sections.h"
#include "refrain/base/random.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/operations.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {
namespace {

using Complex = std::complex<double>;

// What rounding operands to bfloat16 (2^-9 each, through three products) may do to a result.
constexpr double kRounding = 0.03;

// A mixer with weights, inputs and memory, over `sequences` of `length` tokens each.
class MixerRun {
 public:
  MixerRun(const Setup& setup, const std::string& kind, int64_t sequences, int64_t length)
      : setup_(setup), kind_(kind), length_(length), batch_(data_.whole(sequences, length)) {
    ModelConfig config = setup.model_of(kind, length);
    config.resolve();
    shape_ = config.mixer_dims();
    config_ = config.mixers[0];
    mixer_ = make_mixer(config_, shape_);
    uint64_t key = 10;
    mixer_->visit([&](const ParamSpec& spec, Param& p) {
      Buffer<float>& w = weights_.emplace_back(uniform(spec.size(), ++key));
      Buffer<float>& g = gradients_.emplace_back(w.size());
      // Large enough that gates and softmaxes leave their linear range.
      const float size = 1.7f / std::sqrt(static_cast<float>(shape_.d_model));
      for (float& value : w.span()) value *= size;
      p.w.rank = static_cast<int>(spec.shape.size());
      std::copy(spec.shape.begin(), spec.shape.end(), p.w.dim.begin());
      p.w.data = w.data();
      p.g = p.w;
      p.g.data = g.data();
      parameters_ += spec.size();
    });
    const int64_t n = batch_.rows() * shape_.d_model;
    x_ = uniform(n, 1);
    dy_ = uniform(n, 2);
    y_ = Buffer<float>(static_cast<size_t>(n));
    dx_ = Buffer<float>(static_cast<size_t>(n));
  }

  void forward() {
    workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
      set(ctx);
      mixer_->forward(ctx, batch_, tensor(x_), tensor(y_), nullptr, nullptr);
    });
  }
  void train() {
    workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      set(ctx);
      const size_t mark = saved.mark();
      mixer_->forward(ctx, batch_, tensor(x_), tensor(y_), nullptr, &saved);
      saved.rewind(mark);
      mixer_->backward(ctx, batch_, tensor(x_), nullptr, {tensor(dy_), tensor(dx_)}, saved);
    });
    mixer_->finish_gradients();
  }

  // The first rows of a sequence, which see no others, against the reference implementation in
  // float64.
  Check check_outputs() {
    constexpr int64_t kRows = 288;
    setup_.planted.in_output(y_.span());
    Check check;
    const int64_t rows = std::min(kRows, length_);
    const std::vector<double> want = reference<double>(rows, {}, {});
    double largest = 0;
    for (const double v : want) largest = std::max(largest, std::abs(v));
    for (size_t i = 0; i < want.size(); ++i)
      check.near(
          fmt::format("output {}", i), static_cast<double>(y_[i]), want[i],
          (setup_.compute_type == kernels::ComputeType::kFloat32 ? 1e-4 : kRounding) * largest);
    check.finite("outputs", tensor(y_));
    check.finite("gradients", tensor(dx_));
    return check;
  }
  // All gradients together along a random direction against the complex step, which is exact;
  // call it after one train(). An error of e is seen as about |e| there.
  Check check_gradients() {
    REFRAIN_CHECK(batch_.sequences() == 1);
    constexpr double kStep = 1e-30;
    setup_.planted.in_output(dx_.span());
    Random random(3);
    const auto signs = [&](size_t n) {
      std::vector<double> all(n);
      for (double& sign : all) sign = random.bits() & 1 ? 1 : -1;
      return all;
    };
    double along = 0, squares = 0;
    const auto add = [&](const Buffer<float>& gradient) {
      std::vector<double> direction = signs(gradient.size());
      for (size_t i = 0; i < gradient.size(); ++i) {
        const auto g = static_cast<double>(gradient[i]);
        along += direction[i] * g;
        squares += g * g;
        direction[i] *= kStep;
      }
      return direction;
    };
    const std::vector<double> inputs = add(dx_);
    std::vector<std::vector<double>> weights;
    for (const Buffer<float>& gradient : gradients_) weights.push_back(add(gradient));
    const std::vector<Complex> y = reference<Complex>(length_, inputs, weights);
    double want = 0;
    for (size_t i = 0; i < y.size(); ++i) want += static_cast<double>(dy_[i]) * y[i].imag();
    Check check;
    check.near("gradients along a direction", along, want / kStep,
               (setup_.compute_type == kernels::ComputeType::kFloat32 ? 1e-3 : kRounding) *
                   std::sqrt(squares));
    return check;
  }

  int64_t tokens() const { return batch_.rows(); }
  // Of a token, forward.
  double operations() const {
    return 2 * static_cast<double>(parameters_) + mixer_->mixing_flops(length_);
  }
  size_t bytes() const { return workspace_.bytes(); }
  std::string shape_text() const {
    return fmt::format("{} x {}, {} wide, {} heads", batch_.sequences(), length_, shape_.d_model,
                       shape_.heads);
  }

 private:
  void set(ExecutionContext& ctx) const {
    ctx.checkpoint_interval = setup_.checkpointing.checkpoint_interval;
    ctx.recompute = setup_.checkpointing.parts;
    ctx.compute_type = setup_.compute_type;
    ctx.cu_seqlens = batch_.cu_seqlens;
  }
  Tensor tensor(Buffer<float>& values) const {
    return {values.data(), {batch_.rows(), shape_.d_model}};
  }

  // The reference over the first rows; inputs and weights plus these imaginary parts, if any.
  template <class T>
  std::vector<T> reference(int64_t rows, const std::vector<double>& inputs,
                           const std::vector<std::vector<double>>& weights) const {
    const auto number = [](float real, const std::vector<double>& imaginary, size_t i) -> T {
      if constexpr (std::is_same_v<T, Complex>)
        return {static_cast<double>(real), imaginary[i]};
      else
        return static_cast<double>(real);
    };
    static const std::vector<double> none;
    std::vector<std::vector<T>> w;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const std::vector<double>& imaginary = weights.empty() ? none : weights[i];
      std::vector<T>& to = w.emplace_back(weights_[i].size());
      for (size_t k = 0; k < to.size(); ++k) to[k] = number(weights_[i][k], imaginary, k);
    }
    std::vector<T> x(static_cast<size_t>(rows * shape_.d_model)), y(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = number(x_[i], inputs, i);
    std::vector<T> state(mixer_->state_bytes(rows) / sizeof(float));
    reference_forward<T>(config_, shape_, {w, rows, x.data(), y.data(), state.data()});
    return y;
  }

  const Setup& setup_;
  std::string kind_;
  MixerConfig config_;
  int64_t length_;
  RaggedBatchBuilder data_;
  RaggedBatch batch_;
  MixerDims shape_{};
  std::unique_ptr<Mixer> mixer_;
  std::vector<Buffer<float>> weights_, gradients_;
  int64_t parameters_ = 0;
  Buffer<float> x_, dy_, y_, dx_;
  Workspace workspace_;
};

}  // namespace

void time_mixers(const Setup& setup, Report& report) {
  constexpr int64_t kCheckedTokens = 32;
  for (const std::string& kind : setup.mixers) {
    MixerRun small(setup, kind, 1, kCheckedTokens);
    small.train();
    const Check gradients = small.check_gradients();
    for (const int64_t length : setup.lengths) {
      MixerRun run(setup, kind, setup.sequences(length), length);
      run.train();
      const Check outputs = run.check_outputs();
      const Check& check = outputs.passed() ? gradients : outputs;
      Row row{.section = "mixers", .shape = run.shape_text()};
      row.unit = "tokens/s";
      const auto tokens = static_cast<double>(run.tokens());
      const auto add = [&](const char* what, double passes, std::optional<double> peak_mib,
                           const Check& passed, const Work& work) {
        row.name = fmt::format("{}{}: {}", kind, in_compute_type(setup.compute_type), what);
        row.peak_mib = peak_mib;
        if (passed.passed()) {
          row.timing = time_of(setup.repetitions, work);
          row.rate = tokens / row.timing.median;
          row.mfu = utilisation(passes * run.operations() * tokens, row.timing.median,
                                setup.ceilings.fastest(setup.compute_type));
        }
        report.add(row, passed);
      };
      add("forward and backward", kTrainingPasses, mebibytes(run.bytes()), check,
          [&] { run.train(); });
      add("forward", 1, {}, outputs, [&] { run.forward(); });
    }
  }
  report.end_section();
}

}  // namespace refrain::bench

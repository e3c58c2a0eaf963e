// The decoders of a sequence autoencoder on the published shapes: 32 windows of 50 vectors of 300
// numbers, 512 units, a bottleneck of 128, two lstm layers, no step forced.
//
//   bench_autoencoder [threads [repetitions [sequences tokens hidden]]]
//
// prints a Markdown table of the decoder alone, from the bottleneck and the encoder's states to the
// loss, forward and as a training step (backward to both of them and to all weights). Each row runs
// in a process of its own, whose peak memory it tells. First its outputs and gradients over a few
// steps are held to the plain decoder in float64, and those of the whole shape to the form that
// projects at every step, where it has the same weights: what gives other numbers is not timed.
#include <array>
#include <complex>
#include <string>
#include <vector>

#include "bench/checks/model_check.h"
#include "refrain/autoencoder/decoder.h"
#include "refrain/autoencoder/ref.h"
#include "refrain/base/random.h"
#include "refrain/base/thread_pool.h"
#include "refrain/kernels/loss/reconstruction_loss.h"
#include "refrain/model/parameters/parameter_store.h"
#include "refrain/model/workspace.h"
#include "support.h"

namespace {

using namespace refrain;

constexpr int kRunsOfATurn = 3;
constexpr int64_t kCheckedSteps = 5;

struct Shape {
  int64_t sequences = 32, tokens = 50, hidden = 512;
};

struct Row {
  const char* name;
  const char* decoder;
  int64_t heads;
  bool cached, fused, flash;
  int64_t narrower = 1;  // heads are hidden / 8 / narrower wide
};

std::vector<float> normal(int64_t n, uint64_t key, double scale) {
  Random random(key);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = static_cast<float>(scale * random.normal());
  return values;
}

AutoencoderConfig config_of(const Row& row, const Shape& shape) {
  AutoencoderConfig c;
  c.width = 300;
  c.hidden = shape.hidden;
  c.layers = 2;
  c.bottleneck = 128;
  c.heads = row.heads;
  // 6 does not divide 512: fewer heads are narrower, too.
  c.head_dim = shape.hidden / 8 / row.narrower;
  c.decoder = row.decoder;
  c.cached = row.cached;
  c.fused = row.fused;
  c.flash = row.flash;
  c.check();
  return c;
}

class Pass {
 public:
  Pass(const Row& row, const Shape& shape, bool backward)
      : config_(config_of(row, shape)), decoder_(config_), backward_(backward) {
    parameters_.declare([this](const ParamVisitor& v) { decoder_.visit(v); });
    parameters_.allocate();
    parameters_.initialize(1);
    bench::spread_weights([this](const ParamVisitor& v) { decoder_.visit(v); });
    if (backward) parameters_.allocate_gradients();
    batch_ = data_.whole(shape.sequences, shape.tokens);
    const int64_t R = batch_.rows();
    z_ = normal(shape.sequences * config_.bottleneck, 1, 1);
    m_ = normal(R * config_.hidden, 2, 0.5);
    x_ = normal(R * config_.width, 3, 0.06);
    losses_.resize(static_cast<size_t>(R));
    cosines_.resize(losses_.size());
  }

  // Of what a Result holds.
  std::pair<size_t, size_t> sizes() {
    return {x_.size(), z_.size() + m_.size() + parameters_.weights().size()};
  }
  // Outputs, and with backward the gradients of z, of the encoder's states, of all weights.
  struct Result {
    std::vector<float> y, gradients;
  };

  void run(Result* result = nullptr) {
    if (backward_) parameters_.clear_gradients();
    const int64_t R = batch_.rows(), E = config_.width, H = config_.hidden;
    const ConstTensor x(x_.data(), {R, E});
    const Decoder::Input in{
        {z_.data(), {batch_.sequences(), config_.bottleneck}}, {m_.data(), {R, H}}, x, {}};
    workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      const Decoder::Activations run =
          decoder_.forward(ctx, batch_, in, backward_, backward_ ? saved : ctx.scratch);
      Tensor dy;
      if (backward_) dy = ctx.scratch.take({R, E});
      if (!ctx.planning())
        kernels::reconstruction_loss(kernels::ReconstructionLoss::kCosine, run.y, x,
                                     {losses_.data(), {R}}, {cosines_.data(), {R}},
                                     {dy, 1 / static_cast<float>(R)});
      if (result && !ctx.planning()) result->y.assign(run.y.begin(), run.y.end());
      if (!backward_) return;
      const Tensor dz = ctx.scratch.take({batch_.sequences(), config_.bottleneck});
      const Tensor dm = ctx.scratch.take({R, H});
      decoder_.backward(ctx, batch_, in, run, {dy, dz, dm});
      if (!result || ctx.planning()) return;
      result->gradients.assign(dz.begin(), dz.end());
      result->gradients.insert(result->gradients.end(), dm.begin(), dm.end());
      const std::span<float> weights = parameters_.gradients();
      result->gradients.insert(result->gradients.end(), weights.begin(), weights.end());
    });
  }

  // One sequence against the plain decoder; its gradients along the direction of all ones by the
  // complex step, where an error of e of their sum is seen as e.
  bench::Check check(const std::string& plant) {
    REFRAIN_CHECK(batch_.sequences() == 1);
    using Complex = std::complex<double>;
    constexpr double kStep = 1e-30;
    const auto stepped = [&](const float* from, int64_t n, bool step) {
      std::vector<Complex> to(from, from + n);
      if (step)
        for (Complex& c : to) c.imag(kStep);
      return to;
    };
    std::map<std::string, std::vector<Complex>> weights;
    const auto name_parts = [&](const ParamSpec& spec, Param& p) {
      int64_t row = 0;
      if (spec.parts.empty())
        weights["decoder." + spec.name] = stepped(p.w.data, p.w.size(), backward_);
      for (const ParamPart& part : spec.parts) {
        const Tensor rows = p.w.slice(row, part.rows);
        weights["decoder." + part.name] = stepped(rows.data, rows.size(), backward_);
        row += part.rows;
      }
    };
    decoder_.visit(name_parts);
    const AutoencoderRef<Complex> reference(config_, weights);
    const std::vector<Complex> x = stepped(x_.data(), std::ssize(x_), false);
    Complex loss;
    const std::vector<Complex> want =
        reference.decode(stepped(z_.data(), std::ssize(z_), backward_),
                         stepped(m_.data(), std::ssize(m_), backward_), x, x, {}, loss);
    if (!plant.empty())
      bench::plant_in(plant == "state" ? std::span<float>(z_) : parameters_.weights());
    Result got;
    run(&got);
    bench::Check check;
    double largest = 0, sum = 0, squares = 0;
    for (const Complex& y : want) largest = std::max(largest, std::abs(y.real()));
    for (size_t i = 0; i < want.size(); ++i)
      check.near(fmt::format("output {}", i), static_cast<double>(got.y[i]), want[i].real(),
                 1e-4 * largest);
    for (const float g : got.gradients) {
      sum += static_cast<double>(g);
      squares += static_cast<double>(g) * static_cast<double>(g);
    }
    if (backward_)
      check.near("sum of all gradients", sum,
                 loss.imag() / kStep / static_cast<double>(batch_.rows()),
                 1e-3 * std::sqrt(squares));
    return check;
  }

 private:
  AutoencoderConfig config_;
  Decoder decoder_;
  ParameterStore parameters_;
  bool backward_;
  RaggedBatchBuilder data_;
  RaggedBatch batch_;
  Workspace workspace_;
  std::vector<float> z_, m_, x_, losses_, cosines_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string plant = bench::take_plant(argc, argv);
  const auto argument = [&](int i, int64_t by_default) {
    return argc > i ? std::atoll(argv[i]) : by_default;
  };
  const int threads = static_cast<int>(argument(1, 2));
  const int repetitions = static_cast<int>(argument(2, 5));
  const Shape shape{argument(3, 32), argument(4, 50), argument(5, 512)};
  if (shape.hidden % 16 != 0) {
    std::fprintf(stderr, "hidden: expected a multiple of 16\n");
    return 1;
  }
  const std::vector<Row> rows = {
      {"plain", "plain", 8, true, true, true},
      {"attention, 8 heads, K and V projected at every step", "cross_attention", 8, false, false,
       false},
      {"cached", "cross_attention", 8, true, false, false},
      {"cached and fused", "cross_attention", 8, true, true, false},
      {"cached, fused, flash", "cross_attention", 8, true, true, true},
      {"the same, 6 heads", "cross_attention", 6, true, true, true},
      {"the same, 4 heads", "cross_attention", 4, true, true, true},
      {"the same, 4 heads of half the width", "cross_attention", 4, true, true, true, 2},
  };
  const auto in_child = [&](const Row& row, bool backward, auto work) {
    return bench::in_child([&] {
      ThreadPool pool(threads);
      const ThreadPool::Scope scope(pool);
      Pass pass(row, shape, backward);
      return work(pass);
    });
  };
  // What all rows with 8 heads and whole width must give.
  const Row& naive = rows[1];
  const auto [outputs, gradients] = Pass(naive, shape, true).sizes();
  const bench::SharedNumbers want_y(outputs), want_gradients(gradients);
  in_child(naive, true, [&](Pass& pass) {
    Pass::Result result;
    pass.run(&result);
    std::ranges::copy(result.y, want_y.span().begin());
    std::ranges::copy(result.gradients, want_gradients.span().begin());
    return 0.0;
  });
  const auto passes = [&](const Row& row, bool backward, Pass& pass) {
    const bench::Check check = Pass(row, {1, kCheckedSteps, shape.hidden}, backward).check(plant);
    if (!check.passed())
      std::fprintf(stderr, "%s: %s: refused\n", row.name, check.reason().c_str());
    Pass::Result result;
    pass.run(&result);
    const bool comparable = std::string(row.decoder) != "plain" && row.heads == 8;
    return check.passed() &&
           (!comparable || (bench::agree(row.name, "output", result.y, want_y.span(), 1e-4) &&
                            (!backward || bench::agree(row.name, "gradient", result.gradients,
                                                       want_gradients.span(), 1e-4))));
  };
  bool all_passed = true;
  std::printf(
      "| decoder, %lld x %lld | forward, ms | of plain | training step, ms | of plain | "
      "peak memory, MiB: forward | step |\n",
      static_cast<long long>(shape.sequences), static_cast<long long>(shape.tokens));
  std::printf("|---|---:|---:|---:|---:|---:|---:|\n");
  // Rows take turns, and a ratio is of one turn: a machine that slows down slows all of them.
  struct Taken {
    std::vector<double> milliseconds, ratios;
    double peak = 0;
    bool refused = false;
  };
  std::vector<std::array<Taken, 2>> taken(rows.size());
  for (int turn = 0; turn < repetitions; ++turn)
    for (size_t r = 0; r < rows.size(); ++r)
      for (const bool backward : {false, true}) {
        const Row& row = rows[r];
        const bench::Measured measured = in_child(row, backward, [&](Pass& pass) {
          if (turn == 0 && !passes(row, backward, pass)) return bench::kRefused;
          return 1e3 * bench::median_seconds(kRunsOfATurn, [&] { pass.run(); });
        });
        Taken& to = taken[r][backward];
        if (turn == 0) to.refused = measured.value == bench::kRefused;
        all_passed &= !to.refused;
        if (to.refused) continue;
        to.milliseconds.push_back(measured.value);
        const Taken& plain = taken[0][backward];
        if (!plain.refused) to.ratios.push_back(measured.value / plain.milliseconds.back());
        to.peak = std::max(to.peak, measured.peak_mebibytes);
      }
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto& [forward, step] = taken[r];
    if (forward.refused || step.refused || forward.ratios.empty() || step.ratios.empty()) continue;
    std::printf("| %s | %.1f | %.2f | %.1f | %.2f | %.0f | %.0f |\n", rows[r].name,
                bench::median(forward.milliseconds), bench::median(forward.ratios),
                bench::median(step.milliseconds), bench::median(step.ratios), forward.peak,
                step.peak);
  }
  return all_passed ? 0 : 1;
}

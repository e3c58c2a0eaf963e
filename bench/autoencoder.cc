// The decoders of a sequence autoencoder on the published shapes: 32 windows of 50 vectors of 300
// numbers, 512 units, a bottleneck of 128, two lstm layers, no step forced.
//
//   bench_autoencoder [threads [repetitions [sequences tokens hidden]]]
//
// prints a Markdown table of the decoder alone, from the bottleneck and the encoder's states to the
// loss, forward and as a training step (backward to both of them and to all weights). Each row runs
// in a process of its own, whose peak memory it tells. Forms that must agree are compared first:
// nothing is timed that gives other numbers.
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "refrain/base/parallel.h"
#include "refrain/base/random.h"
#include "refrain/kernels/reconstruction_loss.h"
#include "refrain/model/autoencoder_decoder.h"
#include "refrain/model/parameters.h"
#include "refrain/model/workspace.h"
#include "support.h"

namespace {

using namespace refrain;

constexpr int kRunsOfATurn = 3;

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
    parameters_.allocate([this](const ParamVisitor& v) { decoder_.visit(v); });
    parameters_.initialise(1);
    if (backward) parameters_.allocate_gradients();
    window_ = data_.whole(shape.sequences, shape.tokens);
    const int64_t R = window_.rows();
    z_ = normal(shape.sequences * config_.bottleneck, 1, 1);
    m_ = normal(R * config_.hidden, 2, 0.5);
    x_ = normal(R * config_.width, 3, 0.06);
    losses_.resize(static_cast<size_t>(R));
    cosines_.resize(losses_.size());
  }

  double run() {
    if (backward_) parameters_.clear_gradients();
    const int64_t R = window_.rows(), E = config_.width, H = config_.hidden;
    const ConstTensor x(x_.data(), {R, E});
    const Decoder::Input in{
        {z_.data(), {window_.sequences(), config_.bottleneck}}, {m_.data(), {R, H}}, x, {}};
    workspace_.run({}, [&](Context& ctx, Arena& saved) {
      const Decoder::Run run =
          decoder_.forward(ctx, window_, in, backward_, backward_ ? saved : ctx.scratch);
      Tensor dy;
      if (backward_) dy = ctx.scratch.take({R, E});
      if (!ctx.dry())
        kernels::reconstruction_loss(kernels::ReconstructionLoss::kCosine, run.y, x,
                                     1 / static_cast<float>(R), {losses_.data(), {R}},
                                     {cosines_.data(), {R}}, dy);
      if (!backward_) return;
      const Tensor dz = ctx.scratch.take({window_.sequences(), config_.bottleneck});
      const Tensor dm = ctx.scratch.take({R, H});
      decoder_.backward(ctx, window_, in, run, dy, dz, dm, {});
    });
    double sum = 0;
    for (const float loss : losses_) sum += static_cast<double>(loss);
    return sum;
  }

 private:
  AutoencoderConfig config_;
  Decoder decoder_;
  Parameters parameters_;
  bool backward_;
  WindowData data_;
  Window window_;
  Workspace workspace_;
  std::vector<float> z_, m_, x_, losses_, cosines_;
};

}  // namespace

int main(int argc, char** argv) {
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
      set_threads(threads);
      Pass pass(row, shape, backward);
      return work(pass);
    });
  };
  const double want =
      in_child(rows[1], false, [](Pass& pass) { return pass.run(); }).value;  // 8 heads
  std::printf(
      "| decoder, %lld x %lld | forward, ms | of plain | training step, ms | of plain | "
      "peak memory, MiB: forward | step |\n",
      static_cast<long long>(shape.sequences), static_cast<long long>(shape.tokens));
  std::printf("|---|---:|---:|---:|---:|---:|---:|\n");
  // Rows take turns, and a ratio is of one turn: a machine that slows down slows all of them.
  struct Taken {
    std::vector<double> milliseconds, ratios;
    double peak = 0;
  };
  std::vector<std::array<Taken, 2>> taken(rows.size());
  for (int turn = 0; turn < repetitions; ++turn)
    for (size_t r = 0; r < rows.size(); ++r)
      for (const bool backward : {false, true}) {
        const Row& row = rows[r];
        const bench::Measured measured = in_child(row, backward, [&](Pass& pass) {
          const double got = pass.run();
          const bool comparable = std::string(row.decoder) != "plain" && row.heads == 8;
          if (comparable && !(std::abs(got - want) <= 1e-5 * want)) {
            std::fprintf(stderr, "%s: loss %.9g, expected %.9g: refused\n", row.name, got, want);
            std::exit(1);
          }
          return 1e3 * bench::median_seconds(kRunsOfATurn, [&] { pass.run(); });
        });
        Taken& to = taken[r][backward];
        to.milliseconds.push_back(measured.value);
        to.ratios.push_back(measured.value / taken[0][backward].milliseconds.back());
        to.peak = std::max(to.peak, measured.peak_mebibytes);
      }
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto& [forward, step] = taken[r];
    std::printf("| %s | %.1f | %.2f | %.1f | %.2f | %.0f | %.0f |\n", rows[r].name,
                bench::median(forward.milliseconds), bench::median(forward.ratios),
                bench::median(step.milliseconds), bench::median(step.ratios), forward.peak,
                step.peak);
  }
  return 0;
}

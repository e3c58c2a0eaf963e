// The decoders of a sequence autoencoder on the published shapes: 32 windows of 50 vectors of 300
// numbers, 512 units, a bottleneck of 128, two lstm layers, no step forced.
#include "bench/checks/model_check.h"
#include "bench/reports/decoder_pass.h"
#include "bench/reports/reports.h"

namespace refrain::bench {
namespace {

struct DecoderRow {
  const char* name;
  const char* decoder;
  int64_t heads;
  bool cached, fused, flash;
  int64_t narrower;  // heads are hidden / 8 / narrower wide
  const char* published;
};
constexpr DecoderRow kRows[] = {
    {"plain", "plain", 8, true, true, true, 1, "45 ms"},
    {"8 heads, keys and values projected at every step", "cross_attention", 8, false, false, false,
     1, "450 ms, 10 times plain"},
    {"cached", "cross_attention", 8, true, false, false, 1, "-"},
    {"cached and fused", "cross_attention", 8, true, true, false, 1, "90 ms, 2 times plain"},
    {"cached, fused, flash", "cross_attention", 8, true, true, true, 1, "60 ms"},
    {"the same, 6 heads", "cross_attention", 6, true, true, true, 1, "-"},
    {"the same, 4 heads", "cross_attention", 4, true, true, true, 1, "55 ms, 1.22 times plain"},
    {"the same, 4 heads of half the width", "cross_attention", 4, true, true, true, 2, "-"},
};

AutoencoderConfig config_of(const DecoderRow& row, const ReportSetup& setup) {
  AutoencoderConfig c;
  c.width = setup.by_size(300, 300, 24);
  c.hidden = setup.by_size(512, 256, 32);
  c.layers = 2;
  c.bottleneck = setup.by_size(128, 128, 8);
  c.heads = row.heads;
  // 6 does not divide 512: fewer heads are narrower, too.
  c.head_dim = c.hidden / 8 / row.narrower;
  c.decoder = row.decoder;
  c.cached = row.cached;
  c.fused = row.fused;
  c.flash = row.flash;
  c.check();
  return c;
}

std::vector<int64_t> windows(const ReportSetup& setup) {
  return std::vector<int64_t>(static_cast<size_t>(setup.by_size(32, 8, 2)),
                              setup.by_size(50, 50, 6));
}

// What a row took, forward or with backward, beside the plain decoder in the same rounds.
struct Taken {
  Check check;
  double milliseconds = 0, of_plain = 0, memory = 0;
};

// Forward alone, or with backward: what rows are measured beside, and held to. Those of 8 whole
// heads must have the numbers of the one that projects at every step.
struct Side {
  Side(const ReportSetup& setup, bool backward_)
      : backward(backward_), plain(config_of(kRows[0], setup), windows(setup), backward_) {}
  bool backward;
  DecoderPass plain;
  Agreement outputs{1e-4}, gradients{1e-4};
};

Taken take(const ReportSetup& setup, const DecoderRow& row, Side& side) {
  // A short sequence and a shorter one, which must not see each other.
  const AutoencoderConfig config = config_of(row, setup);
  Taken taken{.check = DecoderPass(config, {5, 3}, side.backward).check(setup.planted)};
  DecoderPass pass(config, windows(setup), side.backward);
  if (taken.check.passed() && config.reads_encoder() && row.heads == 8) {
    DecoderPass::Result result;
    pass.run(&result);
    side.outputs.check(taken.check, "output", result.outputs);
    if (side.backward) side.gradients.check(taken.check, "gradient", result.gradients);
  }
  if (!taken.check.passed()) return taken;
  // A ratio is of one round: a machine that slows down slows both.
  std::vector<double> seconds, ratios;
  for (int64_t round = -setup.repetitions.warm_up; round < setup.repetitions.repeats; ++round) {
    const std::vector<Timing> both =
        time_in_turns({0, 1}, {[&] { side.plain.run(); }, [&] { pass.run(); }});
    if (round < 0) continue;
    seconds.push_back(both[1].median);
    ratios.push_back(both[1].median / both[0].median);
  }
  taken.milliseconds = 1e3 * summary(seconds).median;
  taken.of_plain = summary(ratios).median;
  taken.memory = mebibytes(pass.bytes());
  return taken;
}

}  // namespace

void report_decoder(const ReportSetup& setup, Tables& tables) {
  const std::vector<int64_t> shape = windows(setup);
  tables.begin(fmt::format("The decoder alone, {} windows of {} vectors", shape.size(), shape[0]),
               {"forward, ms", "of plain", "training step, ms", "step, of plain",
                "memory, MiB: forward", "step", "published: 32 x 50, forward"});
  Side forward(setup, false), backward(setup, true);
  for (const DecoderRow& row : kRows) {
    const Taken once = take(setup, row, forward);
    const Taken step = take(setup, row, backward);
    tables.add(row.name, once.check.passed() ? step.check : once.check,
               {once.milliseconds, once.of_plain, step.milliseconds, step.of_plain, once.memory,
                step.memory, row.published});
  }
  tables.remark(
      "Memory is that of weights, gradients and activations. Published figures are of another "
      "machine: compare the ratios. Its 40 to 50 % less memory are the difference between the "
      "second row and the cached ones.");
}

}  // namespace refrain::bench

// What is special to the classical cells, beside the contract: PyTorch's numbers, long sequences,
// how they start and what they refuse.
#include <map>
#include <string>

#include "refrain/io/safetensors.h"
#include "refrain/mixers/gru/ref.h"
#include "refrain/mixers/lstm/ref.h"
#include "refrain/mixers/rnn/ref.h"
#include "support/error_of.h"
#include "support/mixer_contract.h"

#ifndef REFRAIN_GOLDEN
#error "REFRAIN_GOLDEN names the folder of golden files"
#endif

namespace refrain {
namespace {

using kernels::Cell;

MixerDims shape(int64_t d_model) { return {d_model, 1, 1, d_model, 64, 2}; }

// The layer beneath the mixers against PyTorch (tools/make_golden_cells.py says what the file
// holds): outputs, final states, and every gradient, those of the initial states included.
class CellsGolden : public ::testing::TestWithParam<Cell> {
 protected:
  static constexpr int64_t kIn = 6, kHidden = 5;

  std::vector<float> values(const std::string& name) const {
    const io::TensorInfo* info = file_.find(name);
    EXPECT_NE(info, nullptr) << name;
    if (!info) return {};
    std::vector<float> v(static_cast<size_t>(info->size()));
    file_.read(*info, v);
    return v;
  }
  std::vector<float> of_cell(const std::string& name) const {
    const char* kind = GetParam() == Cell::kRnn    ? "rnn"
                       : GetParam() == Cell::kLstm ? "lstm"
                                                   : "gru";
    return values(std::string(kind) + "." + name);
  }

  io::Safetensors file_{std::string(REFRAIN_GOLDEN) + "/cells.safetensors"};
};

TEST_P(CellsGolden, OutputsStatesAndGradientsArePyTorchs) {
  std::vector<int32_t> offset;
  for (float o : values("offsets")) offset.push_back(static_cast<int32_t>(o));
  RaggedBatchBuilder data;
  const RaggedBatch w = data.set(offset, std::vector<int32_t>(offset.size() - 1, 3));
  const int64_t R = w.rows();
  std::vector<float> x = of_cell("x"), dh = of_cell("dh"), dx(x.size());
  std::vector<std::vector<float>> weights, gradients;
  Recurrent layer(GetParam(), kIn, kHidden);
  std::vector<std::string> names;
  layer.visit([&](const ParamSpec& spec, Param& p) {
    names.push_back(spec.name);
    weights.push_back(of_cell(spec.name));
    gradients.emplace_back(weights.back().size(), 0.0f);
    ASSERT_EQ(static_cast<int64_t>(weights.back().size()), spec.size());
    p.w.rank = static_cast<int>(spec.shape.size());
    std::copy(spec.shape.begin(), spec.shape.end(), p.w.dim.begin());
    p.w.data = weights.back().data();
    p.g = p.w;
    p.g.data = gradients.back().data();
  });
  // Sums of a dozen terms of size 1 in float32, a few steps deep.
  const auto expect_same = [&](const std::string& name, std::span<const float> got) {
    const std::vector<float> want = of_cell(name);
    ASSERT_EQ(got.size(), want.size()) << name;
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 1e-5f * std::max(1.0f, std::abs(want[i]))) << name << " " << i;
  };
  Buffer<std::byte> scratch_memory(1 << 20), saved_memory(1 << 20);
  for_each_target([&] {
    std::vector<float> state = of_cell("found"), dstate = of_cell("dleft");
    std::vector<float*> state_rows, dstate_rows;
    for (int64_t b = 0; b < w.sequences(); ++b) {
      state_rows.push_back(state.data() + b * layer.state_floats());
      dstate_rows.push_back(dstate.data() + b * layer.state_floats());
    }
    for (auto& g : gradients) std::fill(g.begin(), g.end(), 0.0f);
    Arena scratch(scratch_memory.data(), scratch_memory.size());
    Arena saved(saved_memory.data(), saved_memory.size());
    ExecutionContext ctx{scratch};
    const ConstTensor in(x.data(), {R, kIn});
    const Recurrent::Activations run = layer.forward(ctx, w, in, state_rows, &saved);
    expect_same("h", {run.rows.h.data, static_cast<size_t>(R * kHidden)});
    expect_same("left", state);
    saved.rewind(0);
    layer.backward(ctx, in, layer.recompute_forward(ctx, w, in, saved), {dh.data(), {R, kHidden}},
                   {dx.data(), {R, kIn}}, dstate_rows);
    expect_same("grad.x", dx);
    expect_same("grad.found", dstate);
    for (size_t i = 0; i < names.size(); ++i) expect_same("grad." + names[i], gradients[i]);
  });
}
INSTANTIATE_TEST_SUITE_P(Cells, CellsGolden,
                         ::testing::Values(Cell::kRnn, Cell::kLstm, Cell::kGru));

// RMS of the difference over RMS of what it should be.
void expect_rms(const char* what, std::span<const float> got, std::span<const double> want) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    error += d * d;
    size += want[i] * want[i];
  }
  EXPECT_LE(std::sqrt(error / size), 1e-5) << what;
}

// 4,096 tokens at once, cut at random places and token by token, each with its gradients, against
// plain loops in float64.
template <class Config>
void long_sequence() {
  constexpr Cell kCell = Config::kCell;
  constexpr int64_t T = 4096, D = 16, H = D;
  constexpr int64_t G = kernels::gates_of(kCell), S = kernels::states_of(kCell);
  const Floats x({T, D}, 0, 1), dy({T, D}, 0, 2), dleft({S * H}, 0, 3), found({S * H}, 0, 4, 0.5);
  MixerUnderTest<RecurrentMixer<Config>> m(shape(D), Config{});

  const auto wide = [](std::span<const float> v) {
    return std::vector<double>(v.begin(), v.end());
  };
  const std::vector<double> xd = wide(x.span()), dyd = wide(dy.span());
  std::vector<double> a, h(T * H), left = wide(found.span()), dstate = wide(dleft.span());
  std::vector<std::vector<double>> w, dw;
  for (const auto& weights : m.weights) {
    w.push_back(wide(weights));
    dw.emplace_back(weights.size(), 0.0);
  }
  for (int64_t r = 0; r < T * G * H; ++r) {
    double sum = w[2][static_cast<size_t>(r % (G * H))];
    for (int64_t j = 0; j < D; ++j)
      sum += w[0][static_cast<size_t>(r % (G * H) * D + j)] *
             xd[static_cast<size_t>(r / (G * H) * D + j)];
    a.push_back(sum);
  }
  const kernels::RecurrentCellRef<double> cell{kCell, H, w[1].data(), w[3].data()};
  std::vector<kernels::RecurrentStepRef<double>> steps;
  cell.forward(T, a.data(), h.data(), left.data(), &steps);
  std::vector<double> da(a.size()), dp(a.size()), dx(xd.size(), 0.0);
  cell.backward(steps, dyd.data(), dstate.data(), da.data(), dp.data());
  for (size_t t = 0; t < T; ++t)
    for (size_t g = 0; g < G * H; ++g) {
      const double into = da[t * G * H + g], past = dp[t * G * H + g];
      for (size_t j = 0; j < D; ++j) {
        dx[t * D + j] += into * w[0][g * D + j];
        dw[0][g * D + j] += into * xd[t * D + j];
        dw[1][g * H + j] += past * steps[t].before[j];
      }
      dw[2][g] += into;
      dw[3][g] += past;
    }

  Random random(5);
  std::vector<int64_t> whole = {0, T}, random_cuts = {0, T}, single;
  for (int i = 0; i < 20; ++i) random_cuts.push_back(static_cast<int64_t>(random.bits() % T));
  std::sort(random_cuts.begin(), random_cuts.end());
  for (int64_t t = 0; t <= T; ++t) single.push_back(t);
  Floats y_whole({T, D}), dx_whole({T, D});
  for (const auto& cuts : {whole, random_cuts, single}) {
    SCOPED_TRACE(cuts.size());
    Floats y({T, D}), got_dx({T, D});
    StateRows live(1, S * H * sizeof(float)), gradient(1, S * H * sizeof(float));
    live.row(0).assign(found.span().begin(), found.span().end());
    gradient.row(0).assign(dleft.span().begin(), dleft.span().end());
    const State state = live.state(), dlive = gradient.state();
    for (auto& g : m.gradients) std::fill(g.begin(), g.end(), 0.0f);
    std::vector<std::vector<float>> before;
    const auto run = [&](size_t chunk, bool keep, auto&& then) {
      const int64_t first = cuts[chunk], n = cuts[chunk + 1] - first;
      const std::vector<int32_t> offset = {0, static_cast<int32_t>(n)};
      RaggedBatchBuilder data;
      const RaggedBatch batch = data.set(offset, std::vector<int32_t>{static_cast<int32_t>(first)});
      m.forward(batch, x.tensor().slice(first, n), y.tensor().slice(first, n), &state, keep);
      then(batch, first, n);
    };
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      before.push_back(live.row(0));
      run(i, false, [](const RaggedBatch&, int64_t, int64_t) {});
    }
    expect_rms("state left", live.row(0), left);
    expect_rms("y", y.span(), h);
    for (size_t i = before.size(); i-- > 0;) {
      std::copy(before[i].begin(), before[i].end(), live.row(0).begin());
      run(i, true, [&](const RaggedBatch& batch, int64_t first, int64_t n) {
        m.backward(batch, x.tensor().slice(first, n), dy.tensor().slice(first, n),
                   got_dx.tensor().slice(first, n), &state, &dlive);
      });
    }
    expect_rms("gradient of the state found", gradient.row(0), dstate);
    expect_rms("dx", got_dx.span(), dx);
    for (size_t i = 0; i < dw.size(); ++i) expect_rms("dw", m.gradients[i], dw[i]);
    // These do not sum over rows: not a bit depends on the cuts.
    if (cuts.size() == 2) {
      std::copy(y.span().begin(), y.span().end(), y_whole.span().begin());
      std::copy(got_dx.span().begin(), got_dx.span().end(), dx_whole.span().begin());
    }
    EXPECT_TRUE(same_bits(y.span(), y_whole.span()));
    EXPECT_TRUE(same_bits(got_dx.span(), dx_whole.span()));
  }
}
TEST(CellMixers, LongSequencesHoweverTheyAreCut) {
  long_sequence<RnnConfig>();
  long_sequence<LstmConfig>();
  long_sequence<GruConfig>();
}

TEST(CellMixers, AnLstmRemembersAtFirst) {
  Lstm mixer(shape(8), LstmConfig{3});
  std::map<std::string, ParamSpec> specs;
  mixer.visit([&](const ParamSpec& spec, Param&) { specs.emplace(spec.name, spec); });
  ASSERT_EQ(specs.size(), 5u);
  const Init& bias = specs.at("bias_ih_l0").init;
  EXPECT_EQ(bias.mean, 1);
  EXPECT_EQ(bias.first, 3);
  EXPECT_EQ(bias.end, 6);
  EXPECT_EQ(specs.at("bias_hh_l0").init.mean, 0);
  EXPECT_FALSE(specs.at("bias_ih_l0").decay);
  EXPECT_EQ(specs.at("weight_ih_l0").shape, (std::vector<int64_t>{12, 8}));
  EXPECT_EQ(specs.at("weight_hh_l0").shape, (std::vector<int64_t>{12, 3}));
  EXPECT_EQ(specs.at("o_proj.weight").shape, (std::vector<int64_t>{8, 3}));
}

TEST(CellMixers, AProjectionOnlyWhereTheWidthsDiffer) {
  for (int64_t hidden : {0, 8}) {
    Gru mixer(shape(8), GruConfig{hidden});
    mixer.visit([](const ParamSpec& spec, Param&) { EXPECT_NE(spec.name, "o_proj.weight"); });
  }
}

TEST(CellMixers, RefuseWhatTheyCannotBe) {
  EXPECT_EQ(error_of([] { Lstm(shape(8), LstmConfig{-1}); }),
            "lstm.hidden: expected 0 to 65536, found -1");
  EXPECT_EQ(error_of([] { Gru(shape(8), GruConfig{1 << 20}); }),
            "gru.hidden: expected 0 to 65536, found 1048576");
}

}  // namespace
}  // namespace refrain

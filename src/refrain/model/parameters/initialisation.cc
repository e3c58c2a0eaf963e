#include "refrain/model/parameters/initialisation.h"

#include <cmath>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/base/random.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

constexpr double kUsualStd = 0.02;
constexpr int64_t kGrain = 1 << 14;

struct Noise {
  enum Kind { kNormal, kUniform } kind;
  float width;           // the deviation, or half of the range
  bool centred = false;  // around 0 instead of the mean
};

float root(int64_t n) { return std::sqrt(static_cast<float>(n)); }

Noise normal_noise(const Init& init, float std) {
  switch (init.role) {
    case Init::kGiven:
    case Init::kGateBias:
      return {Noise::kNormal, init.std};
    case Init::kEmbedding:
    case Init::kMatrix:
      return {Noise::kNormal, std};
    case Init::kOutput:
      return {Noise::kNormal, std / std::sqrt(2.0f * static_cast<float>(init.blocks))};
    case Init::kCell:
      return {Noise::kNormal, 1 / std::sqrt(3 * static_cast<float>(init.in))};
    case Init::kBias:
    case Init::kCellBias:
      break;
  }
  return {Noise::kNormal, 0};
}

Noise fan_in_noise(const Init& init) {
  if (init.role == Init::kGiven) return {Noise::kNormal, init.std};
  if (init.role == Init::kEmbedding) return {Noise::kNormal, 1};
  // A matrix keeps the size of what it reads: a uniform number's variance is a third of its limit's
  // square. Cells and biases are PyTorch's, gates of both included.
  const float unit = 1 / root(init.in);
  if (init.role == Init::kMatrix) return {Noise::kUniform, root(3) * unit};
  if (init.role == Init::kOutput) return {Noise::kUniform, root(3) * unit / init.reads};
  const bool gate = init.role == Init::kGateBias || init.role == Init::kCellBias;
  return {Noise::kUniform, unit, gate};
}

}  // namespace

InitScheme Initialisation::scheme(bool bare) const {
  const bool chosen = initialisation == "auto";
  if (!chosen && initialisation != "normal" && initialisation != "fan_in")
    throw_error("initialisation: expected auto, normal or fan_in, found '{}'", initialisation);
  if (!(init_std > 0 && init_std <= 100))
    throw_error("init_std: expected above 0, at most 100, found {}", init_std);
  if (chosen ? !bare : initialisation == "normal")
    return {InitScheme::kNormal, static_cast<float>(init_std)};
  if (init_std != kUsualStd)
    throw_error("init_std: has a meaning with initialisation normal only, found {}", init_std);
  return {InitScheme::kFanIn};
}

void initialize(const ParamSpec& spec, Param& param, const InitScheme& scheme, uint64_t seed) {
  const Init& init = spec.init;
  const Noise noise =
      scheme.kind == InitScheme::kNormal ? normal_noise(init, scheme.std) : fan_in_noise(init);
  const uint64_t key = mix_key(seed, llama_name(spec.name));
  const uint64_t draws = noise.kind == Noise::kNormal ? Random::kDrawsOfNormal : 1;
  // Where a weight's numbers stand in the stream does not depend on who draws those before.
  parallel_ranges(param.w.size(), kGrain, [&](int64_t begin, int64_t end) {
    Random random(key, static_cast<uint64_t>(begin) * draws);
    for (int64_t i = begin; i < end; ++i) {
      float& w = param.w.data[i];
      w = i >= init.first && i < init.end && !noise.centred ? init.mean : 0;
      if (noise.width == 0) continue;
      const double drawn =
          noise.kind == Noise::kNormal ? random.normal() : 2 * random.uniform() - 1;
      w += noise.width * static_cast<float>(drawn);
    }
  });
}

}  // namespace refrain

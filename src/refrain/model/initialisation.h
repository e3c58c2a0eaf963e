// How the weights of a model start that is trained from nothing.
//
//   normal   embeddings and matrices N(0, init_std²), those that write to the residual stream
//            smaller by sqrt(2 blocks), biases 0 (Radford et al., 2019): right where every block
//            norms what it reads
//   fan_in   embeddings N(0, 1), matrices U(-sqrt(3/in), sqrt(3/in)) and, where a mixer's last one
//            reads larger or smaller numbers than it was given, by so much narrower or wider;
//            biases U(-1/sqrt(in), 1/sqrt(in)): what goes into a bare block comes out as large
//
// Recurrent cells of H units start as wide in both, U(-1/sqrt(H), 1/sqrt(H)) under fan_in and
// N(0, 1/(3 H)) with biases of 0 under normal.
#pragma once
#include <cstdint>
#include <string>

#include "refrain/layers/param.h"

namespace refrain {

struct InitScheme {
  enum Kind { kNormal, kFanIn } kind = kNormal;
  float std = 0.02f;  // of kNormal
};

struct Initialisation {
  std::string initialisation = "auto";
  double init_std = 0.02;

  template <class V>
  void visit(V&& v) {
    v("initialisation", initialisation,
      "how weights start: normal (embeddings and matrices by init_std, biases 0), fan_in "
      "(embeddings N(0, 1), matrices of a variance of 1 / inputs: what a bare block gives is as "
      "large as what it reads) or auto (normal in pre_norm stacks, fan_in in bare ones)");
    v("init_std", init_std, "standard deviation of embeddings and matrices with normal");
  }

  // Of a stack that is bare or not; an Error names the setting that is out of range.
  InitScheme scheme(bool bare) const;
};

// The weights that a parameter begins with: a function of (seed, name) alone.
void initialize(const ParamSpec&, Param&, const InitScheme&, uint64_t seed);

}  // namespace refrain

// Initial weights of a model.
//
//   normal   embeddings and matrices N(0, init_std²), those that write to the residual stream
//            smaller by sqrt(2 blocks), biases 0 (Radford et al., 2019). For blocks that norm
//            their input
//   fan_in   embeddings N(0, 1), matrices U(-sqrt(3/in), sqrt(3/in)), biases U(-1/sqrt(in),
//            1/sqrt(in)). The output of a bare block is as large as its input. If the input of a
//            mixer's last matrix has another size than the mixer's input, the matrix compensates
//
// Recurrent cells of H units start with the same width in both: U(-1/sqrt(H), 1/sqrt(H)) under
// fan_in, N(0, 1/(3 H)) with biases of 0 under normal.
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

  // The scheme for a stack that is bare or not; an Error names the setting that is out of range.
  InitScheme scheme(bool bare) const;
};

// Sets the initial values of a parameter: a function of (seed, name) alone.
void initialize(const ParamSpec&, Param&, const InitScheme&, uint64_t seed);

}  // namespace refrain

#include "bench/reports/reports.h"

namespace refrain::bench {

std::span<const ReportKind> report_kinds() {
  static constexpr ReportKind kKinds[] = {
      {"gated-rnn", "simple_rnn: batches, fused projections, recomputation, stepwise generation",
       report_gated_rnn},
      {"attention-rnn", "attention_rnn: bytes of state and time a token, beside a cache",
       report_attention_rnn},
      {"decoder", "the autoencoder's decoders: what attention costs over a plain one",
       report_decoder},
      {"transformer", "fast functions, one pass over all positions, the key-value cache, threads",
       report_transformer},
      {"mm-rec", "mm_rec: steps over lengths, recomputation, projections", report_mm_rec},
  };
  return kKinds;
}

}  // namespace refrain::bench

// Whole optimiser steps: forward, backward, clipping and AdamW, of every mixer at every length.
#include "bench/sections/memory.h"
#include "bench/sections/sections.h"
#include "bench/sections/training_run.h"

namespace refrain::bench {

void time_training(const Setup& setup, Report& report) {
  for (const std::string& pattern : setup.patterns)
    for (const int64_t length : setup.lengths) {
      TrainingRun run(setup, setup.model_of(pattern, length), setup.checkpointing,
                      setup.compute_type);
      const Check check = run.check();
      Row row{.section = "train",
              .name = pattern + in_compute_type(setup.compute_type),
              .shape = run.shape_text()};
      if (check.passed()) {
        const ResidentPeak resident;  // not of the check
        row.timing = time_of(setup.repetitions, [&] { run.step(); });
        row.rate = static_cast<double>(run.tokens()) / row.timing.median;
        row.unit = "tokens/s";
        row.mfu = utilisation(run.operations(), row.timing.median,
                              setup.ceilings.fastest(setup.compute_type));
        row.peak_mib = mebibytes(run.bytes());
        row.resident_mib = resident.mebibytes();
      }
      report.add(row, check);
    }
  report.end_section();
}

}  // namespace refrain::bench

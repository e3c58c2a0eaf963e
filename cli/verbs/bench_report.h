// The tables of one line of work: `refrain bench report NAME`.
#pragma once
#include <span>
#include <string>

#include "bench/reports/reports.h"

namespace refrain::cli {

struct ReportRequest {
  std::span<const std::string> words;  // after "report": one name
  std::string format;                  // md or json
  bench::ReportSetup setup;
};

// The exit status: 1 when a row was refused.
int run_report(const ReportRequest&);

}  // namespace refrain::cli

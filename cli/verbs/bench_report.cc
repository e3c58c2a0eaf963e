#include "cli/verbs/bench_report.h"

#include "cli/output.h"
#include "refrain/base/error.h"
#include "refrain/base/setting_map.h"

namespace refrain::cli {
namespace {

const bench::ReportKind& kind_named(std::span<const std::string> words) {
  std::vector<std::string> known;
  std::string list;
  for (const bench::ReportKind& kind : bench::report_kinds()) {
    if (words.size() == 1 && words[0] == kind.name) return kind;
    known.emplace_back(kind.name);
    list += (list.empty() ? "" : ", ") + known.back();
  }
  if (words.size() != 1)
    throw_error("bench report: expected one name ({}), found {}", list, words.size());
  const std::string near = nearest_name(words[0], known);
  throw_error("unknown report '{}'{}; known: {}", words[0],
              near.empty() ? "" : "; did you mean '" + near + "'?", list);
}

}  // namespace

int run_report(const ReportRequest& request) {
  const bench::ReportKind& kind = kind_named(request.words);
  if (request.format != "md" && request.format != "json")
    throw_error("--format: expected md, markdown or json, found '{}'", request.format);
  const bool quick = request.setup.size != bench::ReportSetup::Size::kPublished;
  bench::Tables tables(request.format, bench::report_head(kind.name, REFRAIN_VERSION, quick),
                       [](std::string_view text) {
                         print(text);
                         flush_output();
                       });
  try {
    kind.run(request.setup, tables);
  } catch (const std::exception&) {
    tables.end();  // what has been measured is not lost
    throw;
  }
  tables.end();
  return tables.all_passed() ? 0 : 1;
}

}  // namespace refrain::cli

// What a report prints: a head that says what was run, when and on which machine, and tables. Their
// first column names the row. A row that failed its check has no figures, but the reason.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/checks/check.h"
#include "refrain/io/json.h"

namespace refrain::bench {

struct ReportHead {
  std::string report, version, time, cpu, instructions;
  int64_t cores = 0, memory_mib = 0;
  int threads = 0;
  bool quick = false;
};
// The time is now, in UTC; the machine is this one, as far as Linux says.
ReportHead report_head(std::string report, std::string version, bool quick);

class Tables {
 public:
  using Print = std::function<void(std::string_view)>;

  // `format`: md or json. A table of Markdown is printed when it is complete, JSON at the end.
  Tables(std::string format, const ReportHead& head, Print print);

  // `columns` but the first, which is the rows' name. The table before it is complete.
  void begin(std::string title, std::vector<std::string> columns);
  // Cells are numbers, texts or null, one for each column after the name.
  void add(const std::string& name, const Check& check, std::vector<io::Json> cells);
  void remark(const std::string& text);  // below the table
  void end();

  bool all_passed() const { return all_passed_; }

 private:
  void finish_table();

  std::string format_;
  Print print_;
  io::Json all_;  // the head, and the tables so far
  std::string title_, remarks_;
  std::vector<std::string> columns_;
  io::Json rows_ = io::Json::array();
  bool all_passed_ = true;
};

}  // namespace refrain::bench

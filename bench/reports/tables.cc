#include "bench/reports/tables.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/isa.h"

namespace refrain::bench {
namespace {

constexpr const char* kName = "row";

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

// Four digits, thousands apart.
std::string number_text(const io::Json& value) {
  if (value.is_number_integer()) {
    std::string text = std::to_string(value.get<int64_t>());
    const int64_t first = text.starts_with('-') ? 1 : 0;
    for (int64_t at = std::ssize(text) - 3; at > first; at -= 3)
      text.insert(static_cast<size_t>(at), ",");
    return text;
  }
  const double number = value.get<double>(), size = std::abs(number);
  if (!std::isfinite(number)) return "-";
  if (size >= 9999.5) return number_text(io::Json(std::llround(number)));
  if (size < 1e-3 && size > 0) return fmt::format("{:.2e}", number);
  const int whole = size < 1 ? 1 : static_cast<int>(std::log10(size)) + 1;
  return fmt::format("{:.{}f}", number, std::clamp(4 - whole, 0, 4));
}

std::string cell_text(const io::Json& value) {
  if (value.is_null()) return "-";
  return value.is_string() ? value.get<std::string>() : number_text(value);
}

}  // namespace

ReportHead report_head(std::string report, std::string version, bool quick) {
  ReportHead head;
  head.report = std::move(report);
  head.version = std::move(version);
  head.time = fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(std::time(nullptr)));
  head.cpu = cpu_name();
  head.instructions = kernels::float_isa();
  head.cores = sysconf(_SC_NPROCESSORS_ONLN);
  head.memory_mib = sysconf(_SC_PHYS_PAGES) / 1024 * (sysconf(_SC_PAGESIZE) / 1024);
  head.threads = threads();
  head.quick = quick;
  return head;
}

Tables::Tables(std::string format, const ReportHead& head, Print print)
    : format_(std::move(format)), print_(std::move(print)), all_(io::Json::object()) {
  all_["report"] = head.report;
  all_["version"] = head.version;
  all_["time"] = head.time;
  all_["cpu"] = head.cpu;
  all_["cores"] = head.cores;
  all_["memory_mib"] = head.memory_mib;
  all_["instructions"] = head.instructions;
  all_["threads"] = head.threads;
  all_["quick"] = head.quick;
  all_["tables"] = io::Json::array();
  if (format_ == "json") return;
  print_(fmt::format(
      "# {}\n\nRefrain {}, {}. {}: {} cores, {} MiB of memory, {}; {} thread{}.{}\n", head.report,
      head.version, head.time, head.cpu, head.cores, number_text(io::Json(head.memory_mib)),
      head.instructions, head.threads, head.threads == 1 ? "" : "s",
      head.quick ? " Quick: smaller shapes and one repetition; the published figures are of the "
                   "whole ones."
                 : ""));
}

void Tables::begin(std::string title, std::vector<std::string> columns) {
  finish_table();
  title_ = std::move(title);
  columns_ = std::move(columns);
}

void Tables::add(const std::string& name, const Check& check, std::vector<io::Json> cells) {
  all_passed_ &= check.passed();
  io::Json row = io::Json::object();
  row[kName] = name;
  REFRAIN_CHECK(!check.passed() || cells.size() == columns_.size());
  for (size_t i = 0; i < columns_.size(); ++i)
    row[columns_[i]] = check.passed() ? cells[i] : io::Json();
  row["refused"] = check.passed() ? io::Json() : io::Json(check.reason());
  rows_.push_back(std::move(row));
}

void Tables::remark(const std::string& text) { remarks_ += (remarks_.empty() ? "" : " ") + text; }

void Tables::finish_table() {
  if (title_.empty()) return;
  if (format_ != "json") {
    std::string head = fmt::format("\n## {}\n\n| |", title_), line = "|---|", body;
    for (const std::string& column : columns_) {
      const bool words =
          std::ranges::any_of(rows_, [&](const io::Json& row) { return row[column].is_string(); });
      head += " " + column + " |";
      line += words ? "---|" : "---:|";
    }
    for (const io::Json& row : rows_) {
      body += "| " + row[kName].get<std::string>();
      if (!row["refused"].is_null())
        body += " (refused: " + row["refused"].get<std::string>() + ")";
      for (const std::string& column : columns_) body += " | " + cell_text(row[column]);
      body += " |\n";
    }
    print_(head + "\n" + line + "\n" + body + (remarks_.empty() ? "" : "\n" + remarks_ + "\n"));
  }
  io::Json table = io::Json::object();
  table["title"] = title_;
  table["rows"] = std::move(rows_);
  table["remarks"] = remarks_;
  all_["tables"].push_back(std::move(table));
  rows_ = io::Json::array();
  title_.clear();
  remarks_.clear();
}

void Tables::end() {
  finish_table();
  if (format_ == "json") print_(io::to_text(all_));
}

}  // namespace refrain::bench

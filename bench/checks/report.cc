#include "bench/checks/report.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/error.h"

namespace refrain::bench {
namespace {

// Four digits that mean something, without an exponent.
std::string rounded(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::abs(value);
  const int whole = size < 1 ? 1 : static_cast<int>(std::log10(size)) + 1;
  return fmt::format("{:.{}f}", value, std::clamp(4 - whole, 0, 3));
}

std::string text_of(const io::Json& value, bool exactly) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return std::to_string(value.get<int64_t>());
  return exactly ? fmt::format("{:.6g}", value.get<double>()) : rounded(value.get<double>());
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

// Columns on the screen; what is not ASCII here is one wide.
size_t width(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

struct Column {
  std::string head;
  bool words = true;  // to the left; numbers go to the right
  std::vector<std::string> cells{};

  std::string cell(const std::string& text, char fill = ' ') const {
    size_t widest = width(head);
    for (const std::string& c : cells) widest = std::max(widest, width(c));
    const std::string space(widest - width(text), fill);
    return words ? text + space : space + text;
  }
};

io::Json optional(const std::optional<double>& value) {
  return value ? io::Json(*value) : io::Json();
}

// Errors span many sizes: two digits and an exponent. NaN is no number of JSON.
io::Json error_of(const std::optional<double>& error) {
  if (!error) return {};
  return fmt::format("{:.1e}", *error);
}

}  // namespace

io::Json to_json(const Row& row, int threads) {
  const bool timed = row.refused.empty();
  const auto measured = [&](const io::Json& value) { return timed ? value : io::Json(); };
  const bool has_ceiling = row.rate && row.ceiling && *row.ceiling > 0;
  io::Json json = io::Json::object();
  json["section"] = row.section;
  json["name"] = row.name;
  json["shape"] = row.shape;
  json["threads"] = threads;
  json["repeats"] = measured(row.timing.repeats);
  json["mean_ms"] = measured(1e3 * row.timing.mean);
  json["deviation_ms"] = measured(1e3 * row.timing.deviation);
  json["median_ms"] = measured(1e3 * row.timing.median);
  json["rate"] = measured(optional(row.rate));
  json["unit"] = measured(row.unit.empty() ? io::Json() : io::Json(row.unit));
  json["ceiling"] = measured(has_ceiling ? io::Json(*row.ceiling) : io::Json());
  json["of_ceiling"] = measured(has_ceiling ? io::Json(*row.rate / *row.ceiling) : io::Json());
  json["mfu"] = measured(optional(row.mfu));
  json["ratio"] = measured(optional(row.ratio));
  json["mean_error"] = measured(error_of(row.mean_error));
  json["largest_error"] = measured(error_of(row.largest_error));
  json["relative_error"] = measured(error_of(row.relative_error));
  json["state_bytes"] = row.state_bytes ? io::Json(*row.state_bytes) : io::Json();
  json["peak_mib"] = measured(optional(row.peak_mib));
  json["resident_mib"] = measured(optional(row.resident_mib));
  json["refused"] = timed ? io::Json() : io::Json(row.refused);
  return json;
}

Report::Report(std::string format, int threads, Print print)
    : format_(std::move(format)), threads_(threads), print_(std::move(print)) {}

void Report::add(Row row, const Check& check) {
  row.refused = check.reason();
  all_passed_ &= check.passed();
  const io::Json json = to_json(row, threads_);
  if (format_ != "csv") {
    rows_.push_back(json);
    return;
  }
  std::string head, line;
  for (const auto& [name, value] : json.items()) {
    head += (head.empty() ? "" : ",") + name;
    line += (line.empty() ? "" : ",") + csv_field(text_of(value, true));
  }
  print_((begun_ ? "" : head + "\n") + line + "\n");
  begun_ = true;
}

void Report::end_section() {
  if (format_ != "md" || rows_.empty()) return;
  print_table();
  rows_.clear();
  begun_ = true;
}

void Report::end() {
  end_section();
  if (format_ == "json") print_(io::to_text(io::Json(rows_)));
}

// The section is the heading; a mean and its deviation are one cell.
void Report::print_table() const {
  std::vector<Column> columns;
  for (const auto& [name, first] : rows_[0].items()) {
    if (name == "section" || name == "deviation_ms") continue;
    const bool mean = name == "mean_ms";
    Column column{mean ? "mean ± deviation, ms" : name, true};
    bool empty = true;
    for (const io::Json& row : rows_) {
      const io::Json& value = row[name];
      if (value.is_number()) column.words = false;
      empty &= value.is_null();
      std::string text = text_of(value, false);
      if (mean && !value.is_null()) text += " ± " + text_of(row["deviation_ms"], false);
      column.cells.push_back(std::move(text));
    }
    if (!empty) columns.push_back(std::move(column));
  }
  std::string text =
      fmt::format("{}## {}\n\n", begun_ ? "\n" : "", text_of(rows_[0]["section"], false));
  for (const Column& c : columns) text += "| " + c.cell(c.head) + " ";
  text += "|\n";
  for (const Column& c : columns) {
    const std::string line = c.cell("", '-');
    text += c.words ? "|-" + line + "-" : "|-" + line + ":";
  }
  text += "|\n";
  for (size_t i = 0; i < rows_.size(); ++i) {
    for (const Column& c : columns) text += "| " + c.cell(c.cells[i]) + " ";
    text += "|\n";
  }
  print_(text);
}

}  // namespace refrain::bench

#include "refrain/base/bytes.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "refrain/base/error.h"

namespace refrain {

size_t parse_bytes(const std::string& name, const std::string& text) {
  double amount = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, amount, std::chars_format::fixed);
  std::string_view unit(end, static_cast<size_t>(last - end));
  double scale = 1;
  constexpr std::string_view kUnits = "KMGT";
  if (const size_t power = unit.empty() ? kUnits.npos : kUnits.find(unit[0]);
      power != kUnits.npos) {
    scale = std::pow(1024.0, static_cast<double>(power + 1));
    unit.remove_prefix(1);
    if (unit == "B" || unit == "iB") unit = "";
  }
  constexpr double kMost = 1LL << 62;
  const double bytes = amount * scale;
  if (error != std::errc() || !unit.empty() || !(bytes >= 1 && bytes <= kMost))
    throw_error("{}: expected an amount of memory such as 800M or 2G, found '{}'", name, text);
  constexpr double kFewest = 1024;  // below it, the unit was forgotten
  if (scale == 1 && bytes < kFewest)
    throw_error("{}: expected an amount of memory such as 800M or 2G, found '{}', which is {} {}",
                name, text, bytes, bytes == 1 ? "byte" : "bytes");
  return static_cast<size_t>(bytes);
}

std::string bytes_text_below(size_t bytes) {
  if (bytes < size_t{1} << 10) return fmt::format("{} bytes", bytes);
  if (bytes < size_t{1} << 20) return fmt::format("{} KiB", bytes >> 10);
  if (bytes < size_t{1} << 30) return fmt::format("{} MiB", bytes >> 20);
  return fmt::format("{:.2f} GiB", std::floor(static_cast<double>(bytes) * 100 / (1 << 30)) / 100);
}

std::string bytes_text_above(size_t bytes) {
  constexpr size_t kMebibyte = size_t{1} << 20;
  return fmt::format("{} MiB", bytes / kMebibyte + (bytes % kMebibyte != 0));
}

std::string bytes_text(size_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= size_t{1} << 30) return fmt::format("{:.2f} GiB", value / (1 << 30));
  if (bytes >= size_t{1} << 20) return fmt::format("{:.0f} MiB", value / (1 << 20));
  return fmt::format("{:.0f} KiB", std::ceil(value / 1024));
}

}  // namespace refrain

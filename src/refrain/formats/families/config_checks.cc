#include "refrain/formats/families/config_checks.h"

#include "refrain/base/error.h"

namespace refrain {

using io::Json;

bool says_nothing(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == "" ||
         (value.is_structured() && value.empty());
}

void expect_value(const Json& found, const Json& expected, const std::string& where) {
  if (found != expected)
    throw_error("{}: expected {}, found {}", where, io::describe(expected), io::describe(found));
}

void refuse_setting(const std::string& where, std::string_view key, const Json& value) {
  throw_error("{}: {}: expected no setting of this name, found {}", where,
              io::quote(std::string(key)), io::describe(value));
}

void check_architectures(const Json& value, const std::string& where, std::string_view family,
                         std::string_view head) {
  const Json& found = value.is_array() && value.size() == 1 ? value[0] : value;
  if (found != std::string(family) + "Model")
    expect_value(found, std::string(family).append(head), where);
}

void note_unknown(const std::vector<std::string>& unknown, const std::string& name,
                  const Notes& notes) {
  if (unknown.empty()) return;
  constexpr size_t kNamed = 10;
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, unknown.size()); ++i)
    names += (i == 0 ? "" : ", ") + io::quote(unknown[i]);
  if (unknown.size() > kNamed) names += fmt::format(" and {} more", unknown.size() - kNamed);
  add_note(notes, "{}: unknown settings left aside: {}", name, names);
}

}  // namespace refrain

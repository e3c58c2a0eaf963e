// What the families' readers of config.json share.
#pragma once
#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/io/json.h"

namespace refrain {

template <class Range>
bool contains(const Range& range, std::string_view key) {
  return std::find(std::begin(range), std::end(range), key) != std::end(range);
}

// Null, false, zero or empty.
bool says_nothing(const io::Json& value);

// An Error unless the setting has the only value that is supported.
void expect_value(const io::Json& found, const io::Json& expected, const std::string& where);
[[noreturn]] void refuse_setting(const std::string& where, std::string_view key,
                                 const io::Json& value);

// "architectures": the whole model (family + head), or the stack alone (family + "Model"), whose
// file lacks the output if it is not tied.
void check_architectures(const io::Json& value, const std::string& where, std::string_view family,
                         std::string_view head);

// One note that names settings which are left aside.
void note_unknown(const std::vector<std::string>& unknown, const std::string& name,
                  const Notes& notes);

}  // namespace refrain

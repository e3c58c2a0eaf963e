// What GGUF files call our tensors, and the settings in config.json.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/io/gguf/gguf.h"
#include "refrain/io/json.h"

namespace refrain {

// The name of one of our tensors; empty for one that has none.
std::string gguf_name(std::string_view ours);

// Whether rows of a tensor are in another order: queries and keys of "llama".
bool has_paired_rows(std::string_view architecture, std::string_view gguf_name);
// Where row `row` of such a tensor stands in the file; heads have d rows.
constexpr int64_t paired_row(int64_t row, int64_t d) {
  const int64_t in_head = row % d, half = d / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}
// The row that stands there.
constexpr int64_t unpaired_row(int64_t row, int64_t d) {
  const int64_t in_head = row % d;
  return row - in_head + in_head % 2 * (d / 2) + in_head / 2;
}

// config.json as it would be, from a file's keys and shapes. `notes` gets the unknown ones of the
// architecture.
io::Json config_of_gguf(const io::Gguf& file, const Notes& notes);
// What rope_freqs.weight has for a config.json; empty if the angles need no such tensor.
std::vector<float> rope_table_of(const io::Json& config);
// Keys of a file, from its config.json; nothing for a family that llama.cpp does not have.
std::optional<io::GgufKeys> gguf_keys_of(const io::Json& config);

}  // namespace refrain

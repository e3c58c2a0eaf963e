// The ids of tokens that begin, end and pad texts, as in config.json and generation_config.json.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/io/json.h"

namespace refrain {

// -1 = none.
struct SpecialTokens {
  int32_t bos = -1, eos = -1, pad = -1;
  std::vector<int32_t> more_eos{};  // other ids that end a text as well

  bool operator==(const SpecialTokens&) const = default;
};

inline constexpr auto kSpecialTokenKeys =
    std::to_array<std::string_view>({"bos_token_id", "eos_token_id", "pad_token_id"});

// Copies the ids in `json` to `special`; ids that it does not have stay. `where` is the file's name
// in errors.
void read_special_tokens(const io::Json& json, const std::string& where, int64_t vocab_size,
                         SpecialTokens& special);
void put_special_tokens(const SpecialTokens&, io::Json& to);

}  // namespace refrain

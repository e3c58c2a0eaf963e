// Characters of a text that a tokenizer does not have, told once.
#pragma once
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "refrain/text/tokenizer.h"

namespace refrain::cli {

class UnknownCharacters {
 public:
  explicit UnknownCharacters(const text::Tokenizer& tokenizer);

  // The ids that it was encoded to, with `parse_special` or without.
  void look(std::string_view text, std::span<const int32_t> ids, bool parse_special = false);
  void tell(const std::string& where) const;  // a line on standard error, if there are any

 private:
  bool has(const std::string& token) const;
  void look_at_words(std::string_view text);
  void look_at(std::string_view text);

  const text::Tokenizer& tokenizer_;
  std::set<std::string, std::less<>> unknown_;
};

}  // namespace refrain::cli

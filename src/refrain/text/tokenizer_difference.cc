#include "refrain/text/tokenizer_difference.h"

#include <fmt/format.h>

#include "refrain/io/json.h"

namespace refrain::text {

std::string difference(const Tokenizer& expected, const Tokenizer& found) {
  if (found.vocab_size() != expected.vocab_size())
    return fmt::format("expected {} tokens, found {}", expected.vocab_size(), found.vocab_size());
  for (int64_t i = 0; i < expected.vocab_size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (found.token(id) != expected.token(id))
      return fmt::format("token {}: expected {}, found {}", id, io::quote(expected.token(id)),
                         io::quote(found.token(id)));
    if (found.is_special(id) != expected.is_special(id))
      return fmt::format("token {}, {}: expected {} special one, found {}", id,
                         io::quote(found.token(id)), expected.is_special(id) ? "a" : "no",
                         found.is_special(id) ? "one" : "none");
  }
  return "";
}

}  // namespace refrain::text

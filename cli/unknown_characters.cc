#include "cli/unknown_characters.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "cli/output.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"
#include "refrain/text/tokenizer/pretokenize.h"

namespace refrain::cli {
namespace {

constexpr size_t kShown = 16;
constexpr size_t kMostWords = 100'000;  // kept in memory to tell how many there are; of characters
                                        // there are fewer

bool is_white_space(char32_t c) {  // Unicode's
  return (c >= 0x09 && c <= 0x0D) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace

UnknownCharacters::UnknownCharacters(const text::Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

bool UnknownCharacters::has(const std::string& token) const {
  return tokenizer_.id_of(token) != text::kNoToken;
}

void UnknownCharacters::look(std::string_view text, std::span<const int32_t> ids,
                             bool parse_special) {
  // The other kinds have all bytes.
  const std::string& kind = tokenizer_.kind();
  if (kind != "bpe" && kind != "char" && kind != "word") return;
  const int32_t unk = tokenizer_.unk();
  if (unk != text::kNoToken && std::ranges::count(ids, unk) == 0) return;
  // An added token's characters need be no tokens.
  for (const std::string_view part : tokenizer_.without_added(text, parse_special))
    if (kind == "word")
      look_at_words(part);
    else
      look_at(part);
}

void UnknownCharacters::look_at_words(std::string_view text) {
  while (!text.empty()) {
    const size_t space = text::leading_space(text), word = text::leading_word(text.substr(space));
    const std::string_view found = text.substr(space, word);
    text.remove_prefix(space + word);
    if (found.empty() || unknown_.size() >= kMostWords) continue;
    const std::vector<int32_t> ids = tokenizer_.encode(found);
    if (ids.empty() || std::ranges::count(ids, tokenizer_.unk()) > 0) unknown_.emplace(found);
  }
}

void UnknownCharacters::look_at(std::string_view text) {
  const bool by_words = tokenizer_.kind() == "bpe";
  while (!text.empty()) {
    const CodePoint next = decode_utf8(text);
    const std::string character(text.substr(0, next.bytes));
    text.remove_prefix(next.bytes);
    if (by_words && next.valid && is_white_space(next.code)) continue;
    // A word's last character is another token than it is elsewhere.
    const bool ends = text.empty() || is_white_space(decode_utf8(text).code);
    if (!next.valid || !has(by_words && ends ? character + "</w>" : character))
      unknown_.insert(character);
  }
}

void UnknownCharacters::tell(const std::string& where) const {
  if (unknown_.empty()) return;
  std::vector<std::string> shown;
  for (const std::string& character : unknown_) {
    if (shown.size() == kShown) break;
    shown.push_back(io::quote(character));
  }
  const int32_t unk = tokenizer_.unk();
  note(fmt::format(
      "{}: {}{} {}{} that the tokenizer does not have ({}): {}{}", where,
      unknown_.size() >= kMostWords ? "at least " : "", unknown_.size(),
      tokenizer_.kind() == "word" ? "word" : "character", unknown_.size() == 1 ? "" : "s",
      unk == text::kNoToken ? "left out" : fmt::format("read as {}", tokenizer_.token(unk)),
      fmt::join(shown, ", "), unknown_.size() > kShown ? ", ..." : ""));
}

}  // namespace refrain::cli

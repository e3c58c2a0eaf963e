#include "refrain/text/text_cuts.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/text/tokenizer/impl.h"
#include "refrain/text/tokenizer/pretokenize.h"
#include "refrain/text/white_space.h"

namespace refrain::text {
namespace {

constexpr char32_t kMark = 0x2581;  // sentencepiece's space

bool is_ascii_space(char c) { return c == ' ' || (c >= 0x09 && c <= 0x0D); }

// Whether the text starts with a visible character, all of it.
bool starts_visible(std::string_view text) {
  if (text.empty()) return false;
  const CodePoint c = decode_utf8(text);
  return c.valid && !is_space(c.code) && c.code != kMark;
}

// The character that ends at `at`.
std::string_view character_before(std::string_view text, size_t at) {
  size_t begin = at - 1;
  while (begin > 0 && at - begin < 4 && (text[begin] & 0xC0) == 0x80) --begin;
  return text.substr(begin, at - begin);
}

bool has_white_space(std::string_view text) {
  for (; !text.empty(); text.remove_prefix(decode_utf8(text).bytes))
    if (leading_space(text) > 0) return true;
  return false;
}

bool starts_character(char c) { return (c & 0xC0) != 0x80; }
bool is_white(std::string_view text) { return leading_space(text.substr(0, 4)) > 0; }

enum class Class { kLetter, kNumber, kOther, kNone };

Class class_of(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if (byte >= 0x80 || is_ascii_space(c)) return Class::kNone;
  if (c >= '0' && c <= '9') return Class::kNumber;
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ? Class::kLetter : Class::kOther;
}

// Letters, numbers and the rest never share a word of GPT-2's pattern but for an apostrophe before
// letters.
bool changes_class(char b, char c) {
  const Class before = class_of(b), behind = class_of(c);
  return (before == Class::kLetter || before == Class::kNumber) && behind != Class::kNone &&
         behind != before;
}

}  // namespace

TextCuts::TextCuts(Rule rule, std::vector<Added> added) : rule_(rule), added_(std::move(added)) {
  for (const Added& one : added_) {
    if (one.single_word || one.lstrip || one.rstrip) sensitive_.push_back(one);
    const std::string& token = one.content;
    longest_ = std::max(longest_, token.size());
    // What stands behind the token may make a place of its last character too.
    const std::string followed = token + "x";
    for (size_t i = 1; i < token.size(); ++i)
      if (allows(followed, i) || allows(token, i)) {
        cuttable_.push_back(token);
        break;
      }
  }
}

size_t TextCuts::last(std::string_view text, size_t from) const {
  if (rule_ == Rule::kNowhere) return 0;
  for (size_t i = text.size(); i-- > std::max<size_t>(from, 1);)
    if (allows(text, i) && !in_added_token(text, i) && !is_changed_by_added_token(text, i))
      return i;
  return 0;
}

bool TextCuts::allows(std::string_view text, size_t at) const {
  const char c = text[at];
  const auto behind_visible = [&] { return starts_visible(character_before(text, at)); };
  switch (rule_) {
    case Rule::kAnywhere:
      return starts_character(c);
    case Rule::kBesideWhiteSpace:
      return starts_character(c) &&
             (is_white(text.substr(at)) || is_white(character_before(text, at)));
    case Rule::kBetweenWords:
      if (!starts_character(c)) return false;
      if (!is_white(text.substr(at))) return changes_class(text[at - 1], c);
      return behind_visible() || (is_ascii_space(c) && is_white(character_before(text, at)) &&
                                  starts_visible(text.substr(at + 1)));
    case Rule::kBeforeWhiteSpace:
      return is_ascii_space(c) && behind_visible();
    case Rule::kBeforeSpace:
      return c == ' ' && behind_visible();
    case Rule::kBetweenLines:
      return c == ' ' ? behind_visible() : text[at - 1] == '\n' && starts_visible(text.substr(at));
    case Rule::kAtSpace:
      return c == ' ' && behind_visible() && starts_visible(text.substr(at + 1));
    case Rule::kNowhere:
      break;
  }
  return false;
}

// One that the text's end cuts short counts: it may go on.
bool TextCuts::in_added_token(std::string_view text, size_t at) const {
  for (const std::string& token : cuttable_)
    for (size_t before = 1; before < token.size() && before <= at; ++before) {
      const std::string_view found = text.substr(at - before, token.size());
      if (found == std::string_view(token).substr(0, found.size())) return true;
    }
  return false;
}

// Behind a token that ends at the place, or before one that begins there, text is split anew: the
// space that is dropped would not come back, and a run of white space would not give up its last. A
// single word must see what is beside it, and the white space that a token takes along stays whole.
bool TextCuts::is_changed_by_added_token(std::string_view text, size_t at) const {
  const auto past_length = [&](const Added& token, size_t place) {  // or may, with more text
    const std::string_view found = text.substr(place, token.content.size());
    return found == std::string_view(token.content).substr(0, found.size());
  };
  const auto ends_at = [&](const Added& token, size_t place) {
    return text.substr(0, place).ends_with(token.content);
  };
  const bool behind_white = is_white(character_before(text, at));
  const bool at_space = rule_ == Rule::kAtSpace;
  const bool in_run = rule_ == Rule::kBetweenWords && behind_white;
  if (at_space || in_run)
    for (const Added& token : added_)
      if (past_length(token, at + 1) ||
          (at_space && (past_length(token, at) || ends_at(token, at))))
        return true;
  if (sensitive_.empty()) return false;
  if (std::any_of(sensitive_.begin(), sensitive_.end(), [&](const Added& token) {
        return token.single_word && (past_length(token, at) || ends_at(token, at));
      }))
    return true;
  // Tokens may be white space themselves: each place of the run may be where one stands.
  for (size_t place = at;; place -= character_before(text, place).size()) {
    for (const Added& token : sensitive_)
      if (token.rstrip && ends_at(token, place)) return true;
    if (place == 0 || !is_white(character_before(text, place))) break;
  }
  for (size_t place = at; behind_white;) {
    // A character that is not all there may be white space too.
    const bool cut_short =
        place < text.size() && place + 3 >= text.size() && !decode_utf8(text.substr(place)).valid;
    for (const Added& token : sensitive_)
      if (token.lstrip && (cut_short || past_length(token, place))) return true;
    if (place == text.size() || !is_white(text.substr(place))) break;
    place += decode_utf8(text.substr(place)).bytes;
  }
  return false;
}

TextCuts Tokenizer::cuts(bool parse_special) const {
  using Rule = TextCuts::Rule;
  const Vocabulary& v = impl_->vocabulary;
  std::vector<TextCuts::Added> added;
  bool marked = false;  // a token that is looked for between marks has a place to cut
  // Special tokens that are not asked for count too: nothing else is found in their place.
  const bool any = std::any_of(v.added.begin(), v.added.end(), [&](const AddedToken& token) {
    return parse_special || !token.special;
  });
  for (const AddedToken& token : any ? v.added : std::vector<AddedToken>()) {
    const std::string& content = v.tokens[static_cast<size_t>(token.id)];
    added.push_back({content, token.single_word, token.lstrip, token.rstrip});
    marked = marked || (token.normalized && !v.metaspace &&
                        content.find_first_of(" \xE2", 1) != content.npos);
  }
  const bool one_unknown = v.fuse_unk && v.unk != kNoToken;  // unknown characters in a row
  // Whether a merge has white space behind anything else.
  const auto reaches_over = [&] {
    return std::any_of(v.merges.begin(), v.merges.end(), [&](const Merge& merge) {
      const std::string_view text = impl_->text_of(merge.merged);
      for (size_t i = 1; i < text.size(); ++i)
        if (is_ascii_space(text[i]) && !is_ascii_space(text[i - 1])) return true;
      return false;
    });
  };
  // The rule of a byte-bpe, which may change texts and split them in several steps.
  const auto byte_bpe_rule = [&] {
    const bool finds_changed = std::any_of(v.added.begin(), v.added.end(), [&](const auto& token) {
      const std::string& content = v.tokens[static_cast<size_t>(token.id)];
      return token.normalized && (token.lstrip || token.rstrip || has_white_space(content));
    });
    if (!v.normalizer.keeps_cuts() || (!v.normalizer.empty() && finds_changed))
      return Rule::kNowhere;
    const PreTokenizer& before = v.pre_tokenizer;
    if (before.is_word_pattern()) return v.prefix_space ? Rule::kNowhere : Rule::kBetweenLines;
    if (before.is_gpt2()) return v.prefix_space ? Rule::kNowhere : Rule::kBetweenWords;
    if (before.only_digits() && v.split_words)
      return v.prefix_space ? Rule::kBeforeSpace : Rule::kBeforeWhiteSpace;
    if (!before.empty()) return Rule::kNowhere;
    if (v.split_words) return v.prefix_space ? Rule::kBeforeSpace : Rule::kBetweenWords;
    if (one_unknown || v.ignore_merges || reaches_over()) return Rule::kNowhere;
    return v.prefix_space ? Rule::kBeforeSpace : Rule::kBeforeWhiteSpace;
  };
  Rule rule = Rule::kNowhere;
  switch (v.kind) {
    case Kind::kChar:
      if (!one_unknown) rule = Rule::kAnywhere;
      break;
    case Kind::kBpe:
    case Kind::kWord:
      rule = Rule::kBesideWhiteSpace;
      break;
    case Kind::kByteBpe:
      rule = byte_bpe_rule();
      break;
    case Kind::kLlama:
      if ((v.split_marks || impl_->marks_start_words()) && !marked)
        rule = v.metaspace || v.prefix == Vocabulary::Prefix::kNever ? Rule::kBeforeSpace
                                                                     : Rule::kAtSpace;
      break;
  }
  return TextCuts(rule, std::move(added));
}

PieceReader::PieceReader(io::TextReader reader, TextCuts cuts, size_t piece_bytes)
    : reader_(std::move(reader)), cuts_(std::move(cuts)), piece_bytes_(piece_bytes) {}

bool PieceReader::next(std::string& piece) {
  line_ = next_line_;
  size_t cut = 0;
  while (!ended_ && (cut = cuts_.last(held_, searched_)) == 0) {
    searched_ = held_.size() - std::min(held_.size(), cuts_.uncertain());
    if (held_.size() >= kLongest)
      throw_error("{}: line {}: {} bytes of text, and no place to cut it for this tokenizer",
                  name(), line_, kLongest);
    if (reader_.read(more_, piece_bytes_))
      held_ += more_;
    else
      ended_ = true;
  }
  piece.assign(held_, 0, ended_ ? held_.npos : cut);
  if (piece.empty()) return false;
  next_line_ += std::count(piece.begin(), piece.end(), '\n');
  const bool drop_space = !ended_ && cuts_.drops_space();
  held_.erase(0, piece.size() + drop_space);
  dropped_ += drop_space;
  searched_ = 0;
  return true;
}

}  // namespace refrain::text

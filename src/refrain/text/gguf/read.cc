// The tokenizer in the keys of a GGUF file (docs/formats.md).
#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/text/gguf/keys.h"
#include "refrain/text/gguf/pre_tokenizers.h"
#include "refrain/text/tokenizer/impl.h"

namespace refrain::text {
namespace {

using io::Gguf;
using io::Json;
using io::quote;
using namespace gguf_keys;

constexpr int64_t kMaxTokens = int64_t{1} << 24;

struct Token {
  std::string text;
  int64_t type;
};

std::string where_of(const Gguf& file, size_t id) {
  return fmt::format("{}: {}: token {}", file.path(), kTokens, id);
}

// Checked: not empty, UTF-8, each once. Those that only fill the vocabulary up are left out.
std::vector<Token> read_tokens(const Gguf& file) {
  const auto* texts = file.find_strings(kTokens);
  if (!texts) throw_error("{}: {}: missing, expected a list of texts", file.path(), kTokens);
  const auto* types = file.find_ints(kTypes);
  if (types && types->size() != texts->size())
    throw_error("{}: {}: expected {} numbers, one for each token, found {}", file.path(), kTypes,
                texts->size(), types->size());
  std::vector<Token> tokens;
  for (size_t id = 0; id < texts->size(); ++id)
    tokens.push_back({(*texts)[id], types ? (*types)[id] : int64_t{kNormal}});
  while (!tokens.empty() && tokens.back().type == kUnused &&
         tokens.back().text == filler(tokens.size() - 1))
    tokens.pop_back();
  if (tokens.empty() || std::cmp_greater(tokens.size(), kMaxTokens))
    throw_error("{}: {}: expected 1 to {} tokens, found {}", file.path(), kTokens, kMaxTokens,
                tokens.size());
  std::unordered_set<std::string_view> seen;
  size_t added_bytes = 0;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const auto& [text, type] = tokens[id];
    if (text.empty() || find_invalid_utf8(text))
      throw_error("{}: expected UTF-8 text, found {}", where_of(file, id), quote(text));
    if (!seen.insert(text).second)
      throw_error("{}: {} is a token before", where_of(file, id), quote(text));
    if (is_added(type) && (added_bytes += text.size()) > AddedTokenFinder::kMaxBytes)
      throw_error("{}: expected at most {} bytes of special tokens together, found more",
                  where_of(file, id), AddedTokenFinder::kMaxBytes);
  }
  return tokens;
}

// An id that the file names, or `absent`. Files name ids that they do not have; llama.cpp ignores
// these as well.
int32_t read_id(const Gguf& file, const char* key, size_t tokens, int32_t absent = kNoToken) {
  const int64_t id = file.get_int(key, INT64_MIN, INT64_MAX, absent);
  if (id >= 0 && std::cmp_less(id, tokens)) return static_cast<int32_t>(id);
  return absent >= 0 && std::cmp_less(absent, tokens) ? absent : kNoToken;
}

std::vector<AddedToken> added_of(const std::vector<Token>& tokens) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < tokens.size(); ++id)
    if (is_added(tokens[id].type))
      added.push_back({.id = static_cast<int32_t>(id), .special = tokens[id].type != kUserDefined});
  return added;
}

// What stands before and behind every text where that is asked for.
void read_template(const Gguf& file, bool adds_bos, int32_t bos, const std::vector<Token>& tokens,
                   Vocabulary& v) {
  if (!file.get_bool(kAddBos, adds_bos) || bos == kNoToken) return;
  v.template_before = {bos};
  v.post_processor = bos_template(tokens[static_cast<size_t>(bos)].text, bos);
}

// "gpt2": byte-level. What tokenizer.json would say goes through the reader of that.
Vocabulary read_byte_level(const Gguf& file, const std::vector<Token>& tokens, const Notes& notes) {
  const std::string pre = file.get_string(kPre, "default");
  if (!file.find(kPre))
    add_note(notes, "{}: {}: missing: texts are split as \"default\" splits them", file.path(),
             kPre);
  const auto named = pre_tokenizer_named(pre);
  if (!named)
    throw_error("{}: {}: expected {} or another name of one of these, found {}", file.path(), kPre,
                known_pre_names(), quote(pre));
  const auto* merges = file.find_strings(kMerges);
  if (!merges) throw_error("{}: {}: missing, expected a list of texts", file.path(), kMerges);
  Json vocab = Json::object(), added = Json::array(), list = Json::array();
  Json::object_t::Container& members = vocab.get_ref<Json::object_t&>();
  for (size_t id = 0; id < tokens.size(); ++id) members.emplace_back(tokens[id].text, id);
  for (const AddedToken& token : added_of(tokens))
    added.push_back({{"id", token.id},
                     {"content", tokens[static_cast<size_t>(token.id)].text},
                     {"special", token.special},
                     {"normalized", false}});
  for (const std::string& merge : *merges) list.push_back(merge);
  const Json root = {{"added_tokens", std::move(added)},
                     {"pre_tokenizer", named->json},
                     {"decoder", {{"type", "ByteLevel"}}},
                     {"model",
                      {{"ignore_merges", named->ignore_merges},
                       {"vocab", std::move(vocab)},
                       {"merges", std::move(list)}}}};
  Vocabulary v = read_vocabulary(root, file.path() + ": tokenizer.ggml", notes);
  read_template(file, named->adds_bos, read_id(file, kBos, tokens.size()), tokens, v);
  return v;
}

std::vector<std::string> texts_of(const std::vector<Token>& tokens) {
  std::vector<std::string> texts;
  for (const Token& token : tokens) texts.push_back(token.text);
  return texts;
}

// "llama": sentencepiece's merges by score, with bytes for what has no token.
Vocabulary read_scored(const Gguf& file, const std::vector<Token>& tokens) {
  const auto* scores = file.find_numbers(kScores);
  if (!scores || scores->size() < tokens.size())
    throw_error("{}: {}: expected {} numbers, one for each token, found {}", file.path(), kScores,
                tokens.size(), scores ? scores->size() : 0);
  Vocabulary v;
  v.kind = Kind::kLlama;
  v.tokens = texts_of(tokens);
  v.model_tokens = static_cast<int32_t>(tokens.size());
  v.added = added_of(tokens);
  v.unk = read_id(file, kUnk, tokens.size(), 0);
  v.fuse_unk = true;
  const bool prefix = file.get_bool(kAddPrefix, true);
  v.prefix = prefix ? Vocabulary::Prefix::kAlways : Vocabulary::Prefix::kNever;
  v.strip_prefix = prefix;
  std::unordered_set<std::string_view> known(v.tokens.begin(), v.tokens.end());
  for (int byte = 0; byte < 256; ++byte)
    if (const std::string token = llama_byte_token(static_cast<uint8_t>(byte));
        !known.contains(token))
      throw_error("{}: {}: expected a token for every byte, found none that is {}", file.path(),
                  kTokens, token);
  std::vector<float> narrow;
  std::vector<int32_t> pieces;
  for (size_t id = 0; id < tokens.size(); ++id) {
    narrow.push_back(static_cast<float>((*scores)[id]));
    if (!std::isfinite(narrow.back()))
      throw_error("{}: {}: expected finite numbers, found {} of token {}", file.path(), kScores,
                  narrow.back(), id);
    if (tokens[id].type != kNormal) continue;
    if (tokens[id].text.size() > kLongestPiece)
      throw_error("{}: expected at most {} bytes, found {}", where_of(file, id), kLongestPiece,
                  tokens[id].text.size());
    pieces.push_back(static_cast<int32_t>(id));
  }
  v.merges = merges_by_score(v.tokens, std::move(pieces), narrow);
  read_template(file, true, read_id(file, kBos, tokens.size(), 1), tokens, v);
  return v;
}

// "t5": the most probable of all ways to split a text into tokens. If they are single characters
// there is one way.
Vocabulary read_characters(const Gguf& file, const std::vector<Token>& tokens) {
  Vocabulary v;
  v.kind = Kind::kChar;
  v.tokens = texts_of(tokens);
  v.model_tokens = static_cast<int32_t>(tokens.size());
  v.added = added_of(tokens);
  v.unk = read_id(file, kUnk, tokens.size(), 2);
  v.fuse_unk = true;
  for (size_t id = 0; id < tokens.size(); ++id) {
    std::string& text = v.tokens[id];
    if (is_added(tokens[id].type)) continue;
    if (decode_utf8(text).bytes != text.size())
      throw_error(
          "{}: expected a single character ({} \"t5\" with longer tokens is not supported), "
          "found {}",
          where_of(file, id), kModel, quote(text));
    if (text == kSpaceMark) text = " ";
  }
  if (file.get_bool(kAddPrefix, true) || file.get_bool(kRemoveSpaces, false))
    throw_error("{}: {} \"t5\": expected {} false and {} false, found others", file.path(), kModel,
                kAddPrefix, kRemoveSpaces);
  read_template(file, false, read_id(file, kBos, tokens.size()), tokens, v);
  return v;
}

}  // namespace

Tokenizer Tokenizer::from_gguf(const Gguf& file, const Notes& notes) {
  const std::string model = file.get_string(kModel);
  if (model == "none" || model == "no_vocab")
    throw_error("{}: {}: expected a tokenizer, found a file without one", file.path(), kModel);
  if (model != "gpt2" && model != "llama" && model != "t5")
    throw_error("{}: {}: expected \"gpt2\" or \"llama\", found {}", file.path(), kModel,
                quote(model));
  const std::vector<Token> tokens = read_tokens(file);
  Vocabulary v = model == "gpt2"    ? read_byte_level(file, tokens, notes)
                 : model == "llama" ? read_scored(file, tokens)
                                    : read_characters(file, tokens);
  return Tokenizer(std::make_unique<Impl>(std::move(v)));
}

}  // namespace refrain::text

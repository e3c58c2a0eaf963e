// A tokenizer as the keys from which llama.cpp makes the same ids (docs/formats.md).
#include <algorithm>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/text/gguf/keys.h"
#include "refrain/text/gguf/pre_tokenizers.h"
#include "refrain/text/tokenizer/byte_alphabet.h"
#include "refrain/text/tokenizer/impl.h"

namespace refrain::text {
namespace {

using namespace gguf_keys;

// What the keys are made of.
struct Writing {
  const Vocabulary& v;
  io::GgufKeys keys{};
  std::vector<std::string> tokens{};
  std::vector<int64_t> types{};
};

[[noreturn]] void refuse(std::string_view kind, std::string_view why) {
  throw_error("tokenizer: llama.cpp has none that gives the ids of this one ({}): {}", kind, why);
}

// Of the tokens that are only added, or found in the text first.
void set_added_types(Writing& w) {
  for (const AddedToken& token : w.v.added)
    w.types[static_cast<size_t>(token.id)] = token.id == w.v.unk ? kUnknownToken
                                             : token.special     ? kControl
                                                                 : kUserDefined;
}

void note_flags(const Vocabulary& v, const Notes& notes) {
  for (const AddedToken& token : v.added) {
    if (!token.lstrip && !token.rstrip && !token.single_word) continue;
    add_note(notes,
             "tokenizer: {} takes white space beside it along, or does not stand in words; in "
             "llama.cpp it does not",
             io::quote(v.tokens[static_cast<size_t>(token.id)]));
    return;
  }
}

void write_byte_level(Writing& w, const Notes& notes) {
  const Vocabulary& v = w.v;
  std::optional<std::string> pre;
  if (!v.prefix_space && v.pre_tokenizer.empty()) {
    if (v.split_words && !v.ignore_merges) pre = "gpt-2";
  } else if (!v.prefix_space) {
    pre = name_of_pre_tokenizer(v.pre_tokenizer_json, v.ignore_merges);
  }
  if (!pre) refuse("byte-bpe", "it splits texts in a way that has no name there");
  for (int byte = 0; byte < 256; ++byte)
    if (v.unk != kNoToken &&
        std::ranges::count(w.tokens, byte_character(static_cast<uint8_t>(byte))) == 0)
      refuse("byte-bpe", "a byte that is no token is <unk>, and nothing there");
  if (!v.normalizer.empty())
    add_note(notes,
             "tokenizer: llama.cpp does not normalize: texts that the normalizer changes get other "
             "ids there");
  w.keys.emplace_back(kModel, "gpt2");
  w.keys.emplace_back(kPre, *pre);
  std::vector<std::string> merges;
  for (const Merge& merge : v.merges) {
    const std::string &left = v.tokens[static_cast<size_t>(merge.left)],
                      &right = v.tokens[static_cast<size_t>(merge.right)];
    if (left.find(' ') != left.npos || right.find(' ') != right.npos)
      refuse("byte-bpe", "a merge of tokens with a space, which separates them there");
    merges.push_back(left + ' ' + right);
  }
  w.keys.emplace_back(kMerges, std::move(merges));
}

// Scores that give these merges; nothing if there are none.
std::optional<std::vector<float>> scores_of(const Vocabulary& v) {
  std::vector<float> scores(v.tokens.size(), 0);
  std::vector<bool> is_merged(v.tokens.size());
  std::vector<int32_t> pieces;
  for (const Merge& merge : v.merges) {
    const auto id = static_cast<size_t>(merge.merged);
    if (is_merged[id]) continue;
    is_merged[id] = true;
    pieces.push_back(merge.merged);
    scores[id] = -static_cast<float>(pieces.size());
  }
  // There, all tokens of more than one character are merged from what makes them.
  std::vector<bool> is_added(v.tokens.size());
  for (const AddedToken& token : v.added) is_added[static_cast<size_t>(token.id)] = true;
  for (int32_t id = 0; id < v.model_tokens; ++id) {
    const auto i = static_cast<size_t>(id);
    if (is_merged[i]) continue;
    scores[i] = -static_cast<float>(v.tokens.size());
    if (!is_added[i] && v.tokens[i].size() <= kLongestPiece) pieces.push_back(id);
  }
  std::vector<Merge> theirs = merges_by_score(v.tokens, std::move(pieces), scores), ours = v.merges;
  // Of one token, the place of merges among themselves decides nothing but overlaps of it with
  // itself.
  const auto order = [](std::vector<Merge>& merges) {
    std::map<int32_t, size_t> rank;
    for (const Merge& merge : merges) rank.try_emplace(merge.merged, rank.size());
    for (size_t i = 1; i < merges.size(); ++i)
      if (rank[merges[i].merged] < rank[merges[i - 1].merged]) return false;
    std::ranges::sort(merges, {}, [&](const Merge& merge) {
      return std::tuple(rank[merge.merged], merge.left, merge.right);
    });
    return true;
  };
  if (!order(ours) || !order(theirs)) return {};
  const bool same = std::ranges::equal(ours, theirs, [](const Merge& a, const Merge& b) {
    return std::tuple(a.left, a.right, a.merged) == std::tuple(b.left, b.right, b.merged);
  });
  if (!same) return {};
  return scores;
}

void write_scored(Writing& w, const Notes& notes) {
  const Vocabulary& v = w.v;
  const auto scores = scores_of(v);
  if (!scores) refuse("llama", "its merges are not those that scores of tokens give");
  if (v.metaspace && v.prefix != Vocabulary::Prefix::kNever)
    add_note(
        notes,
        "tokenizer: llama.cpp puts a space before every text, also before one that begins with "
        "a space, and behind special tokens");
  w.keys.emplace_back(kModel, "llama");
  w.keys.emplace_back(kPre, "default");
  w.keys.emplace_back(kAddPrefix, v.prefix != Vocabulary::Prefix::kNever);
  std::vector<double> wide(scores->begin(), scores->end());
  for (int byte = 0; byte < 256; ++byte) {
    const auto at = std::ranges::find(w.tokens, llama_byte_token(static_cast<uint8_t>(byte)));
    w.types[static_cast<size_t>(at - w.tokens.begin())] = kByte;
  }
  wide.resize(w.tokens.size());
  w.keys.emplace_back(kScores, std::move(wide));
}

// The most probable way to split a text into tokens, which are single characters: there is but one.
void write_characters(Writing& w, const Notes& notes) {
  const Vocabulary& v = w.v;
  if (v.unk == kNoToken) refuse("char", "it leaves unknown characters out");
  if (!v.fuse_unk)
    add_note(notes, "tokenizer: of several unknown characters in a row llama.cpp makes one {}",
             v.tokens[static_cast<size_t>(v.unk)]);
  for (int32_t id = 0; id < v.model_tokens; ++id) {
    std::string& text = w.tokens[static_cast<size_t>(id)];
    if (text == kSpaceMark) refuse("char", "\u2581 is a character of it, which is a space there");
    if (text == " ") text = kSpaceMark;
    if (decode_utf8(text).bytes != text.size()) w.types[static_cast<size_t>(id)] = kControl;
  }
  w.keys.emplace_back(kModel, "t5");
  w.keys.emplace_back(kPre, "default");
  w.keys.emplace_back(kAddPrefix, false);
  w.keys.emplace_back(kRemoveSpaces, false);
  w.keys.emplace_back(kScores, std::vector<double>(w.tokens.size(), -1.0));
}

}  // namespace

io::GgufKeys Tokenizer::to_gguf(int64_t vocab_size, const Notes& notes) const {
  const Vocabulary& v = impl_->vocabulary;
  if (v.kind == Kind::kBpe)
    refuse("bpe",
           "the last character of a word is part of its last token (</w>), and white space is "
           "none");
  if (v.kind == Kind::kWord) refuse("word", "its words have any characters, and others are <unk>");
  REFRAIN_CHECK(vocab_size >= std::ssize(v.tokens));
  Writing w{v};
  w.tokens = v.tokens;
  w.types.assign(v.tokens.size(), kNormal);
  for (auto id = v.tokens.size(); std::cmp_less(id, vocab_size); ++id) {
    w.tokens.push_back(filler(id));
    w.types.push_back(kUnused);
    if (id_of(w.tokens.back()) != kNoToken)
      refuse(kind(), fmt::format("{} has another id than it would stand for", w.tokens.back()));
  }
  note_flags(v, notes);
  if (v.kind == Kind::kByteBpe) write_byte_level(w, notes);
  if (v.kind == Kind::kLlama) write_scored(w, notes);
  if (v.kind == Kind::kChar) write_characters(w, notes);
  set_added_types(w);
  w.keys.emplace_back(kTokens, std::move(w.tokens));
  w.keys.emplace_back(kTypes, std::move(w.types));
  w.keys.emplace_back(kAddBos, adds_bos());
  w.keys.emplace_back(kAddEos, !v.template_after.empty());
  if (v.unk != kNoToken) w.keys.emplace_back(kUnk, int64_t{v.unk});
  if (adds_bos() || bos() != kNoToken)
    w.keys.emplace_back(kBos, int64_t{adds_bos() ? template_before()[0] : bos()});
  // Where a file names no token that ends texts, llama.cpp takes one that may well occur. The byte
  // 0xFF occurs in no text.
  int32_t end = eos();
  if (end == kNoToken) end = v.kind == Kind::kByteBpe ? id_of(byte_character(0xFF)) : v.unk;
  if (end != kNoToken) w.keys.emplace_back(kEos, int64_t{end});
  return std::move(w.keys);
}

}  // namespace refrain::text

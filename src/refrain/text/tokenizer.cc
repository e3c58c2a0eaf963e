#include "refrain/text/tokenizer.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/text/tokenizer/byte_alphabet.h"
#include "refrain/text/tokenizer/impl.h"
#include "refrain/text/tokenizer/pretokenize.h"

namespace refrain::text {
namespace {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string replaced;
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != text.npos; at = found + from.size()) {
    replaced += text.substr(at, found - at);
    replaced += to;
  }
  replaced += text.substr(at);
  return replaced;
}

// The only character of `text`, if it has one.
std::optional<char32_t> only_character(std::string_view text) {
  if (text.empty()) return {};
  const CodePoint first = decode_utf8(text);
  if (!first.valid || first.bytes != text.size()) return {};
  return first.code;
}

void set_character(std::vector<int32_t>& ids, char32_t code, int32_t id) {
  if (code >= ids.size()) ids.resize(code + 1, kNoToken);
  ids[code] = id;
}

// Calls f(word) for words that start at a mark: at every one, or only at the first of several.
template <class F>
void for_each_marked_word(std::string_view text, bool every_mark, F&& f) {
  size_t start = 0, behind = 0;  // behind the last mark
  for (size_t at = 0; (at = text.find(kSpaceMark, at)) != text.npos; at = behind) {
    if (at > start && (every_mark || at > behind)) {
      f(text.substr(start, at - start));
      start = at;
    }
    behind = at + kSpaceMark.size();
  }
  if (start < text.size()) f(text.substr(start));
}

// Where words of one text already stand among its ids: they are encoded once and then copied.
class WordMemo {
 public:
  explicit WordMemo(size_t text_bytes)
      : entries_(std::bit_ceil(std::clamp<size_t>(text_bytes / 8, 1, kEntries))) {}

  // encode(word) appends the word's ids to `ids`, unless they are known.
  template <class F>
  void encode(std::string_view word, std::vector<int32_t>& ids, F&& encode) {
    Entry& entry = entries_[hash_bytes(word) & (entries_.size() - 1)];
    if (entry.count > 0 && entry.word == word) {
      const size_t end = ids.size();
      ids.resize(end + entry.count);
      std::copy_n(ids.data() + entry.at, entry.count, ids.data() + end);
      return;
    }
    const size_t at = ids.size();
    encode(word);
    entry = {word, at, ids.size() - at};
  }

 private:
  static constexpr size_t kEntries = size_t{1} << 15;
  struct Entry {
    std::string_view word;
    size_t at = 0, count = 0;  // in ids
  };
  std::vector<Entry> entries_;
};

}  // namespace

std::string llama_byte_token(uint8_t byte) { return fmt::format("<0x{:02X}>", byte); }

Tokenizer::Impl::Impl(Vocabulary from)
    : vocabulary(std::move(from)),
      special(vocabulary.tokens.size()),
      texts_(vocabulary.tokens),
      merges_(vocabulary.merges) {
  const Vocabulary& v = vocabulary;
  for (size_t id = 0; id < v.tokens.size(); ++id)
    ids.emplace(v.tokens[id], static_cast<int32_t>(id));
  std::vector<AddedTokenFinder::Entry> raw, normalized;
  for (const AddedToken& token : v.added) {
    const std::string& content = v.tokens[static_cast<size_t>(token.id)];
    special[static_cast<size_t>(token.id)] = token.special;
    if (token.normalized) {
      std::string changed;
      normalized.push_back({std::string(normalize(content, changed)), token});
    } else {
      raw.push_back({content, token});
    }
  }
  raw_ = AddedTokenFinder(std::move(raw));
  normalized_ = AddedTokenFinder(std::move(normalized));
  const auto id_or_none = [&](const std::string& token) {
    const auto found = ids.find(token);
    return found != ids.end() && found->second < v.model_tokens ? found->second : kNoToken;
  };
  bytes_.fill(kNoToken);
  for (int32_t id = 0; id < v.model_tokens; ++id) {
    const std::string& token = v.tokens[static_cast<size_t>(id)];
    std::string& text = texts_[static_cast<size_t>(id)];
    if (v.kind == Kind::kByteBpe) {
      if (!special[static_cast<size_t>(id)]) text = bytes_of(token).value_or(token);
      continue;
    }
    if (const auto code = only_character(token)) set_character(characters_, *code, id);
    if (v.kind == Kind::kBpe && token.ends_with(kEndOfWord)) {
      const auto inner = std::string_view(token).substr(0, token.size() - kEndOfWord.size());
      if (const auto code = only_character(inner)) set_character(last_characters_, *code, id);
    }
  }
  // An added token decodes to what it is looked for in: the space that the normalizer put before it
  // is part of it.
  if (v.kind == Kind::kLlama || !v.normalizer.empty())
    for (const AddedToken& token : v.added)
      if (std::string changed; token.normalized)
        texts_[static_cast<size_t>(token.id)] =
            normalize(v.tokens[static_cast<size_t>(token.id)], changed);
  if (v.kind == Kind::kLlama) {
    for (std::string& text : texts_) text = replace_all(text, kSpaceMark, " ");
  }
  if (v.kind == Kind::kBpe)
    for (std::string& text : texts_)
      if (text.ends_with(kEndOfWord))
        text.replace(text.size() - kEndOfWord.size(), kEndOfWord.size(), " ");
  if (v.kind == Kind::kWord)
    for (std::string& text : texts_) text += ' ';
  for (size_t b = 0; b < 256; ++b) {
    const auto byte = static_cast<uint8_t>(b);
    if (v.kind == Kind::kByteBpe) bytes_[b] = id_or_none(byte_character(byte));
    if (v.kind == Kind::kLlama) {
      bytes_[b] = id_or_none(llama_byte_token(byte));
      REFRAIN_CHECK(bytes_[b] != kNoToken);
      texts_[static_cast<size_t>(bytes_[b])] = static_cast<char>(byte);
    }
  }
  if (v.kind == Kind::kByteBpe) {
    // A special token, too, stands here for the bytes that are merged to it.
    std::vector<std::string> bytes;
    for (const std::string& token : v.tokens) bytes.push_back(bytes_of(token).value_or(""));
    search_ = WordSearch(merges_, v.merges, bytes_, bytes);
  }
  if (v.ignore_merges) {
    whole_words_ = TextTable(static_cast<size_t>(v.model_tokens));
    for (int32_t id = 0; id < v.model_tokens; ++id)
      if (bytes_of(v.tokens[static_cast<size_t>(id)])) {
        const std::string& text = texts_[static_cast<size_t>(id)];
        std::vector<int32_t> merged;  // most are what merges give anyway
        if (search_.usable() && search_.encode(text, merged) && merged == std::vector{id}) continue;
        whole_words_.insert(text, id);
        longest_whole_word_ = std::max(longest_whole_word_, text.size());
      }
  }
  marks_start_words_ = std::all_of(v.merges.begin(), v.merges.end(), [&](const Merge& merge) {
    const std::string& token = v.tokens[static_cast<size_t>(merge.merged)];
    size_t words = 0;
    for_each_marked_word(token, false, [&](std::string_view) { ++words; });
    return words <= 1;
  });
  bos = !v.template_before.empty() ? v.template_before[0]
                                   : special_token({"<s>", "<|begin_of_text|>"});
  eos = special_token({"</s>", "<|endoftext|>", "<|end_of_text|>"});
  pad = special_token({"<pad>"});
}

int32_t Tokenizer::Impl::special_token(std::initializer_list<std::string_view> names) const {
  for (const std::string_view name : names) {
    const auto found = ids.find(name);
    if (found != ids.end() && special[static_cast<size_t>(found->second)]) return found->second;
  }
  return kNoToken;
}

void Tokenizer::Impl::check_id(int32_t id) const {
  if (!has(id))
    throw_error("token id {} is not one of the vocabulary's 0 to {}", id, texts_.size() - 1);
}

std::string_view Tokenizer::Impl::text_of(int32_t id) const {
  if (id < 0) check_id(id);
  return has(id) ? texts_[static_cast<size_t>(id)] : kReplacement;
}

bool Tokenizer::Impl::ends_word(int32_t id) const {
  if (vocabulary.kind == Kind::kWord) return has(id);
  return vocabulary.kind == Kind::kBpe && has(id) &&
         vocabulary.tokens[static_cast<size_t>(id)].ends_with(kEndOfWord);
}

void Tokenizer::Impl::encode(std::string_view text, bool parse_special,
                             std::vector<int32_t>& out) const {
  const auto found = [&](int32_t id) { out.push_back(id); };
  raw_.split(
      text, parse_special,
      [&](std::string_view stretch) {
        const bool at_start = stretch.data() == text.data();
        std::string storage;
        const std::string_view changed = normalize(stretch, storage);
        normalized_.split(
            changed, parse_special,
            [&](std::string_view plain) {
              encode_plain(plain, at_start && plain.data() == changed.data(), out);
            },
            found);
      },
      found);
}

std::vector<std::string_view> Tokenizer::Impl::without_added(std::string_view text,
                                                             bool parse_special) const {
  std::vector<std::string_view> parts;
  const auto found = [](int32_t) {};
  const auto plain = [&](std::string_view part) { parts.push_back(part); };
  raw_.split(
      text, parse_special,
      [&](std::string_view stretch) { normalized_.split(stretch, parse_special, plain, found); },
      found);
  return parts;
}

std::string_view Tokenizer::Impl::normalize(std::string_view text, std::string& storage) const {
  const Vocabulary& v = vocabulary;
  if (v.kind != Kind::kLlama || v.metaspace) return v.normalizer.apply(text, storage);
  const std::string_view prefix = v.prefix == Vocabulary::Prefix::kAlways ? kSpaceMark : "";
  return storage = std::string(prefix) + replace_all(text, " ", kSpaceMark);
}

// Calls f(word) for the words of a byte-bpe. They are parts of the text or of `storage`.
template <class F>
void Tokenizer::Impl::for_each_byte_word(std::string_view text, std::string& storage, F&& f) const {
  const Vocabulary& v = vocabulary;
  const auto words = [&](std::string_view piece) {
    if (v.split_words)
      for_each_gpt2_word(piece, true, f);
    else
      f(piece);
  };
  if (!v.prefix_space) return v.pre_tokenizer.for_each(text, words);
  std::vector<size_t> ends;
  v.pre_tokenizer.for_each(text, [&](std::string_view piece) {
    if (!piece.starts_with(' ')) storage += ' ';
    storage += piece;
    ends.push_back(storage.size());
  });
  size_t begin = 0;
  for (const size_t end : ends)
    words(std::string_view(storage).substr(std::exchange(begin, end), end - begin));
}

void Tokenizer::Impl::encode_plain(std::string_view text, bool at_start,
                                   std::vector<int32_t>& out) const {
  const Vocabulary& v = vocabulary;
  std::string changed;
  if (v.metaspace) {
    const bool prefix = v.prefix == Vocabulary::Prefix::kAlways ||
                        (v.prefix == Vocabulary::Prefix::kFirst && at_start);
    changed = replace_all(text, " ", kSpaceMark);
    if (prefix && !changed.starts_with(kSpaceMark)) changed.insert(0, kSpaceMark);
    text = changed;
  }
  WordMemo memo(text.size());
  const auto encode_once = [&](std::string_view word) {
    memo.encode(word, out, [&](std::string_view w) { encode_word(w, out); });
  };
  if (v.kind == Kind::kChar) {
    push_characters(text, out);
  } else if (v.kind == Kind::kBpe) {
    for_each_spaced_word(text, true, encode_once);
  } else if (v.kind == Kind::kWord) {
    const auto push_word = [&](std::string_view word) { push_whole_word(word, out); };
    if (v.split_punctuation)
      for_each_run(text, push_word);
    else
      for_each_spaced_word(text, true, push_word);
  } else if (v.kind == Kind::kByteBpe) {
    for_each_byte_word(text, changed, encode_once);
  } else if (v.kind == Kind::kLlama && (v.split_marks || marks_start_words_)) {
    for_each_marked_word(text, v.split_marks, encode_once);
  } else {
    encode_word(text, out);
  }
}

void Tokenizer::Impl::encode_word(std::string_view word, std::vector<int32_t>& out) const {
  if (word.size() <= longest_whole_word_) {
    const auto text = [&](int32_t id) { return std::string_view(texts_[static_cast<size_t>(id)]); };
    if (const int32_t whole = whole_words_.find(word, text); whole != kNoToken) {
      out.push_back(whole);
      return;
    }
  }
  if (search_.usable() && search_.encode(word, out)) return;
  const size_t from = out.size();
  if (vocabulary.kind == Kind::kByteBpe) {
    push_bytes(word, out);
  } else {
    push_characters(word, out);
  }
  merges_.apply(out, from);
}

void Tokenizer::Impl::push_whole_word(std::string_view word, std::vector<int32_t>& out) const {
  const auto found = ids.find(word);
  const bool known = found != ids.end() && found->second < vocabulary.model_tokens;
  push(known ? found->second : kNoToken, false, out);
}

void Tokenizer::Impl::push_bytes(std::string_view word, std::vector<int32_t>& out) const {
  bool after_unknown = false;
  for (const char byte : word)
    after_unknown = !push(bytes_[static_cast<uint8_t>(byte)], after_unknown, out);
}

void Tokenizer::Impl::push_characters(std::string_view word, std::vector<int32_t>& out) const {
  bool after_unknown = false;
  while (!word.empty()) {
    const CodePoint next = decode_utf8(word);
    const bool last = vocabulary.kind == Kind::kBpe && next.bytes == word.size();
    const std::vector<int32_t>& table = last ? last_characters_ : characters_;
    const int32_t id = next.valid && next.code < table.size() ? table[next.code] : kNoToken;
    if (id == kNoToken && vocabulary.kind == Kind::kLlama) {
      push_bytes(word.substr(0, next.bytes), out);
    } else {
      after_unknown = !push(id, after_unknown, out);
    }
    word.remove_prefix(next.bytes);
  }
}

bool Tokenizer::Impl::push(int32_t id, bool after_unknown, std::vector<int32_t>& out) const {
  if (id != kNoToken) {
    out.push_back(id);
    return true;
  }
  const bool fused = vocabulary.fuse_unk && after_unknown;
  if (vocabulary.unk != kNoToken && !fused) out.push_back(vocabulary.unk);
  return false;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  std::vector<int32_t> ids;
  ids.reserve(impl_->vocabulary.kind == Kind::kChar ? text.size() : text.size() / 3);
  impl_->encode(text, parse_special, ids);
  return ids;
}

std::vector<std::string_view> Tokenizer::without_added(std::string_view text,
                                                       bool parse_special) const {
  REFRAIN_CHECK(impl_->vocabulary.kind != Kind::kLlama && impl_->vocabulary.normalizer.empty());
  return impl_->without_added(text, parse_special);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool with_special) const {
  std::string text;
  bool ends_word = false;
  for (const int32_t id : ids) {
    const std::string_view piece = impl_->text_of(id);
    if (!with_special && impl_->has(id) && is_special(id)) continue;
    text += piece;
    ends_word = impl_->ends_word(id);
  }
  if (ends_word) text.pop_back();
  if (impl_->vocabulary.kind == Kind::kLlama && impl_->vocabulary.strip_prefix &&
      text.starts_with(' '))
    text.erase(0, 1);
  return text;
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(impl_->vocabulary.tokens.size());
}

const std::string& Tokenizer::kind() const {
  static const std::array<std::string, 5> names{"char", "bpe", "byte-bpe", "llama", "word"};
  return names[static_cast<size_t>(impl_->vocabulary.kind)];
}

std::string_view Tokenizer::token(int32_t id) const {
  impl_->check_id(id);
  return impl_->vocabulary.tokens[static_cast<size_t>(id)];
}

int32_t Tokenizer::id_of(std::string_view token) const {
  const auto found = impl_->ids.find(token);
  return found == impl_->ids.end() ? kNoToken : found->second;
}

bool Tokenizer::is_special(int32_t id) const {
  impl_->check_id(id);
  return impl_->special[static_cast<size_t>(id)];
}

int32_t Tokenizer::unk() const { return impl_->vocabulary.unk; }
int32_t Tokenizer::bos() const { return impl_->bos; }
int32_t Tokenizer::eos() const { return impl_->eos; }
int32_t Tokenizer::pad() const { return impl_->pad; }
bool Tokenizer::adds_bos() const { return !template_before().empty(); }
std::span<const int32_t> Tokenizer::template_before() const {
  return impl_->vocabulary.template_before;
}
std::span<const int32_t> Tokenizer::template_after() const {
  return impl_->vocabulary.template_after;
}

std::string StreamDecoder::feed(int32_t id) {
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  const std::string_view piece = impl.text_of(id);
  if (impl.has(id) && tokenizer_.is_special(id) && !with_special_) return {};
  std::string text = std::exchange(held_, {});
  text += piece;
  const Vocabulary& v = impl.vocabulary;
  if (!started_ && !text.empty()) {
    started_ = true;
    if (v.kind == Kind::kLlama && v.strip_prefix && text[0] == ' ') text.erase(0, 1);
  }
  size_t given = text.size();
  if (impl.ends_word(id)) {
    --given;  // the space counts only if something follows
  } else if (v.kind == Kind::kByteBpe || v.kind == Kind::kLlama) {
    given = whole_characters(text);
  }
  held_ = text.substr(given);
  text.resize(given);
  return text;
}

std::string StreamDecoder::finish() {
  started_ = false;
  std::string rest = std::exchange(held_, {});
  const Kind kind = tokenizer_.impl_->vocabulary.kind;
  if (kind == Kind::kBpe || kind == Kind::kWord) rest.clear();
  return rest;
}

}  // namespace refrain::text

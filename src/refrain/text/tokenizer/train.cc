// Learns a tokenizer from text that is read once.
#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"
#include "refrain/text/tokenizer/bpe_trainer.h"
#include "refrain/text/tokenizer/byte_alphabet.h"
#include "refrain/text/tokenizer/impl.h"
#include "refrain/text/tokenizer/pretokenize.h"

namespace refrain::text {
namespace {

constexpr int64_t kMaxVocabulary = int64_t{1} << 24;

// Calls use(text, last) with all text, cut anew: use returns how many bytes it dealt with, and gets
// the others again with more behind them.
template <class F>
void read_all(const TextSource& source, F&& use) {
  std::string waiting, piece;
  size_t left = 0;  // of `waiting`, after the last call
  while (source(piece)) {
    waiting += piece;
    if (waiting.size() < 2 * left) continue;  // a long word is looked at log(n) times
    waiting.erase(0, use(waiting, false));
    left = waiting.size();
  }
  use(waiting, true);
}

// Checks text in the order it comes.
class Utf8Check {
 public:
  void operator()(std::string_view text) {
    if (const auto at = find_invalid_utf8(text))
      throw_error(
          "the training text is not valid UTF-8 at byte {} (from 0): convert it, or train byte-bpe",
          bytes_ + *at);
    bytes_ += text.size();
  }

 private:
  size_t bytes_ = 0;
};

using CharacterSet = std::set<char32_t>;

std::string to_utf8(char32_t code) {
  std::string text;
  append_utf8(text, code);
  return text;
}

// The vocabulary being made: special tokens, then the alphabet, then what is merged.
class Learner {
 public:
  explicit Learner(const TokenizerTraining& training) : training_(training) {
    for (const std::string& token : training.special_tokens) add_special(token);
  }

  Vocabulary learn_char(const TextSource& source);
  Vocabulary learn_bpe(const TextSource& source);
  Vocabulary learn_byte_bpe(const TextSource& source);
  Vocabulary learn_words(const TextSource& source);

 private:
  void add_special(const std::string& token) {
    if (token.empty() || find_invalid_utf8(token))
      throw_error("special token {}: expected text that is valid UTF-8", io::quote(token));
    if (training_.kind == "bpe" && token.find(kEndOfWord) != token.npos)
      throw_error("special token {}: \"</w>\" ends a word in bpe", io::quote(token));
    if (ids_.contains(token)) throw_error("special token {} twice", io::quote(token));
    v_.added.push_back({add(token), true, false});
  }
  void add_unknown() {
    if (!ids_.contains(std::string(kUnknown))) add_special(std::string(kUnknown));
    v_.unk = ids_.at(std::string(kUnknown));
  }
  int32_t add_letter(const std::string& letter) {
    if (ids_.contains(letter))
      throw_error("special token {} is a character of the text as well", io::quote(letter));
    return add(letter);
  }
  int32_t add(const std::string& token) {
    const auto id = static_cast<int32_t>(v_.tokens.size());
    ids_.emplace(token, id);
    v_.tokens.push_back(token);
    return id;
  }
  // Counts words between white space.
  WordCounts count_spaced_words(const TextSource& source) const;
  // Of the characters and how often each occurs: those that become tokens.
  struct Character {
    int64_t count = 0, last = 0;  // in words; of these, at their ends
  };
  using Characters = std::map<char32_t, Character>;
  CharacterSet covered(const Characters& characters) const;
  // symbols(word) gives the words' symbols, kNoToken for one that nothing merges with.
  template <class F>
  Vocabulary merge(const WordCounts& words, F&& symbols);

  const TokenizerTraining& training_;
  Vocabulary v_;
  std::unordered_map<std::string, int32_t> ids_;
};

template <class F>
Vocabulary Learner::merge(const WordCounts& words, F&& symbols) {
  const auto alphabet = static_cast<int64_t>(v_.tokens.size());
  if (training_.vocab_size < alphabet)
    throw_error(
        "a vocabulary of {} tokens is too small: {} characters and {} special tokens need {}",
        training_.vocab_size, alphabet - static_cast<int64_t>(v_.added.size()), v_.added.size(),
        alphabet);
  // Text that looks like a special token or like a word's end must not become one.
  BpeTrainer trainer(v_.tokens, [&](std::string_view merged, std::string_view right) {
    const auto known = ids_.find(std::string(merged));
    if (known != ids_.end() && static_cast<size_t>(known->second) < v_.added.size()) return false;
    if (v_.kind != Kind::kBpe) return true;
    const bool word_end = right.ends_with(kEndOfWord);
    return merged.find(kEndOfWord) == (word_end ? merged.size() - kEndOfWord.size() : merged.npos);
  });
  std::vector<int32_t> ids;
  for (size_t i = 0; i < words.size(); ++i) {
    ids.clear();
    symbols(words.word(i), ids);
    for (size_t from = 0; from < ids.size();) {
      const auto begin = ids.begin() + static_cast<ptrdiff_t>(from);
      const auto end = std::find(begin, ids.end(), kNoToken);
      if (begin != end) trainer.add_word({begin, end}, words.count(i));
      from = static_cast<size_t>(end - ids.begin()) + 1;
    }
  }
  trainer.run(static_cast<size_t>(training_.vocab_size));
  v_.tokens = trainer.tokens();
  v_.merges = trainer.merges();
  v_.model_tokens = static_cast<int32_t>(v_.tokens.size());
  return std::move(v_);
}

Vocabulary Learner::learn_char(const TextSource& source) {
  v_.kind = Kind::kChar;
  add_unknown();
  Utf8Check check;
  std::vector<bool> seen(0x110000);
  read_all(source, [&](std::string_view text, bool last) {
    const size_t used = last ? text.size() : whole_characters(text);
    check(text.substr(0, used));
    for (size_t at = 0; at < used;) {
      const CodePoint next = decode_utf8(text.substr(at));
      seen[next.code] = true;
      at += next.bytes;
    }
    return used;
  });
  for (char32_t code = 0; code < seen.size(); ++code)
    if (seen[code]) add_letter(to_utf8(code));
  v_.model_tokens = static_cast<int32_t>(v_.tokens.size());
  return std::move(v_);
}

WordCounts Learner::count_spaced_words(const TextSource& source) const {
  WordCounts words(training_.max_words);
  Utf8Check check;
  read_all(source, [&](std::string_view text, bool last) {
    const size_t used =
        for_each_spaced_word(text, last, [&](std::string_view word) { words.add(word); });
    check(text.substr(0, used));
    return used;
  });
  return words;
}

CharacterSet Learner::covered(const Characters& characters) const {
  const auto tokens_of = [](const Character& c) { return 1 + (c.last > 0); };
  int64_t all = 0, occurrences = 0;
  std::vector<std::pair<int64_t, char32_t>> by_count;
  for (const auto& [code, c] : characters) {
    all += tokens_of(c);
    occurrences += c.count;
    by_count.emplace_back(-c.count, code);
  }
  std::sort(by_count.begin(), by_count.end());
  const int64_t room = training_.vocab_size - std::ssize(v_.tokens);
  double share = training_.character_coverage;
  if (share == 0) share = all <= room ? 1 : TokenizerTraining::kUsualCoverage;
  CharacterSet kept;
  int64_t used = 0, seen = 0;
  for (const auto& [count, code] : by_count) {
    const int64_t tokens = tokens_of(characters.at(code));
    const bool enough = static_cast<double>(seen) >= share * static_cast<double>(occurrences);
    if (enough || used + tokens > room) break;
    kept.insert(code);
    used += tokens;
    seen -= count;
  }
  if (kept.empty() && !characters.empty())
    throw_error(
        "a vocabulary of {} tokens is too small: {} special tokens leave no room for the most "
        "frequent character",
        training_.vocab_size, v_.tokens.size());
  if (kept.size() < characters.size())
    add_note(training_.notes,
             "bpe:{}: {} of the text's {} characters, {:.4f} % of it, are {} (character_coverage)",
             training_.vocab_size, characters.size() - kept.size(), characters.size(),
             100 * (1 - static_cast<double>(seen) / static_cast<double>(occurrences)), kUnknown);
  return kept;
}

Vocabulary Learner::learn_bpe(const TextSource& source) {
  v_.kind = Kind::kBpe;
  add_unknown();
  const WordCounts words = count_spaced_words(source);
  Characters characters;
  for (size_t i = 0; i < words.size(); ++i)
    for (std::string_view word = words.word(i); !word.empty();) {
      const CodePoint next = decode_utf8(word);
      word.remove_prefix(next.bytes);
      Character& its = characters[next.code];
      its.count += words.count(i);
      if (word.empty()) its.last += words.count(i);
    }
  const CharacterSet kept = covered(characters);
  std::unordered_map<char32_t, int32_t> inner, final;
  for (const char32_t code : kept) inner[code] = add_letter(to_utf8(code));
  for (const char32_t code : kept)
    if (characters[code].last > 0)
      final[code] = add_letter(to_utf8(code) + std::string(kEndOfWord));
  return merge(words, [&](std::string_view word, std::vector<int32_t>& ids) {
    while (!word.empty()) {
      const CodePoint next = decode_utf8(word);
      const auto& table = next.bytes == word.size() ? final : inner;
      const auto found = table.find(next.code);
      ids.push_back(found == table.end() ? kNoToken : found->second);
      word.remove_prefix(next.bytes);
    }
  });
}

Vocabulary Learner::learn_words(const TextSource& source) {
  v_.kind = Kind::kWord;
  add_unknown();
  const WordCounts words = count_spaced_words(source);
  std::vector<std::pair<int64_t, std::string_view>> by_count;
  for (size_t i = 0; i < words.size(); ++i)
    if (!ids_.contains(std::string(words.word(i))))
      by_count.emplace_back(-words.count(i), words.word(i));
  const int64_t room = training_.vocab_size - std::ssize(v_.tokens);
  if (room < 1)
    throw_error("a vocabulary of {} tokens is too small: {} special tokens leave no room for words",
                training_.vocab_size, v_.tokens.size());
  std::sort(by_count.begin(), by_count.end());
  by_count.resize(std::min(by_count.size(), static_cast<size_t>(room)));
  for (const auto& [count, word] : by_count) add(std::string(word));
  v_.model_tokens = static_cast<int32_t>(v_.tokens.size());
  return std::move(v_);
}

Vocabulary Learner::learn_byte_bpe(const TextSource& source) {
  v_.kind = Kind::kByteBpe;
  std::array<int32_t, 256> letter;
  for (const uint8_t byte : bytes_by_character()) letter[byte] = add_letter(byte_character(byte));
  WordCounts words(training_.max_words);
  read_all(source, [&](std::string_view text, bool last) {
    return for_each_gpt2_word(text, last, [&](std::string_view word) { words.add(word); });
  });
  return merge(words, [&](std::string_view word, std::vector<int32_t>& ids) {
    for (const char byte : word) ids.push_back(letter[static_cast<uint8_t>(byte)]);
  });
}

}  // namespace

TokenizerTraining Tokenizer::parse_spec(const std::string& what) {
  TokenizerTraining training;
  const size_t colon = what.find(':');
  training.kind = what.substr(0, colon);
  if (training.kind == "char" && colon == what.npos) return training;
  const bool sized =
      training.kind == "bpe" || training.kind == "byte-bpe" || training.kind == "word";
  if (sized && colon != what.npos) {
    const char* end = what.data() + what.size();
    const auto [at, error] = std::from_chars(what.data() + colon + 1, end, training.vocab_size);
    if (error == std::errc() && at == end && training.vocab_size > 0 &&
        training.vocab_size <= kMaxVocabulary)
      return training;
  }
  throw_error("tokenizer {}: expected char, bpe:N, byte-bpe:N or word:N with N tokens of 1 to {}",
              io::quote(what), kMaxVocabulary);
}

Tokenizer Tokenizer::train(const TokenizerTraining& training, const TextSource& source) {
  Learner learner(training);
  if (training.kind == "char") return Tokenizer(std::make_unique<Impl>(learner.learn_char(source)));
  if (training.kind == "bpe") return Tokenizer(std::make_unique<Impl>(learner.learn_bpe(source)));
  if (training.kind == "byte-bpe")
    return Tokenizer(std::make_unique<Impl>(learner.learn_byte_bpe(source)));
  if (training.kind == "word")
    return Tokenizer(std::make_unique<Impl>(learner.learn_words(source)));
  throw_error("tokenizer kind {}: expected char, bpe, byte-bpe or word to train",
              io::quote(training.kind));
}

}  // namespace refrain::text

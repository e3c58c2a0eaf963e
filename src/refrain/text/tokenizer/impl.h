// The inside of a tokenizer: the content of its file, and the tables made from that.
#pragma once
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/io/json.h"
#include "refrain/text/tokenizer.h"
#include "refrain/text/tokenizer/added_tokens.h"
#include "refrain/text/tokenizer/bpe.h"
#include "refrain/text/tokenizer/normalizer.h"
#include "refrain/text/tokenizer/pre_tokenizer.h"

namespace refrain::text {

enum class Kind { kChar, kBpe, kByteBpe, kLlama, kWord };

inline constexpr std::string_view kEndOfWord = "</w>";
inline constexpr std::string_view kUnknown = "<unk>";
inline constexpr std::string_view kSpaceMark = "\u2581";  // what the llama kind writes for a space

std::string llama_byte_token(uint8_t byte);  // "<0x0A>"

struct Vocabulary {
  Kind kind = Kind::kChar;
  std::vector<std::string> tokens;  // by id
  int32_t model_tokens = 0;         // these are the model's; the ids after them are only added
  std::vector<Merge> merges;        // by rank
  std::vector<AddedToken> added;
  int32_t unk = kNoToken;
  bool fuse_unk = false;  // unknown characters in a row are one token

  // byte-bpe: the normalizer, the steps before ByteLevel, and ByteLevel's own settings. The JSON is
  // what they were read from.
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  io::Json normalizer_json, pre_tokenizer_json;
  bool prefix_space = false;   // a space before text that has none
  bool split_words = true;     // by GPT-2's pattern; otherwise what is split so far are words
  bool ignore_merges = false;  // a word that is a token is that token

  // word: a word also ends between letters (what \w matches) and other characters.
  bool split_punctuation = false;

  // llama: where a space is put before text. As a normalizer: before every run of text between
  // added tokens. As Metaspace: only if there is no space yet, before every run or only the first.
  enum class Prefix { kNever, kFirst, kAlways };
  bool metaspace = false;
  Prefix prefix = Prefix::kAlways;
  bool split_marks = false;  // Metaspace: a word begins at every mark
  bool strip_prefix = true;  // decoding drops one space at the start

  io::Json post_processor;                               // as it was read; null if there is none
  std::vector<int32_t> template_before, template_after;  // what it puts before and behind a text
};

// The merges of sentencepiece's order: `pieces` are ids, and higher scores merge first, of equal
// ones the one that stands first. A piece is merged from any two others that make it.
std::vector<Merge> merges_by_score(const std::vector<std::string>& tokens,
                                   std::vector<int32_t> pieces, std::span<const float> scores);
// The post_processor that puts a token before every text.
io::Json bos_template(const std::string& bos, int32_t id);

// Reads a tokenizer.json; `name` is its name in errors and notes.
Vocabulary read_vocabulary(const io::Json& root, const std::string& name, const Notes& notes = {});

class Tokenizer::Impl {
 public:
  explicit Impl(Vocabulary vocabulary);

  void encode(std::string_view text, bool parse_special, std::vector<int32_t>& ids) const;
  std::vector<std::string_view> without_added(std::string_view text, bool parse_special) const;
  std::string_view text_of(int32_t id) const;  // what it decodes to; Error on negative ids
  bool has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < texts_.size(); }
  void check_id(int32_t id) const;   // Error unless it has it
  bool ends_word(int32_t id) const;  // its last character is a space for "</w>"
  bool marks_start_words() const { return marks_start_words_; }

  Vocabulary vocabulary;
  std::unordered_map<std::string_view, int32_t> ids;  // of tokens
  std::vector<bool> special;                          // by id
  int32_t bos, eos, pad;

 private:
  int32_t special_token(std::initializer_list<std::string_view> names) const;
  // `text` itself, or a view of `storage`.
  std::string_view normalize(std::string_view text, std::string& storage) const;
  void encode_plain(std::string_view text, bool at_start, std::vector<int32_t>& out) const;
  template <class F>
  void for_each_byte_word(std::string_view text, std::string& storage, F&& f) const;
  void encode_word(std::string_view word, std::vector<int32_t>& out) const;
  void push_whole_word(std::string_view word, std::vector<int32_t>& out) const;
  void push_characters(std::string_view word, std::vector<int32_t>& out) const;
  void push_bytes(std::string_view word, std::vector<int32_t>& out) const;
  // Appends the id, or the token for an unknown character (then false).
  bool push(int32_t id, bool after_unknown, std::vector<int32_t>& out) const;

  std::vector<std::string> texts_;  // by id
  MergeTable merges_;
  WordSearch search_;                                  // byte-bpe
  std::vector<int32_t> characters_, last_characters_;  // ids by code point; bpe: the word's last
  std::array<int32_t, 256> bytes_;                     // ids by byte
  TextTable whole_words_;                              // ignore_merges: by what they decode to
  size_t longest_whole_word_ = 0;
  bool marks_start_words_ = false;  // llama: no merge has a mark behind anything but marks
  AddedTokenFinder raw_, normalized_;
};

}  // namespace refrain::text

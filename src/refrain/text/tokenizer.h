// Text to token ids and back. Every kind is read from and written to Hugging Face's tokenizer.json,
// and gives the ids that the `tokenizers` package gives for the same file (docs/formats.md).
//
//   char      one token per Unicode code point seen in training; an unknown one is <unk>
//   bpe       words split on white space, "</w>" ends a word; unknown characters are <unk>
//   byte-bpe  GPT-2's byte-level BPE with its splitting pattern, lossless on any bytes; files may
//             split otherwise, and change texts before (Qwen, Llama 3)
//   word      the most frequent words between white space, another one is <unk>; decoded with one
//             space between them. The text of a special token is its word
//   llama     sentencepiece-like BPE with byte fallback; read and converted, not trained
//
// Special tokens ("added tokens") are whole tokens outside of the model's alphabet. In char and bpe
// every part of the text that is not valid UTF-8 is an unknown character, in word part of an
// unknown word; the other two preserve bytes.
//
// A Tokenizer never changes, so any number of threads may use one.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/io/gguf/gguf.h"

namespace refrain::text {

class TextCuts;

inline constexpr int32_t kNoToken = -1;
// The text of ids that are not in the vocabulary. A model may have more ids than its tokenizer.
inline constexpr std::string_view kReplacement = "\uFFFD";

// Replaces `piece` by the next part of the training text; false at the end. Parts may end anywhere.
// The source is read once.
using TextSource = std::function<bool(std::string& piece)>;

struct TokenizerTraining {
  std::string kind;        // "char", "bpe", "byte-bpe", "word"
  int64_t vocab_size = 0;  // all tokens together (fewer if the text has no more pairs or words); 0
                           // for char
  // They get the first ids, in this order. All kinds but byte-bpe have "<unk>" after them if it is
  // not among them.
  std::vector<std::string> special_tokens;
  // Distinct words kept in memory while counting; more is an Error that says what to do.
  int64_t max_words = 20'000'000;
  // bpe: the most frequent characters that make up this share of the text are tokens, and the
  // others <unk>. 0: all characters if vocab_size has room for them, or else kUsualCoverage.
  double character_coverage = 0;
  static constexpr double kUsualCoverage = 0.9995;
  Notes notes{};  // gets how many characters are <unk>
};

// Bytes of a piece in from_scored_pieces(). Real ones have at most some dozens.
inline constexpr size_t kLongestPiece = 512;

class Tokenizer {
 public:
  // `what` is "char", "bpe:8000", "byte-bpe:8000" or "word:8000".
  static TokenizerTraining parse_spec(const std::string& what);
  // All but byte-bpe: text that is not valid UTF-8 is an Error that names the byte offset.
  static Tokenizer train(const TokenizerTraining& training, const TextSource& source);
  // A tokenizer.json, a directory with one, or a GGUF file. `notes` gets the fields that are
  // ignored.
  static Tokenizer load(const std::string& path, const Notes& notes = {});
  // The text of a tokenizer.json; `name` is its name in errors.
  static Tokenizer from_json(std::string_view text, const std::string& name,
                             const Notes& notes = {});
  // GPT-2's own files (encoder.json, vocab.bpe).
  static Tokenizer from_gpt2(const std::string& vocab_json, const std::string& merges);
  // Pieces with scores (llama2.c's tokenizer .bin, sentencepiece's order): higher score merges
  // first; ids 0..2 are <unk> <s> </s>, 3..258 the bytes. Gives the llama kind, which adds <s>.
  static Tokenizer from_scored_pieces(std::vector<std::string> pieces, std::vector<float> scores);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // What a GGUF file's keys tell, with the ids of llama.cpp: a byte-bpe, a llama, or a char.
  static Tokenizer from_gguf(const io::Gguf& file, const Notes& notes = {});

  std::string to_json() const;  // the text of tokenizer.json
  // The keys from which llama.cpp makes the same ids, for a model of so many. An Error that says
  // why if it has no such tokenizer; `notes` gets what is special.
  io::GgufKeys to_gguf(int64_t vocab_size, const Notes& notes = {}) const;
  // tokenizer.json and tokenizer_config.json into a directory that exists.
  void save(const std::string& directory) const;

  // With parse_special, text equal to a special token becomes that token (for prompts). Without it,
  // such text is plain text (for training data). No token is added.
  std::vector<int32_t> encode(std::string_view text, bool parse_special = false) const;
  // Where text may be cut so that its parts give the ids of the whole (text_cuts.h).
  TextCuts cuts(bool parse_special = false) const;
  // Special tokens are left out unless `with_special`. An id beyond the vocabulary is kReplacement;
  // a negative id is an Error.
  std::string decode(std::span<const int32_t> ids, bool with_special = false) const;

  int64_t vocab_size() const;  // ids are [0, vocab_size)
  const std::string& kind() const;
  std::string_view token(int32_t id) const;  // as it stands in the vocabulary
  // The parts of `text` in which encode() finds no added token, in order. Not for `llama`, which
  // changes texts.
  std::vector<std::string_view> without_added(std::string_view text, bool parse_special) const;
  int32_t id_of(std::string_view token) const;  // kNoToken when absent
  bool is_special(int32_t id) const;
  int32_t unk() const;    // kNoToken when unknown characters are left out, or there are none
  int32_t bos() const;    // what adds_bos() is about; else "<s>" or "<|begin_of_text|>" among the
                          // special tokens, or kNoToken
  int32_t eos() const;    // "</s>", "<|endoftext|>" or "<|end_of_text|>", or kNoToken
  int32_t pad() const;    // "<pad>", or kNoToken
  bool adds_bos() const;  // the file asks for bos() before every text (encode leaves it to you)
  // What the file puts before and behind every text where that is asked for; encode() does not.
  std::span<const int32_t> template_before() const;
  std::span<const int32_t> template_after() const;

 private:
  friend class StreamDecoder;
  class Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Decodes tokens one by one. It returns text when it is whole UTF-8 and can no longer change, so
// the parts joined equal decode() of all ids. finish() also prepares it for the next sequence.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool with_special = false)
      : tokenizer_(tokenizer), with_special_(with_special) {}
  std::string feed(int32_t id);  // new text, may be empty
  std::string finish();          // what was held back

 private:
  const Tokenizer& tokenizer_;
  bool with_special_;
  std::string held_;
  bool started_ = false;  // some text has been decoded
};

}  // namespace refrain::text

// Text to token ids and back. Every kind is read from and written to Hugging Face's tokenizer.json
// and gives the ids that the `tokenizers` package gives for the same file (docs/formats.md).
//
//   char      one token per Unicode code point seen in training; an unknown one is <unk>
//   bpe       words split on white space, "</w>" ends a word; unknown characters are <unk>
//   byte-bpe  GPT-2's byte-level BPE with its splitting pattern; lossless on any bytes
//   llama     sentencepiece-like BPE with byte fallback; read and converted, not trained
//
// Special tokens ("added tokens") are whole tokens outside of the model's alphabet.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace refrain::data {

inline constexpr int32_t kNoToken = -1;

// Calls its argument with one piece of training text after another, until there is no more. Pieces
// may end anywhere. The source is read once.
using TextSource = std::function<bool(std::string& piece)>;

struct TokenizerTraining {
  std::string kind;         // "char", "bpe", "byte-bpe"
  int64_t vocab_size = 0;   // all tokens together; 0 for char
  std::vector<std::string> special_tokens;  // get the first ids, in this order
  // Distinct words kept in memory while counting; more is an Error that says what to do.
  int64_t max_words = 20'000'000;
};

class Tokenizer {
 public:
  // `what` is "char", "bpe:8000" or "byte-bpe:8000".
  static TokenizerTraining parse_spec(const std::string& what);
  static Tokenizer train(const TokenizerTraining&, const TextSource&);
  static Tokenizer load(const std::string& path);  // a tokenizer.json, or a directory with one
  // GPT-2's own files (encoder.json, vocab.bpe).
  static Tokenizer from_gpt2(const std::string& vocab_json, const std::string& merges);
  // Pieces with scores (llama2.c's tokenizer .bin, sentencepiece's order): higher score merges
  // first; ids 0..2 are <unk> <s> </s>, 3..258 the bytes.
  static Tokenizer from_scored_pieces(std::vector<std::string> pieces, std::vector<float> scores);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // tokenizer.json and tokenizer_config.json into a directory that exists.
  void save(const std::string& directory) const;

  // With parse_special, text equal to a special token becomes that token (what prompts want);
  // without, it is plain text (what training data wants). No token is added by itself.
  std::vector<int32_t> encode(std::string_view text, bool parse_special = false) const;
  // Special tokens are left out unless asked for.
  std::string decode(std::span<const int32_t> ids, bool with_special = false) const;

  int64_t vocab_size() const;  // ids are [0, vocab_size)
  const std::string& kind() const;
  std::string_view token(int32_t id) const;  // as it stands in the vocabulary
  int32_t id_of(std::string_view token) const;  // kNoToken when absent
  bool is_special(int32_t id) const;
  int32_t unk() const;  // kNoToken when the kind has none
  int32_t bos() const;  // "<s>" or "<|begin_of_text|>" among the special tokens, or kNoToken
  int32_t eos() const;  // "</s>" or "<|endoftext|>", or kNoToken
  int32_t pad() const;  // "<pad>", or kNoToken

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// Decodes as tokens arrive. Text is given out once it is whole UTF-8 and can no longer change, so
// that the pieces joined equal decode() of all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string feed(int32_t id);  // new text, may be empty
  std::string finish();          // what was held back

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t given_ = 0;
};

}  // namespace refrain::data

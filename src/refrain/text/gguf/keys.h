// The keys of a tokenizer in GGUF files, and the types of its tokens.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "refrain/base/error.h"

namespace refrain::text::gguf_keys {

inline constexpr const char *kModel = "tokenizer.ggml.model", *kPre = "tokenizer.ggml.pre",
                            *kTokens = "tokenizer.ggml.tokens",
                            *kTypes = "tokenizer.ggml.token_type",
                            *kMerges = "tokenizer.ggml.merges", *kScores = "tokenizer.ggml.scores",
                            *kAddBos = "tokenizer.ggml.add_bos_token",
                            *kAddEos = "tokenizer.ggml.add_eos_token",
                            *kAddPrefix = "tokenizer.ggml.add_space_prefix",
                            *kRemoveSpaces = "tokenizer.ggml.remove_extra_whitespaces",
                            *kBos = "tokenizer.ggml.bos_token_id",
                            *kEos = "tokenizer.ggml.eos_token_id",
                            *kUnk = "tokenizer.ggml.unknown_token_id",
                            *kChatTemplate = "tokenizer.chat_template";

enum TokenType : int64_t {
  kNormal = 1,
  kUnknownToken = 2,
  kControl = 3,  // special: found only where special tokens are asked for
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};
constexpr bool is_added(int64_t type) { return type >= kUnknownToken && type <= kUserDefined; }

// What stands for an id beyond the tokenizer's.
inline std::string filler(size_t id) { return fmt::format("[PAD{}]", id); }

}  // namespace refrain::text::gguf_keys

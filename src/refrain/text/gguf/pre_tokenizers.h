// How a byte-level tokenizer splits texts, by the names that GGUF files and llama.cpp have for it.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "refrain/io/json.h"

namespace refrain::text {

// The pre_tokenizer of tokenizer.json.
struct NamedPreTokenizer {
  io::Json json;
  bool ignore_merges = false;
  bool adds_bos = false;  // where a file does not say
};
// Nothing for a name that is not known; `known_pre_names()` are.
std::optional<NamedPreTokenizer> pre_tokenizer_named(std::string_view name);
std::string known_pre_names();

// The name of a pre_tokenizer of tokenizer.json, which ends in ByteLevel; nothing if llama.cpp has
// none that splits texts alike.
std::optional<std::string> name_of_pre_tokenizer(const io::Json& pre_tokenizer, bool ignore_merges);

}  // namespace refrain::text

// Objects of fine-tuning data as ids, and which of them are learned:
//
//   {"text": ...}                                 all
//   {"prompt": ..., "completion": ...}            the completion; texts, or lists of messages
//   {"messages": [{"role", "content"}, ...]}      what the assistant writes
//
// with "tools" by choice. Messages become a text by the model's chat template. What of it the
// assistant writes is what stands in {% generation %}, or, of a template without that, what a
// message adds to the text of those before it with the prompt for an answer. A text and a
// completion end with the token that ends texts.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "refrain/io/json.h"
#include "refrain/text/chat/chat_template.h"
#include "refrain/text/tokenizer.h"

namespace refrain::text {

// How a model's conversations are written.
struct ChatFormat {
  std::optional<ChatTemplate> plain, with_tools;
  io::Json special_tokens = io::Json::object();  // special_token_texts()
  bool mask_prompt = true;                       // false: all of it is learned

  // Of a model directory; without a template if it has none.
  static ChatFormat read(const std::string& directory);
};

struct LearnedText {
  std::vector<int32_t> ids;
  std::vector<bool> learned;  // of every id
  int64_t bytes = 0;          // of the text
};

// An Error, which begins with `where`, for what is no such object, for messages that the template
// refuses, and if nothing of it is learned.
LearnedText encode_conversation(const io::Json& object, const std::string& where, const ChatFormat&,
                                const Tokenizer&);

}  // namespace refrain::text

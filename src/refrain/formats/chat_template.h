// The chat template of a model, as text.
#pragma once
#include <optional>
#include <string>

namespace refrain {

// Of a model directory (chat_template.jinja, or chat_template in tokenizer_config.json; the one for
// tools, where there are several) or a GGUF file (tokenizer.chat_template). Nothing if it has none.
// The text is not checked: text::ChatTemplate::parse() does that.
std::optional<std::string> read_chat_template(const std::string& model, bool with_tools = false);

}  // namespace refrain

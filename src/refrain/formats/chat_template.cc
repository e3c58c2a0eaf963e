#include "refrain/formats/chat_template.h"

#include <utility>

#include "refrain/text/chat/chat_template.h"

namespace refrain {

std::optional<std::string> read_chat_template(const std::string& model, bool with_tools) {
  auto found = text::find_chat_template(model, with_tools);
  if (!found) return {};
  return std::move(found->text);
}

}  // namespace refrain

// Renders chat templates for chat_compat.py: a line of JSON in, a line out.
//   in:  {"template", "messages", "tools", "add_generation_prompt", "variables", "now"}
//   out: {"text", "generated": [[begin, end], ...] or null} or {"error"}
#include <ctime>
#include <iostream>
#include <string>

#include "refrain/base/error.h"
#include "refrain/io/json.h"
#include "refrain/text/chat/chat_template.h"

namespace {

using refrain::io::Json;

Json answer(const std::string& line) {
  const Json given = refrain::io::parse_json(line, "input");
  refrain::text::ChatInput input;
  input.messages = given.at("messages");
  input.tools = given.value("tools", Json(nullptr));
  input.add_generation_prompt = given.value("add_generation_prompt", false);
  input.variables = given.value("variables", Json::object());
  const auto now = static_cast<std::time_t>(given.value("now", int64_t{0}));
  input.now = *std::gmtime(&now);
  const auto rendered =
      refrain::text::ChatTemplate::parse(given.at("template").get<std::string>(), "template")
          .render(input);
  Json generated = Json::array();
  for (const auto& span : rendered.generated)
    generated.push_back(Json::array({span.begin, span.end}));
  if (!rendered.all_placed) generated = nullptr;
  return {{"text", rendered.text}, {"generated", generated}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    Json out;
    try {
      out = answer(line);
    } catch (const refrain::Error& error) {
      out = {{"error", error.what()}};
    }
    std::cout << refrain::io::to_line(out) << std::endl;
  }
}

// Jinja's lexer as chat templates configure it: trim_blocks and lstrip_blocks on, no line
// statements, one line end at the end of the template dropped.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace refrain::text::jinja {

enum class TokenKind : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // of data, names, strings and operators
  int64_t integer = 0;
  double number = 0;
};

// An Error names the template and the line. The last token is kEnd.
std::vector<Token> tokenize(std::string_view source, const std::string& name);

}  // namespace refrain::text::jinja

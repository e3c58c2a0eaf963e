// Expressions; statements are in parser_statements.cc.
#include "refrain/text/chat/jinja/parser.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/io/json.h"

namespace refrain::text::jinja {

Parser::Deeper::Deeper(Parser& of) : parser(of) {
  if (++parser.depth_ > kMaxDepth) {
    --parser.depth_;
    parser.fail(fmt::format("nested deeper than {} levels", kMaxDepth));
  }
}

void Parser::fail_at(int line, const std::string& message) const {
  throw_error("{}: line {}: {}", name_, line, message);
}

const Token& Parser::peek(size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}
Token Parser::next() {
  const Token& token = peek();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}
bool Parser::is_op(std::string_view text, size_t ahead) const {
  return peek(ahead).kind == TokenKind::kOperator && peek(ahead).text == text;
}
bool Parser::is_name(std::string_view text, size_t ahead) const {
  return peek(ahead).kind == TokenKind::kName && peek(ahead).text == text;
}
bool Parser::skip_op(std::string_view text) {
  if (!is_op(text)) return false;
  next();
  return true;
}
bool Parser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  next();
  return true;
}

std::string Parser::describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "text";
    case TokenKind::kVariableBegin:
      return "'{{'";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return io::quote(token.text);
  }
}

void Parser::expect_op(std::string_view text) {
  if (!skip_op(text)) fail(fmt::format("expected '{}', found {}", text, describe(peek())));
}
std::string Parser::expect_name() {
  if (!is(TokenKind::kName)) fail("expected a name, found " + describe(peek()));
  return next().text;
}

ExpressionPtr Parser::node(Op op, int line) const {
  auto made = std::make_unique<Expression>();
  made->op = op;
  made->line = line;
  return made;
}

void Parser::adopt(Expression& parent, ExpressionPtr child) const {
  if (child) {
    parent.height = std::max(parent.height, child->height + 1);
    if (parent.height > kMaxDepth)
      fail_at(parent.line, fmt::format("an expression nested deeper than {} levels", kMaxDepth));
  }
  parent.operands.push_back(std::move(child));
}

ExpressionPtr Parser::binary(Op op, std::string text, ExpressionPtr left,
                             ExpressionPtr right) const {
  ExpressionPtr made = node(op, left->line);
  made->text = std::move(text);
  adopt(*made, std::move(left));
  adopt(*made, std::move(right));
  return made;
}

ExpressionPtr Parser::expression() {
  const Deeper deeper(*this);
  return conditional();
}

ExpressionPtr Parser::conditional() {
  const Deeper deeper(*this);
  const int line = peek().line;
  ExpressionPtr value = parse_or();
  while (skip_name("if")) {
    ExpressionPtr made = node(Op::kConditional, line);
    adopt(*made, parse_or());
    adopt(*made, std::move(value));
    adopt(*made, skip_name("else") ? conditional() : nullptr);
    value = std::move(made);
  }
  return value;
}

ExpressionPtr Parser::parse_or() {
  ExpressionPtr left = parse_and();
  while (skip_name("or")) left = binary(Op::kOr, "or", std::move(left), parse_and());
  return left;
}

ExpressionPtr Parser::parse_and() {
  ExpressionPtr left = parse_not();
  while (skip_name("and")) left = binary(Op::kAnd, "and", std::move(left), parse_not());
  return left;
}

ExpressionPtr Parser::parse_not() {
  if (!is_name("not")) return comparison();
  const Deeper deeper(*this);
  ExpressionPtr made = node(Op::kNot, next().line);
  adopt(*made, parse_not());
  return made;
}

ExpressionPtr Parser::comparison() {
  ExpressionPtr first = sum();
  ExpressionPtr made;
  while (true) {
    static constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
    std::string text;
    if (is(TokenKind::kOperator) && std::find(std::begin(kOperators), std::end(kOperators),
                                              peek().text) != std::end(kOperators)) {
      text = next().text;
    } else if (skip_name("in")) {
      text = "in";
    } else if (is_name("not") && is_name("in", 1)) {
      next();
      next();
      text = "not in";
    } else {
      break;
    }
    if (!made) {
      made = node(Op::kCompare, first->line);
      adopt(*made, std::move(first));
    }
    made->operators.push_back(text);
    adopt(*made, sum());
  }
  return made ? std::move(made) : std::move(first);
}

ExpressionPtr Parser::sum() {
  ExpressionPtr left = concatenation();
  while (is_op("+") || is_op("-")) {
    const std::string text = next().text;
    left = binary(Op::kArithmetic, text, std::move(left), concatenation());
  }
  return left;
}

ExpressionPtr Parser::concatenation() {
  ExpressionPtr first = product();
  if (!is_op("~")) return first;
  ExpressionPtr made = node(Op::kConcatenate, first->line);
  adopt(*made, std::move(first));
  while (skip_op("~")) adopt(*made, product());
  return made;
}

ExpressionPtr Parser::product() {
  ExpressionPtr left = power();
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    const std::string text = next().text;
    left = binary(Op::kArithmetic, text, std::move(left), power());
  }
  return left;
}

ExpressionPtr Parser::power() {
  ExpressionPtr left = unary();
  while (skip_op("**")) left = binary(Op::kArithmetic, "**", std::move(left), unary());
  return left;
}

ExpressionPtr Parser::unary(bool with_filter) {
  const Deeper deeper(*this);
  ExpressionPtr made;
  if (is_op("-") || is_op("+")) {
    const Token sign = next();
    made = node(sign.text == "-" ? Op::kNegative : Op::kPositive, sign.line);
    adopt(*made, unary(false));
  } else {
    made = primary();
  }
  made = postfix(std::move(made));
  return with_filter ? filters_and_tests(std::move(made)) : std::move(made);
}

ExpressionPtr Parser::primary(bool with_namespace) {
  const Token token = peek();
  ExpressionPtr made = node(Op::kConstant, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      next();
      if (token.text == "true" || token.text == "True") {
        made->constant = Value::of(true);
      } else if (token.text == "false" || token.text == "False") {
        made->constant = Value::of(false);
      } else if (token.text == "none" || token.text == "None") {
        made->constant = Value::none();
      } else if (with_namespace && skip_op(".")) {
        made->op = Op::kNamespaceAttribute;
        made->text = expect_name();
        ExpressionPtr of = node(Op::kName, token.line);
        of->text = token.text;
        adopt(*made, std::move(of));
      } else {
        made->op = Op::kName;
        made->text = token.text;
      }
      return made;
    case TokenKind::kString: {
      const auto text = std::make_shared<Text>();
      while (is(TokenKind::kString)) text->bytes += next().text;
      for (const char c : text->bytes)
        text->length += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
      made->constant = Value(Kind::kText, text);
      return made;
    }
    case TokenKind::kInteger:
      made->constant = Value::of(next().integer);
      return made;
    case TokenKind::kFloat:
      made->constant = Value::of(next().number);
      return made;
    case TokenKind::kOperator:
      if (token.text == "(") {
        next();
        made = tuple({.parentheses = true});
        expect_op(")");
        return made;
      }
      if (token.text == "[") return list_display();
      if (token.text == "{") return map_display();
      break;
    default:
      break;
  }
  fail("unexpected " + describe(token));
}

bool Parser::is_tuple_end(std::string_view end) const {
  return is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_op(")") ||
         (!end.empty() && is_name(end));
}

ExpressionPtr Parser::tuple(const TupleForm& form) {
  const Deeper deeper(*this);
  const int line = peek().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_op(",");
    if (is_tuple_end(form.end)) break;
    items.push_back(form.simplified         ? primary(form.with_namespace)
                    : form.with_conditional ? expression()
                                            : parse_or());
    if (!is_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!form.parentheses) fail("expected an expression, found " + describe(peek()));
  }
  ExpressionPtr made = node(Op::kTuple, line);
  for (ExpressionPtr& item : items) adopt(*made, std::move(item));
  return made;
}

ExpressionPtr Parser::list_display() {
  ExpressionPtr made = node(Op::kList, next().line);
  while (!is_op("]")) {
    if (!made->operands.empty()) expect_op(",");
    if (is_op("]")) break;
    adopt(*made, expression());
  }
  expect_op("]");
  return made;
}

ExpressionPtr Parser::map_display() {
  ExpressionPtr made = node(Op::kMap, next().line);
  while (!is_op("}")) {
    if (!made->operands.empty()) expect_op(",");
    if (is_op("}")) break;
    adopt(*made, expression());
    expect_op(":");
    adopt(*made, expression());
  }
  expect_op("}");
  return made;
}

ExpressionPtr Parser::postfix(ExpressionPtr of) {
  while (true) {
    if (is_op(".") || is_op("[")) {
      of = subscript(std::move(of));
    } else if (is_op("(")) {
      of = call(std::move(of));
    } else {
      return of;
    }
  }
}

ExpressionPtr Parser::filters_and_tests(ExpressionPtr of) {
  while (true) {
    if (is_op("|")) {
      of = filters(std::move(of), false);
    } else if (is_name("is")) {
      of = test(std::move(of));
    } else if (is_op("(")) {
      of = call(std::move(of));
    } else {
      return of;
    }
  }
}

ExpressionPtr Parser::subscript(ExpressionPtr of) {
  const Token token = next();
  if (token.text == ".") {
    ExpressionPtr made = node(Op::kAttribute, token.line);
    adopt(*made, std::move(of));
    const Token attribute = next();
    if (attribute.kind == TokenKind::kName) {
      made->text = attribute.text;
      return made;
    }
    if (attribute.kind != TokenKind::kInteger)
      fail_at(attribute.line, "expected a name or a number");
    made->op = Op::kItem;
    ExpressionPtr index = node(Op::kConstant, attribute.line);
    index->constant = Value::of(attribute.integer);
    adopt(*made, std::move(index));
    return made;
  }
  ExpressionPtr made = node(Op::kItem, token.line);
  adopt(*made, std::move(of));
  ExpressionPtr first;
  if (is_op("]")) {  // Jinja has it, an empty tuple
    first = node(Op::kTuple, token.line);
  } else if (!is_op(":")) {
    first = expression();
    if (is_op(",")) {
      ExpressionPtr all = node(Op::kTuple, token.line);
      adopt(*all, std::move(first));
      while (skip_op(",")) adopt(*all, expression());
      first = std::move(all);
    }
  }
  if (!skip_op(":")) {
    adopt(*made, std::move(first));
    expect_op("]");
    return made;
  }
  made->op = Op::kSlice;
  adopt(*made, std::move(first));
  adopt(*made, is_op(":") || is_op("]") ? nullptr : expression());
  adopt(*made, skip_op(":") && !is_op("]") ? expression() : nullptr);
  expect_op("]");
  return made;
}

ExpressionPtr Parser::call(ExpressionPtr of) {
  ExpressionPtr made = node(Op::kCall, peek().line);
  adopt(*made, std::move(of));
  call_arguments(*made);
  return made;
}

void Parser::call_arguments(Expression& of) {
  const int line = peek().line;
  expect_op("(");
  of.arguments = std::make_unique<CallArguments>();
  CallArguments& to = *of.arguments;
  const auto ensure = [&](bool holds) {
    if (!holds) fail_at(line, "arguments in an order that a call cannot have");
  };
  // As a child, so that heights count it.
  const auto value = [&] {
    ExpressionPtr made = expression();
    of.height = std::max(of.height, made->height + 1);
    if (of.height > kMaxDepth)
      fail_at(line, fmt::format("an expression nested deeper than {} levels", kMaxDepth));
    return made;
  };
  bool first = true;
  while (!is_op(")")) {
    if (!first) {
      expect_op(",");
      if (is_op(")")) break;
    }
    first = false;
    if (skip_op("*")) {
      ensure(!to.star && !to.star_star);
      to.star = value();
    } else if (skip_op("**")) {
      ensure(!to.star_star);
      to.star_star = value();
    } else if (is(TokenKind::kName) && is_op("=", 1)) {
      ensure(!to.star_star);
      const std::string name = next().text;
      next();
      for (const auto& [other, unused] : to.named)
        if (other == name) fail("keyword argument repeated: " + name);
      to.named.emplace_back(name, value());
    } else {
      ensure(!to.star && !to.star_star && to.named.empty());
      to.positional.push_back(value());
    }
  }
  expect_op(")");
}

ExpressionPtr Parser::filter(ExpressionPtr of) {
  ExpressionPtr made = node(Op::kFilter, peek().line);
  made->text = expect_name();
  while (skip_op(".")) made->text += "." + expect_name();
  adopt(*made, std::move(of));
  if (is_op("(")) call_arguments(*made);
  return made;
}

ExpressionPtr Parser::filters(ExpressionPtr of, bool inline_start) {
  if (inline_start) of = filter(std::move(of));
  while (skip_op("|")) of = filter(std::move(of));
  return of;
}

ExpressionPtr Parser::test(ExpressionPtr of) {
  const int line = next().line;
  const bool negated = skip_name("not");
  ExpressionPtr made = node(Op::kTest, line);
  made->text = expect_name();
  while (skip_op(".")) made->text += "." + expect_name();
  adopt(*made, std::move(of));
  if (is_op("(")) {
    call_arguments(*made);
  } else if ((is(TokenKind::kName) || is(TokenKind::kString) || is(TokenKind::kInteger) ||
              is(TokenKind::kFloat) || is_op("[") || is_op("{")) &&
             !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) fail("tests cannot follow each other; use parentheses");
    const Deeper deeper(*this);
    ExpressionPtr argument = postfix(primary());
    made->height = std::max(made->height, argument->height + 1);
    made->arguments = std::make_unique<CallArguments>();
    made->arguments->positional.push_back(std::move(argument));
  }
  if (!negated) return made;
  ExpressionPtr denied = node(Op::kNot, line);
  adopt(*denied, std::move(made));
  return denied;
}

}  // namespace refrain::text::jinja

#include <algorithm>
#include <iterator>

#include "refrain/base/error.h"
#include "refrain/io/json.h"
#include "refrain/text/chat/jinja/parser.h"

namespace refrain::text::jinja {

void Parser::expect_block_end() {
  if (!is(TokenKind::kBlockEnd)) fail("expected '%}', found " + describe(peek()));
  next();
}

Body Parser::parse() { return statements({}); }

// Up to one of the tags `ends`, whose name is then the next token.
Body Parser::statements(std::initializer_list<std::string_view> ends) {
  const Deeper deeper(*this);
  Body body;
  while (!is(TokenKind::kEnd)) {
    const Token token = next();
    if (token.kind == TokenKind::kData) {
      Statement& made = body.emplace_back();
      made.line = token.line;
      made.text = token.text;
    } else if (token.kind == TokenKind::kVariableBegin) {
      Statement& made = body.emplace_back();
      made.kind = Statement::Kind::kPrint;
      made.line = token.line;
      made.value = tuple({});
      if (!is(TokenKind::kVariableEnd)) fail("expected '}}', found " + describe(peek()));
      next();
    } else {
      if (is(TokenKind::kName) && std::find(ends.begin(), ends.end(), peek().text) != ends.end())
        return body;
      statement(body);
      expect_block_end();
    }
  }
  if (ends.size() > 0) {
    std::string wanted;
    for (const std::string_view end : ends)
      wanted += fmt::format("{}'{}'", wanted.empty() ? "" : " or ", end);
    fail(fmt::format("the template ends within '{}'; expected {}", open_.back(), wanted));
  }
  return body;
}

Body Parser::block(std::initializer_list<std::string_view> ends, bool drop) {
  skip_op(":");
  expect_block_end();
  Body body = statements(ends);
  if (drop) next();
  return body;
}

void Parser::statement(Body& body) {
  if (!is(TokenKind::kName)) fail("expected the name of a tag, found " + describe(peek()));
  const std::string tag = peek().text;
  open_.push_back(tag);
  if (tag == "if") {
    body.push_back(parse_if());
  } else if (tag == "for") {
    body.push_back(parse_for());
  } else if (tag == "set") {
    body.push_back(parse_set());
  } else if (tag == "macro") {
    body.push_back(parse_macro());
  } else if (tag == "call") {
    body.push_back(parse_call_block());
  } else if (tag == "generation") {
    body.push_back(parse_generation());
  } else if (tag == "filter") {
    body.push_back(parse_filter_block());
  } else if (tag == "with") {
    body.push_back(parse_with());
  } else if (tag == "print") {
    parse_print(body);
  } else if (tag == "break" || tag == "continue") {
    if (!loops_) fail(fmt::format("'{}' outside of a loop", tag));
    Statement& made = body.emplace_back();
    made.line = next().line;
    made.kind = tag == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
  } else {
    static constexpr std::string_view kOthers[] = {"block",  "extends", "include",
                                                   "import", "from",    "autoescape"};
    const bool known = std::find(std::begin(kOthers), std::end(kOthers), tag) != std::end(kOthers);
    fail(fmt::format("{} {}", known ? "there is no support for the tag" : "unknown tag",
                     io::quote(tag)));
  }
  open_.pop_back();
}

Statement Parser::parse_if() {
  Statement made;
  made.kind = Statement::Kind::kIf;
  made.line = next().line;
  while (true) {
    Branch& branch = made.branches.emplace_back();
    branch.test = tuple({.with_conditional = false});
    branch.body = block({"elif", "else", "endif"}, false);
    const Token end = next();
    if (end.text == "elif") continue;
    if (end.text == "else") made.otherwise = block({"endif"});
    return made;
  }
}

Statement Parser::parse_for() {
  Statement made;
  made.kind = Statement::Kind::kFor;
  made.line = next().line;
  ++loops_;
  made.target = assignment_target(false, "in");
  if (!skip_name("in")) fail("expected 'in', found " + describe(peek()));
  made.value = tuple({.with_conditional = false, .end = "recursive"});
  if (skip_name("if")) made.test = expression();
  if (is_name("recursive")) fail("recursive loops are not supported");
  made.body = block({"endfor", "else"}, false);
  --loops_;
  if (next().text == "else") made.otherwise = block({"endfor"});
  return made;
}

Statement Parser::parse_set() {
  Statement made;
  made.line = next().line;
  made.target = assignment_target(true);
  if (skip_op("=")) {
    made.kind = Statement::Kind::kSet;
    made.value = tuple({});
    return made;
  }
  made.kind = Statement::Kind::kSetBlock;
  made.value = filters(nullptr, false);
  made.body = block({"endset"});
  return made;
}

void Parser::parse_signature(MacroSyntax& macro) {
  expect_op("(");
  bool defaults = false;
  while (!is_op(")")) {
    if (!macro.parameters.empty()) expect_op(",");
    Parameter& parameter = macro.parameters.emplace_back();
    parameter.name = expect_name();
    for (size_t i = 0; i + 1 < macro.parameters.size(); ++i)
      if (macro.parameters[i].name == parameter.name)
        fail(fmt::format("two parameters are called '{}'", parameter.name));
    if (skip_op("=")) {
      parameter.default_value = expression();
      defaults = true;
    } else if (defaults) {
      fail("a parameter without a default follows one with a default");
    }
  }
  expect_op(")");
}

Statement Parser::parse_macro() {
  Statement made;
  made.kind = Statement::Kind::kMacro;
  made.line = next().line;
  made.macro = std::make_unique<MacroSyntax>();
  made.target = node(Op::kName, peek().line);
  made.target->text = made.macro->name = expect_name();
  check_target(*made.target);
  parse_signature(*made.macro);
  const int loops = std::exchange(loops_, 0);
  made.body = block({"endmacro"});
  loops_ = loops;
  return made;
}

Statement Parser::parse_call_block() {
  Statement made;
  made.kind = Statement::Kind::kCallBlock;
  made.line = next().line;
  made.macro = std::make_unique<MacroSyntax>();
  made.macro->name = "caller";
  if (is_op("(")) parse_signature(*made.macro);
  made.value = expression();
  if (made.value->op != Op::kCall) fail_at(made.line, "expected a call");
  const int loops = std::exchange(loops_, 0);
  made.body = block({"endcall"});
  loops_ = loops;
  return made;
}

Statement Parser::parse_generation() {
  Statement made;
  made.kind = Statement::Kind::kGeneration;
  generation_ = true;
  made.line = next().line;
  made.macro = std::make_unique<MacroSyntax>();
  made.macro->name = "caller";
  const int loops = std::exchange(loops_, 0);
  made.body = block({"endgeneration"});
  loops_ = loops;
  return made;
}

Statement Parser::parse_filter_block() {
  Statement made;
  made.kind = Statement::Kind::kFilterBlock;
  made.line = next().line;
  made.value = filters(nullptr, true);
  made.body = block({"endfilter"});
  return made;
}

Statement Parser::parse_with() {
  Statement made;
  made.kind = Statement::Kind::kWith;
  made.line = next().line;
  while (!is(TokenKind::kBlockEnd)) {
    if (!made.with.empty()) expect_op(",");
    ExpressionPtr target = assignment_target(false);
    expect_op("=");
    made.with.emplace_back(std::move(target), expression());
  }
  made.body = block({"endwith"});
  return made;
}

void Parser::parse_print(Body& body) {
  const int line = next().line;
  bool first = true;
  while (!is(TokenKind::kBlockEnd)) {
    if (!first) expect_op(",");
    first = false;
    Statement& made = body.emplace_back();
    made.kind = Statement::Kind::kPrint;
    made.line = line;
    made.value = expression();
  }
}

ExpressionPtr Parser::assignment_target(bool with_namespace, std::string_view end) {
  ExpressionPtr target = tuple({.simplified = true, .with_namespace = with_namespace, .end = end});
  check_target(*target);
  return target;
}

void Parser::check_target(const Expression& target) const {
  if (target.op == Op::kTuple) {
    for (const ExpressionPtr& item : target.operands) check_target(*item);
  } else if (target.op == Op::kName) {
    static constexpr std::string_view kFixed[] = {"true", "false", "none", "True", "False", "None"};
    if (target.text == "loop" && loops_)
      fail_at(target.line, "cannot assign to the special variable 'loop'");
    if (std::find(std::begin(kFixed), std::end(kFixed), target.text) != std::end(kFixed))
      fail_at(target.line, fmt::format("cannot assign to '{}'", target.text));
  } else if (target.op != Op::kNamespaceAttribute) {
    fail_at(target.line, "cannot assign to this");
  }
}

Template parse_template(std::string_view source, const std::string& name) {
  Template made;
  Parser parser(tokenize(source, name), name);
  made.body = parser.parse();
  made.marks_generation = parser.found_generation();
  bind_names(made, name);
  return made;
}

}  // namespace refrain::text::jinja

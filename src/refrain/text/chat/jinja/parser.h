// From tokens to a tree, with Jinja's grammar. What chat templates have no use for (blocks,
// inheritance, imports, recursive loops) is refused by name.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/text/chat/jinja/lexer.h"
#include "refrain/text/chat/jinja/syntax.h"

namespace refrain::text::jinja {

// Names are bound. `name` is the template's in errors.
Template parse_template(std::string_view source, const std::string& name);

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& name)
      : tokens_(std::move(tokens)), name_(name) {}

  Body parse();
  bool found_generation() const { return generation_; }

 private:
  // Levels of a tree: what recursion over it may take of the stack.
  static constexpr int kMaxDepth = 200;

  struct Deeper {
    explicit Deeper(Parser& parser);
    ~Deeper() { --parser.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    Parser& parser;
  };

  [[noreturn]] void fail(const std::string& message) const { fail_at(peek().line, message); }
  [[noreturn]] void fail_at(int line, const std::string& message) const;

  const Token& peek(size_t ahead = 0) const;
  Token next();
  bool is(TokenKind kind) const { return peek().kind == kind; }
  bool is_op(std::string_view text, size_t ahead = 0) const;
  bool is_name(std::string_view text, size_t ahead = 0) const;
  bool skip_op(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_op(std::string_view text);
  void expect_block_end();
  std::string expect_name();
  static std::string describe(const Token& token);

  // Statements.
  Body statements(std::initializer_list<std::string_view> ends);
  Body block(std::initializer_list<std::string_view> ends, bool drop = true);
  void statement(Body& body);
  Statement parse_if();
  Statement parse_for();
  Statement parse_set();
  Statement parse_macro();
  Statement parse_call_block();
  Statement parse_generation();
  Statement parse_filter_block();
  Statement parse_with();
  void parse_print(Body& body);
  void parse_signature(MacroSyntax& macro);
  ExpressionPtr assignment_target(bool with_namespace, std::string_view end = {});
  void check_target(const Expression& target) const;

  // Expressions.
  ExpressionPtr node(Op op, int line) const;
  void adopt(Expression& parent, ExpressionPtr child) const;
  ExpressionPtr binary(Op op, std::string text, ExpressionPtr left, ExpressionPtr right) const;
  ExpressionPtr expression();
  ExpressionPtr conditional();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filter = true);
  ExpressionPtr primary(bool with_namespace = false);
  ExpressionPtr list_display();
  ExpressionPtr map_display();
  ExpressionPtr postfix(ExpressionPtr of);
  ExpressionPtr filters_and_tests(ExpressionPtr of);
  ExpressionPtr subscript(ExpressionPtr of);
  ExpressionPtr call(ExpressionPtr of);
  ExpressionPtr filter(ExpressionPtr of);  // a null `of` is the text of a block
  ExpressionPtr filters(ExpressionPtr of, bool inline_start);
  ExpressionPtr test(ExpressionPtr of);
  void call_arguments(Expression& of);

  struct TupleForm {
    bool simplified = false, with_conditional = true, parentheses = false, with_namespace = false;
    std::string_view end = {};  // a name that ends it
  };
  ExpressionPtr tuple(const TupleForm& form);
  bool is_tuple_end(std::string_view end) const;

  const std::vector<Token> tokens_;
  const std::string& name_;
  size_t at_ = 0;
  int depth_ = 0;
  bool generation_ = false;
  int loops_ = 0;                  // that `break` may end
  std::vector<std::string> open_;  // tags
};

}  // namespace refrain::text::jinja

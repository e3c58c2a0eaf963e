// Runs a template: one pass over its tree, with the values of names in activations.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/text/chat/jinja/runtime.h"
#include "refrain/text/chat/jinja/syntax.h"
#include "refrain/text/chat/jinja/value.h"

namespace refrain::text::jinja {

// Bytes of the output, from `begin` to `end`.
struct Span {
  size_t begin = 0, end = 0;
  bool operator==(const Span&) const = default;
};

struct Output {
  std::string text;
  std::vector<Span> generated;  // {% generation %}
  // False if such a block was in a macro or another block whose text goes elsewhere: where its text
  // came to stand is not known, and `generated` has not all of them.
  bool all_placed = true;
};

// Names that the template may read; of equal names the last counts.
using Context = std::vector<std::pair<std::string, Value>>;

class Interpreter {
 public:
  Interpreter(Runtime& rt, const Context& context) : rt_(rt), context_(context) {}
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  Output run(const Template& of);

 private:
  struct Activation : Object {
    std::vector<Value> slots;
    std::shared_ptr<Activation> outer;
  };
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class Capture;
  class Inside;

  // Statements.
  Flow run(const Body& body);
  Flow run(const Statement& statement);
  Flow run_if(const Statement& s);
  Flow run_for(const Statement& s);
  Flow run_set_block(const Statement& s);
  Flow run_filter_block(const Statement& s);
  Flow run_with(const Statement& s);
  void run_set(const Statement& s);
  void run_call_block(const Statement& s);
  void run_generation(const Statement& s);
  void emit(const std::string& text);
  void enter(const Frame& frame);
  void leave(const Frame& frame);
  void assign(const Expression& target, const Value& value);
  void assign_items(const Expression& target, const Value& value);
  Value make_macro(const Statement& s);
  Value call_macro(const Statement& s, const std::shared_ptr<Activation>& outer, Arguments& given);
  void bind_parameters(const MacroSyntax& macro, Arguments& given);
  std::shared_ptr<Activation> activate(const Function& function,
                                       const std::shared_ptr<Activation>& outer);
  Value& at(Place place);

  // Expressions.
  Value eval(const Expression& e);
  Value eval_name(const Expression& e);
  Value eval_container(const Expression& e);
  Value eval_access(const Expression& e);
  Value eval_call(const Expression& e, const Value* caller = nullptr);
  Value eval_filter(const Expression& e, const Value* block);
  Value eval_filter_or_test(const Expression& e);
  Value eval_conditional(const Expression& e);
  Value eval_logic(const Expression& e);
  Value eval_arithmetic(const Expression& e);
  Value eval_concatenation(const Expression& e);
  bool eval_comparison(const Expression& e);
  void eval_arguments(const Expression& e, Arguments& to);
  Value call(const Value& callee, Arguments& arguments);

  Runtime& rt_;
  const Context& context_;
  std::shared_ptr<Activation> here_;
  std::vector<std::shared_ptr<Activation>> kept_;  // those that macros may hold, and they macros
  std::string root_;
  std::string* out_ = &root_;
  std::vector<Span> generated_;
  bool all_placed_ = true;
};

}  // namespace refrain::text::jinja

#include <algorithm>

#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/interpreter.h"
#include "refrain/text/chat/jinja/operators.h"

namespace refrain::text::jinja {

// Each kind has a function of its own, which keeps the stack of the recursion small.
Value Interpreter::eval(const Expression& e) {
  const Runtime::Deeper deeper(rt_);
  rt_.step();
  rt_.line = e.line;
  switch (e.op) {
    case Op::kConstant:
      return e.constant;
    case Op::kName:
      return eval_name(e);
    case Op::kTuple:
    case Op::kList:
    case Op::kMap:
      return eval_container(e);
    case Op::kAttribute:
    case Op::kItem:
    case Op::kSlice:
      return eval_access(e);
    case Op::kCall:
      return eval_call(e);
    case Op::kFilter:
    case Op::kTest:
      return eval_filter_or_test(e);
    case Op::kConditional:
      return eval_conditional(e);
    case Op::kAnd:
    case Op::kOr:
      return eval_logic(e);
    case Op::kNot:
      return Value::of(!truth(eval(*e.operands[0])));
    case Op::kNegative:
    case Op::kPositive:
    case Op::kArithmetic:
      return eval_arithmetic(e);
    case Op::kConcatenate:
      return eval_concatenation(e);
    case Op::kCompare:
      return Value::of(eval_comparison(e));
    case Op::kNamespaceAttribute:
      break;  // a target only
  }
  rt_.fail("this has no value");
}

Value Interpreter::eval_name(const Expression& e) {
  const Value& found = at(e.place);
  return found.is(Kind::kMissing) ? rt_.undefined_name(e.text) : found;
}

Value Interpreter::eval_container(const Expression& e) {
  if (e.op == Op::kMap) {
    Members members;
    for (size_t i = 0; i < e.operands.size(); i += 2) {
      const Value key = eval(*e.operands[i]);
      put(rt_, members, key, eval(*e.operands[i + 1]));
    }
    return rt_.map(std::move(members));
  }
  std::vector<Value> items;
  items.reserve(e.operands.size());
  for (const ExpressionPtr& item : e.operands) items.push_back(eval(*item));
  return rt_.list(std::move(items), e.op == Op::kTuple ? Kind::kTuple : Kind::kList);
}

Value Interpreter::eval_access(const Expression& e) {
  const Value of = eval(*e.operands[0]);
  if (e.op == Op::kAttribute) {
    rt_.line = e.line;
    return attribute_of(rt_, of, e.text);
  }
  if (e.op == Op::kItem) {
    const Value key = eval(*e.operands[1]);
    rt_.line = e.line;
    return item_of(rt_, of, key);
  }
  const auto bound = [&](size_t i) { return e.operands[i] ? eval(*e.operands[i]) : Value::none(); };
  SliceBounds bounds;
  bounds.start = bound(1);
  bounds.stop = bound(2);
  bounds.step = bound(3);
  rt_.line = e.line;
  return slice_of(rt_, of, bounds);
}

void Interpreter::eval_arguments(const Expression& e, Arguments& to) {
  if (!e.arguments) return;
  for (const ExpressionPtr& value : e.arguments->positional) to.positional.push_back(eval(*value));
  if (e.arguments->star) {
    for (Value& item : items_of(rt_, eval(*e.arguments->star)))
      to.positional.push_back(std::move(item));
  }
  for (const auto& [name, value] : e.arguments->named) to.named.emplace_back(name, eval(*value));
  if (!e.arguments->star_star) return;
  const Value more = eval(*e.arguments->star_star);
  if (!more.is(Kind::kMap))
    rt_.fail("argument after ** must be a mapping, not {}", type_name(more));
  for (const auto& [name, value] : more.map().items) {
    if (!name.is_text()) rt_.fail("keywords must be strings");
    for (const auto& [other, unused] : to.named)
      if (other == name.text().bytes)
        rt_.fail("got multiple values for keyword argument '{}'", other);
    to.named.emplace_back(name.text().bytes, value);
  }
}

Value Interpreter::call(const Value& callee, Arguments& arguments) {
  refuse_undefined(rt_, callee);
  if (!callee.is(Kind::kCallable)) rt_.fail("'{}' object is not callable", type_name(callee));
  const Value kept = callee;  // which the call may take from its variable
  return kept.callable().call(rt_, arguments);
}

Value Interpreter::eval_call(const Expression& e, const Value* caller) {
  const Value callee = eval(*e.operands[0]);
  Arguments arguments;
  eval_arguments(e, arguments);
  if (caller) arguments.named.emplace_back("caller", *caller);
  rt_.line = e.line;
  return call(callee, arguments);
}

// A filter without an operand is of the text of a block.
Value Interpreter::eval_filter(const Expression& e, const Value* block) {
  const Runtime::Deeper deeper(rt_);
  const Value of = !e.operands[0] ? *block
                   : block        ? eval_filter(*e.operands[0], block)
                                  : eval(*e.operands[0]);
  Arguments arguments;
  eval_arguments(e, arguments);
  rt_.line = e.line;
  return apply_filter(rt_, e.text, of, arguments);
}

Value Interpreter::eval_filter_or_test(const Expression& e) {
  if (e.op == Op::kFilter) return eval_filter(e, nullptr);
  const Value of = eval(*e.operands[0]);
  Arguments arguments;
  eval_arguments(e, arguments);
  rt_.line = e.line;
  return Value::of(apply_test(rt_, e.text, of, arguments));
}

Value Interpreter::eval_conditional(const Expression& e) {
  if (truth(eval(*e.operands[0]))) return eval(*e.operands[1]);
  if (e.operands[2]) return eval(*e.operands[2]);
  return rt_.undefined(
      fmt::format("the inline if-expression on line {} evaluated to false and no "
                  "else section was defined.",
                  e.line));
}

Value Interpreter::eval_logic(const Expression& e) {
  Value left = eval(*e.operands[0]);
  return truth(left) == (e.op == Op::kOr) ? left : eval(*e.operands[1]);
}

Value Interpreter::eval_arithmetic(const Expression& e) {
  const Value left = eval(*e.operands[0]);
  if (e.op != Op::kArithmetic) {
    rt_.line = e.line;
    if (e.op == Op::kNegative) return negative(rt_, left);
    refuse_undefined(rt_, left);
    if (!left.is_number()) rt_.fail("bad operand type for unary +: '{}'", type_name(left));
    return left.is(Kind::kBool) ? Value::of(left.integer()) : left;
  }
  const Value right = eval(*e.operands[1]);
  rt_.line = e.line;
  return arithmetic(rt_, e.text, left, right);
}

Value Interpreter::eval_concatenation(const Expression& e) {
  std::string made;
  for (const ExpressionPtr& operand : e.operands) {
    const Value value = eval(*operand);
    rt_.line = e.line;
    if (value.is_text()) {
      rt_.room(made.size() + value.text().bytes.size());
      made += value.text().bytes;
    } else {
      made += to_text(rt_, value);
    }
  }
  return rt_.text(std::move(made));
}

bool Interpreter::eval_comparison(const Expression& e) {
  Value left = eval(*e.operands[0]);
  for (size_t i = 0; i < e.operators.size(); ++i) {
    Value right = eval(*e.operands[i + 1]);
    rt_.line = e.line;
    const std::string& op = e.operators[i];
    const bool holds = op == "=="       ? equal(rt_, left, right)
                       : op == "!="     ? !equal(rt_, left, right)
                       : op == "in"     ? contains(rt_, right, left)
                       : op == "not in" ? !contains(rt_, right, left)
                                        : ordered(rt_, op, left, right);
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

}  // namespace refrain::text::jinja

// Statements; expressions are in expressions.cc.
#include "refrain/text/chat/jinja/interpreter.h"

#include <algorithm>

#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/operators.h"

namespace refrain::text::jinja {

// Collects what is put out as long as it lives.
class Interpreter::Capture {
 public:
  explicit Capture(Interpreter& of) : of_(of), before_(std::exchange(of.out_, &text_)) {}
  ~Capture() {
    of_.out_ = before_;
    of_.rt_.release(text_.size());
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  Value take() {
    of_.rt_.release(text_.size());
    return of_.rt_.text(std::exchange(text_, {}));
  }

 private:
  Interpreter& of_;
  std::string text_;
  std::string* before_;
};

// Another activation, as long as it lives.
class Interpreter::Inside {
 public:
  Inside(Interpreter& of, std::shared_ptr<Activation> next)
      : of_(of), before_(std::exchange(of.here_, std::move(next))) {}
  ~Inside() { of_.here_ = std::move(before_); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Interpreter& of_;
  std::shared_ptr<Activation> before_;
};

Interpreter::~Interpreter() {
  // Activations hold macros, which hold activations.
  for (const auto& activation : kept_)
    for (Value& slot : activation->slots) slot = Value();
}

Output Interpreter::run(const Template& of) {
  here_ = activate(of.function, nullptr);
  enter(of.frame);
  run(of.body);
  return {std::move(root_), std::move(generated_), all_placed_};
}

std::shared_ptr<Interpreter::Activation> Interpreter::activate(
    const Function& function, const std::shared_ptr<Activation>& outer) {
  const auto slots = static_cast<size_t>(function.slots);
  const auto made = rt_.make<Activation>(slots * sizeof(Value));
  made->outer = outer;
  made->slots.resize(slots);
  rt_.step(1 + function.slots / 8);
  if (function.is_outer) kept_.push_back(made);
  return made;
}

Value& Interpreter::at(Place place) {
  Activation* activation = here_.get();
  for (int i = 0; i < place.hops; ++i) activation = activation->outer.get();
  return activation->slots[static_cast<size_t>(place.slot)];
}

void Interpreter::enter(const Frame& frame) {
  for (const Load& load : frame.loads) {
    Value& slot = here_->slots[static_cast<size_t>(load.slot)];
    slot = Value();
    if (load.from == Load::From::kOuter) {
      slot = at(load.outer);
    } else if (load.from == Load::From::kContext) {
      for (const auto& [name, value] : context_)
        if (name == load.name) slot = value;
    }
  }
  rt_.step(static_cast<int64_t>(frame.loads.size()));
}

void Interpreter::leave(const Frame& frame) {
  for (const int slot : frame.slots) here_->slots[static_cast<size_t>(slot)] = Value();
}

void Interpreter::emit(const std::string& text) {
  rt_.step(static_cast<int64_t>(text.size() / 64));
  if (text.size() > rt_.limits().output_bytes ||
      out_->size() > rt_.limits().output_bytes - text.size())
    rt_.limit(fmt::format("more than {} bytes of output", rt_.limits().output_bytes));
  rt_.hold(text.size());
  *out_ += text;
}

Interpreter::Flow Interpreter::run(const Body& body) {
  const Runtime::Deeper deeper(rt_);
  for (const Statement& statement : body) {
    rt_.line = statement.line;
    rt_.step();
    if (const Flow flow = run(statement); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Statement& s) {
  using enum Statement::Kind;
  switch (s.kind) {
    case kData:
      emit(s.text);
      break;
    case kPrint: {
      const Value value = eval(*s.value);
      rt_.line = s.line;
      if (value.is_text()) {
        emit(value.text().bytes);
      } else {
        emit(to_text(rt_, value));
      }
      break;
    }
    case kIf:
      return run_if(s);
    case kFor:
      return run_for(s);
    case kSet:
      run_set(s);
      break;
    case kSetBlock:
      return run_set_block(s);
    case kMacro:
      assign(*s.target, make_macro(s));
      break;
    case kCallBlock:
      run_call_block(s);
      break;
    case kGeneration:
      run_generation(s);
      break;
    case kFilterBlock:
      return run_filter_block(s);
    case kWith:
      return run_with(s);
    case kBreak:
      return Flow::kBreak;
    case kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Statement& s) {
  for (const Branch& branch : s.branches)
    if (truth(eval(*branch.test))) return run(branch.body);
  return run(s.otherwise);
}

Interpreter::Flow Interpreter::run_for(const Statement& s) {
  const Value source = eval(*s.value);
  rt_.line = s.line;
  Cursor cursor(rt_, source);
  bool entered = false;
  const std::shared_ptr<Activation> home = here_;
  const auto pull = [&](Value& item) {
    if (!s.test) return cursor.next(item);
    // A macro in the body may ask `loop` what follows.
    const Inside inside(*this, home);
    if (!std::exchange(entered, true)) enter(s.test_frame);
    while (cursor.next(item)) {
      assign(*s.test_target, item);
      if (truth(eval(*s.test))) {
        rt_.hold(sizeof(Value));  // a loop that asks for its length has all of them at once
        return true;
      }
    }
    return false;
  };
  struct Closing {
    std::shared_ptr<Loop> loop;
    ~Closing() {
      if (loop) loop->close();
    }
  } closing;
  if (s.loop_slot >= 0) {
    closing.loop = rt_.make<Loop>();
    closing.loop->pull = pull;
    if (!s.test && has_length(source)) closing.loop->length = length_of(rt_, source);
  }
  bool empty = true;
  for (Value item;;) {
    if (closing.loop ? !closing.loop->advance(item) : !pull(item)) break;
    rt_.step();
    if (closing.loop)
      here_->slots[static_cast<size_t>(s.loop_slot)] = Value(Kind::kLoop, closing.loop);
    assign(*s.target, item);
    enter(s.frame);
    const Flow flow = run(s.body);
    if (flow == Flow::kBreak) break;
    // As in Jinja: a body that was left does not count for the `else`.
    if (flow == Flow::kNext) empty = false;
  }
  leave(s.frame);
  if (s.test) leave(s.test_frame);
  if (!empty || s.otherwise.empty()) return Flow::kNext;
  enter(s.otherwise_frame);
  const Flow flow = run(s.otherwise);
  leave(s.otherwise_frame);
  return flow;
}

void Interpreter::run_set(const Statement& s) {
  // Whether attributes can be set is known before the value.
  const auto check = [&](const auto& self, const Expression& target) -> void {
    if (target.op == Op::kTuple)
      for (const ExpressionPtr& item : target.operands) self(self, *item);
    if (target.op == Op::kNamespaceAttribute && !at(target.operands[0]->place).is(Kind::kNamespace))
      rt_.fail("cannot assign attribute on non-namespace object");
  };
  check(check, *s.target);
  const Value value = eval(*s.value);
  rt_.line = s.line;
  assign(*s.target, value);
}

void Interpreter::assign(const Expression& target, const Value& value) {
  if (target.op == Op::kTuple) return assign_items(target, value);
  if (target.op == Op::kName) {
    at(target.place) = value;
    return;
  }
  const Value of = at(target.operands[0]->place);
  if (!of.is(Kind::kNamespace)) rt_.fail("cannot assign attribute on non-namespace object");
  if (target.text.starts_with('_'))
    rt_.fail("names of attributes that begin with an underscore cannot be set: '{}'", target.text);
  Namespace& name_space = of.name_space();
  if (!name_space.find(target.text)) rt_.hold(2 * sizeof(Value));
  name_space.set(target.text, value);
}

void Interpreter::assign_items(const Expression& target, const Value& value) {
  if (!Cursor::iterates(value)) rt_.fail("cannot unpack non-iterable {} object", type_name(value));
  const size_t wanted = target.operands.size();
  std::vector<Value> items;
  Cursor cursor(rt_, value);
  for (Value item; items.size() <= wanted && cursor.next(item);) items.push_back(item);
  if (items.size() > wanted) rt_.fail("too many values to unpack (expected {})", wanted);
  if (items.size() < wanted)
    rt_.fail("not enough values to unpack (expected {}, got {})", wanted, items.size());
  for (size_t i = 0; i < wanted; ++i) assign(*target.operands[i], items[i]);
}

Interpreter::Flow Interpreter::run_set_block(const Statement& s) {
  Value value;
  {
    Capture capture(*this);
    enter(s.frame);
    if (const Flow flow = run(s.body); flow != Flow::kNext) return flow;
    value = capture.take();
  }
  rt_.line = s.line;
  if (s.value) value = eval_filter(*s.value, &value);
  assign(*s.target, value);
  leave(s.frame);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_filter_block(const Statement& s) {
  Value value;
  {
    Capture capture(*this);
    enter(s.frame);
    if (const Flow flow = run(s.body); flow != Flow::kNext) return flow;
    value = capture.take();
  }
  rt_.line = s.line;
  emit(to_text(rt_, eval_filter(*s.value, &value)));
  leave(s.frame);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_with(const Statement& s) {
  enter(s.frame);
  for (const auto& [target, value] : s.with) assign(*target, eval(*value));
  const Flow flow = run(s.body);
  leave(s.frame);
  return flow;
}

Value Interpreter::make_macro(const Statement& s) {
  const auto made = rt_.make<Callable>(sizeof(Value));
  made->name = s.macro->name;
  made->is_macro = true;
  made->call = [this, &s, outer = here_](Runtime&, Arguments& given) {
    return call_macro(s, outer, given);
  };
  return Value(Kind::kCallable, made);
}

void Interpreter::bind_parameters(const MacroSyntax& macro, Arguments& given) {
  const size_t count = macro.parameters.size();
  const size_t by_place = std::min(given.positional.size(), count);
  bool found_caller = by_place == count && macro.explicit_caller;
  const auto slot = [&](int i) -> Value& { return here_->slots[static_cast<size_t>(i)]; };
  for (size_t i = 0; i < count; ++i) {
    const Parameter& parameter = macro.parameters[i];
    if (i < by_place) {
      slot(parameter.slot) = given.positional[i];
    } else {
      if (auto value = given.take(parameter.name)) slot(parameter.slot) = std::move(*value);
      found_caller |= parameter.name == "caller";
    }
  }
  if (macro.caller >= 0 && !found_caller) {
    auto caller = given.take("caller");
    slot(macro.caller) =
        caller && !caller->is_none() ? *caller : rt_.undefined("No caller defined");
  }
  if (macro.kwargs >= 0) {
    Members members;
    for (auto& [name, value] : given.named) members.emplace_back(rt_.text(name), value);
    slot(macro.kwargs) = rt_.map(std::move(members));
  } else if (!given.named.empty()) {
    rt_.fail("macro '{}' takes no keyword argument '{}'", macro.name, given.named[0].first);
  }
  if (macro.varargs >= 0) {
    slot(macro.varargs) = rt_.tuple(
        {given.positional.begin() + static_cast<int64_t>(by_place), given.positional.end()});
  } else if (given.positional.size() > count) {
    rt_.fail("macro '{}' takes not more than {} argument(s)", macro.name, count);
  }
}

Value Interpreter::call_macro(const Statement& s, const std::shared_ptr<Activation>& outer,
                              Arguments& given) {
  const Runtime::Deeper deeper(rt_);
  const MacroSyntax& macro = *s.macro;
  const int line = rt_.line;
  const Inside inside(*this, activate(*macro.function, outer));
  bind_parameters(macro, given);
  Capture capture(*this);
  enter(macro.frame);
  for (const Parameter& parameter : macro.parameters) {
    Value& slot = here_->slots[static_cast<size_t>(parameter.slot)];
    if (!slot.is(Kind::kMissing)) continue;
    Value value =
        parameter.default_value
            ? eval(*parameter.default_value)
            : rt_.undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    here_->slots[static_cast<size_t>(parameter.slot)] = std::move(value);
  }
  run(s.body);
  rt_.line = line;
  return capture.take();
}

void Interpreter::run_call_block(const Statement& s) {
  const Value caller = make_macro(s);
  const Value made = eval_call(*s.value, &caller);
  rt_.line = s.line;
  emit(to_text(rt_, made));
}

void Interpreter::run_generation(const Statement& s) {
  Arguments none;
  const Value made = call_macro(s, here_, none);
  if (out_ == &root_) {
    generated_.push_back({root_.size(), root_.size() + made.text().bytes.size()});
  } else {
    all_placed_ = false;
  }
  emit(made.text().bytes);
}

}  // namespace refrain::text::jinja

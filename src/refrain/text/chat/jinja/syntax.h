// A template as a tree.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "refrain/text/chat/jinja/value.h"

namespace refrain::text::jinja {

// Where the value of a name is: in the activation of the function that is `hops` functions further
// out.
struct Place {
  int hops = 0, slot = 0;
};

// How a variable of a frame begins.
struct Load {
  enum class From : uint8_t { kNothing, kContext, kOuter };
  int slot = 0;
  From from = From::kNothing;
  std::string name;  // kContext
  Place outer;       // kOuter
};
// A body with variables of its own: of the template, a loop, a macro, a block.
struct Frame {
  std::vector<Load> loads;  // at its start
  std::vector<int> slots;   // without a value after its end
};
// What has an activation of its own.
struct Function {
  Function* outer = nullptr;
  int slots = 0;
  bool is_outer = false;  // functions in it may outlive its call
};

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star, star_star;
};

enum class Op : uint8_t {
  kConstant,
  kName,
  kNamespaceAttribute,  // `a.b` that is assigned to
  kTuple,
  kList,
  kMap,  // operands: key, value, key, value, ...
  kAttribute,
  kItem,
  kSlice,  // operands: object, start, stop, step; the last three may be null
  kCall,
  kFilter,
  kTest,
  kConditional,  // operands: test, then, otherwise; the last may be null
  kAnd,
  kOr,
  kNot,
  kNegative,
  kPositive,
  kArithmetic,  // text: the operator
  kConcatenate,
  kCompare,  // operands; operators: one fewer
};

struct Expression {
  Op op = Op::kConstant;
  int line = 1;
  int height = 1;
  std::string text;  // a name, an attribute, an operator
  Value constant;
  Place place;
  std::vector<ExpressionPtr>
      operands;  // those of a filter, a test or a call begin with what it is of
  std::vector<std::string> operators;
  std::unique_ptr<CallArguments> arguments;
};

struct Statement;
using Body = std::vector<Statement>;

struct Parameter {
  std::string name;
  int slot = 0;
  ExpressionPtr default_value;
};

// A macro, or the body of a call block or of a generation block.
struct MacroSyntax {
  std::string name;
  std::vector<Parameter> parameters;
  int caller = -1, kwargs = -1, varargs = -1;  // slots of what the body asks for by these names
  bool explicit_caller = false;
  std::unique_ptr<Function> function;
  Frame frame;
};

struct Branch {
  ExpressionPtr test;
  Body body;
};

struct Statement {
  enum class Kind : uint8_t {
    kData,
    kPrint,
    kIf,
    kFor,
    kSet,
    kSetBlock,
    kMacro,
    kCallBlock,
    kGeneration,
    kFilterBlock,
    kWith,
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kData;
  int line = 1;
  std::string text;  // of kData
  ExpressionPtr target;
  ExpressionPtr value;  // what is printed, looped over, assigned, called, or a filter of a block
  ExpressionPtr test, test_target;                            // of a loop
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> with;  // targets and values
  std::vector<Branch> branches;                               // of an if
  Body body, otherwise;
  Frame frame, test_frame, otherwise_frame;
  int loop_slot = -1;  // of a loop whose body asks for `loop`
  std::unique_ptr<MacroSyntax> macro;
  Place caller;  // of a macro: where it is put
};

struct Template {
  Body body;
  Function function;
  Frame frame;
  bool marks_generation = false;  // has generation blocks
};

// Binds the names of a template to places, by the rules of Jinja's compiler: a name that a body
// sets is the body's own from its start; one that it only reads is that of the bodies around it, or
// of the context. `name` is the template's in errors.
void bind_names(Template& of, const std::string& name);

}  // namespace refrain::text::jinja

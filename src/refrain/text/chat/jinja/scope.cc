#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "refrain/base/error.h"
#include "refrain/text/chat/jinja/syntax.h"

namespace refrain::text::jinja {
namespace {

using Names = std::set<std::string, std::less<>>;

// The names of one frame: where they are, how they begin, and which of them the frame sets.
struct Symbols {
  struct Start {
    enum class From : uint8_t { kParameter, kNothing, kContext, kOuter } from;
    std::string name;
    Place outer;
  };

  Symbols(Symbols* outside, Function* of)
      : parent(outside), function(of), slots(std::make_shared<std::map<std::string, int>>()) {}

  std::optional<Place> find_from(const Function* from, const std::string& name) const {
    int hops = 0;
    for (const Symbols* s = this; s; s = s->parent) {
      for (; from != s->function; from = from->outer) ++hops;
      if (const auto at = s->refs.find(name); at != s->refs.end()) return Place{hops, at->second};
    }
    return {};
  }
  std::optional<Place> find(const std::string& name) const { return find_from(function, name); }
  std::optional<Place> find_outside(const std::string& name) const {
    return parent ? parent->find_from(function, name) : std::nullopt;
  }

  int define(const std::string& name, Start start) {
    // Branches of an `if` share the place of a name.
    const auto [at, is_new] = slots->try_emplace(name, function->slots);
    if (is_new) ++function->slots;
    refs[name] = at->second;
    starts[at->second] = std::move(start);
    return at->second;
  }

  void load(const std::string& name) {
    if (!find(name)) define(name, {Start::From::kContext, name, {}});
  }
  void store(const std::string& name) {
    stores.insert(name);
    if (refs.contains(name)) return;
    if (const auto outside = find_outside(name)) {
      define(name, {Start::From::kOuter, {}, *outside});
    } else {
      define(name, {Start::From::kNothing, {}, {}});
    }
  }
  int declare_parameter(const std::string& name) {
    stores.insert(name);
    return define(name, {Start::From::kParameter, {}, {}});
  }

  void join(const std::vector<Symbols>& branches) {
    Names set_in_branches;
    for (const Symbols& branch : branches)
      for (const std::string& name : branch.stores)
        if (!stores.contains(name)) set_in_branches.insert(name);
    for (const Symbols& branch : branches) {
      for (const auto& [name, slot] : branch.refs) refs[name] = slot;
      for (const auto& [slot, start] : branch.starts) starts[slot] = start;
      stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const std::string& name : set_in_branches) {
      if (const auto outside = find_outside(name)) {
        starts[refs.at(name)] = {Start::From::kOuter, {}, *outside};
      } else {
        starts[refs.at(name)] = {Start::From::kContext, name, {}};
      }
    }
  }

  Frame frame() const {
    Frame made;
    for (const auto& [slot, start] : starts) {
      made.slots.push_back(slot);
      if (start.from == Start::From::kParameter) continue;
      Load load;
      load.slot = slot;
      load.from = start.from == Start::From::kNothing   ? Load::From::kNothing
                  : start.from == Start::From::kContext ? Load::From::kContext
                                                        : Load::From::kOuter;
      load.name = start.name;
      load.outer = start.outer;
      made.loads.push_back(std::move(load));
    }
    return made;
  }

  Symbols* parent;
  Function* function;
  std::shared_ptr<std::map<std::string, int>> slots;
  std::map<std::string, int> refs;
  std::map<int, Start> starts;
  Names stores;
};

// Those of `names` that are read before they are set, in the order of Jinja's search.
class Undeclared {
 public:
  explicit Undeclared(Names names) : names_(std::move(names)) {}

  bool in(const Body& body, std::string_view name) {
    visit(body);
    return found_.contains(name);
  }
  const Names& found() const { return found_; }

  void visit(const Body& body) {
    for (const Statement& statement : body) visit(statement);
  }

 private:
  void visit(const Statement& s) {
    if (s.kind == Statement::Kind::kMacro) {
      visit(*s.macro);
    } else if (s.kind == Statement::Kind::kFilterBlock) {
      visit(s.body);
      visit(s.value.get());
      return;
    } else {
      if (s.kind == Statement::Kind::kCallBlock) visit(s.value.get());
      if (s.macro) visit(*s.macro);
      if (s.target) visit_target(*s.target);
      for (const auto& [target, value] : s.with) visit_target(*target);
      for (const auto& [target, value] : s.with) visit(value.get());
      if (s.kind != Statement::Kind::kCallBlock) visit(s.value.get());
    }
    for (const Branch& branch : s.branches) {
      visit(branch.test.get());
      visit(branch.body);
    }
    visit(s.body);
    visit(s.otherwise);
    visit(s.test.get());
  }
  void visit(const MacroSyntax& macro) {
    for (const Parameter& parameter : macro.parameters) names_.erase(parameter.name);
    for (const Parameter& parameter : macro.parameters) visit(parameter.default_value.get());
  }
  void visit_target(const Expression& e) {
    if (e.op == Op::kName) names_.erase(e.text);
    if (e.op == Op::kTuple)
      for (const ExpressionPtr& item : e.operands) visit_target(*item);
  }
  void visit(const Expression* e) {
    if (!e) return;
    if (e->op == Op::kName && names_.contains(e->text)) found_.insert(e->text);
    for (const ExpressionPtr& child : e->operands) visit(child.get());
    if (!e->arguments) return;
    for (const ExpressionPtr& child : e->arguments->positional) visit(child.get());
    for (const auto& [name, child] : e->arguments->named) visit(child.get());
    visit(e->arguments->star.get());
    visit(e->arguments->star_star.get());
  }

  Names names_, found_;
};

class Binder {
 public:
  explicit Binder(const std::string& name) : name_(name) {}

  void bind(Template& of) {
    Symbols root(nullptr, &of.function);
    analyze(of.body, root);
    of.frame = root.frame();
    bind(of.body, root);
  }

 private:
  // What a frame reads and sets, without the frames in it.
  void analyze(const Body& body, Symbols& symbols) {
    for (const Statement& statement : body) analyze(statement, symbols);
  }

  void analyze(const Statement& s, Symbols& symbols) {
    using enum Statement::Kind;
    switch (s.kind) {
      case kIf: {
        analyze(s.branches[0].test.get(), symbols);
        std::vector<Symbols> branches(3, copy(symbols));
        analyze(s.branches[0].body, branches[0]);
        for (size_t i = 1; i < s.branches.size(); ++i) {
          analyze(s.branches[i].test.get(), branches[1]);
          std::vector<Symbols> inner(1, copy(branches[1]));
          analyze(s.branches[i].body, inner[0]);
          branches[1].join(inner);
        }
        analyze(s.otherwise, branches[2]);
        symbols.join(branches);
        break;
      }
      case kMacro:
        symbols.store(s.target->text);
        break;
      case kWith:
        for (const auto& [target, value] : s.with) analyze(value.get(), symbols);
        break;
      case kSetBlock:
        store(*s.target, symbols, false);
        break;
      case kSet:
        analyze(s.value.get(), symbols);
        store(*s.target, symbols, false);
        break;
      default:
        analyze(s.value.get(), symbols);
    }
  }

  void analyze(const Expression* e, Symbols& symbols) {
    if (!e) return;
    if (e->op == Op::kName) symbols.load(e->text);
    for (const ExpressionPtr& child : e->operands) analyze(child.get(), symbols);
    if (!e->arguments) return;
    for (const ExpressionPtr& child : e->arguments->positional) analyze(child.get(), symbols);
    for (const auto& [name, child] : e->arguments->named) analyze(child.get(), symbols);
    analyze(e->arguments->star.get(), symbols);
    analyze(e->arguments->star_star.get(), symbols);
  }

  void store(const Expression& target, Symbols& symbols, bool parameter) {
    if (target.op == Op::kTuple) {
      for (const ExpressionPtr& item : target.operands) store(*item, symbols, parameter);
    } else if (target.op == Op::kNamespaceAttribute) {
      symbols.load(target.operands[0]->text);
    } else if (parameter) {
      symbols.declare_parameter(target.text);
    } else {
      symbols.store(target.text);
    }
  }

  // Copies for each branch are as long as there are names.
  Symbols copy(const Symbols& of) {
    constexpr int64_t kMostWork = 5'000'000;
    work_ += 3 * static_cast<int64_t>(of.refs.size() + of.starts.size() + of.stores.size());
    if (work_ > kMostWork) throw_error("{}: too many names and branches", name_);
    return of;
  }

  // Places of the names.
  void bind(Body& body, Symbols& symbols) {
    for (Statement& statement : body) bind(statement, symbols);
  }

  void bind(Statement& s, Symbols& symbols) {
    using enum Statement::Kind;
    switch (s.kind) {
      case kIf:
        for (Branch& branch : s.branches) {
          bind(branch.test.get(), symbols);
          bind(branch.body, symbols);
        }
        bind(s.otherwise, symbols);
        break;
      case kFor:
        bind_for(s, symbols);
        break;
      case kSetBlock: {
        Symbols inner(&symbols, symbols.function);
        analyze(s.body, inner);
        analyze(s.value.get(), inner);
        s.frame = inner.frame();
        bind(s.target.get(), symbols);
        bind(s.value.get(), inner);
        bind(s.body, inner);
        break;
      }
      case kFilterBlock: {
        Symbols inner(&symbols, symbols.function);
        analyze(s.body, inner);
        analyze(s.value.get(), inner);
        s.frame = inner.frame();
        bind(s.value.get(), inner);
        bind(s.body, inner);
        break;
      }
      case kWith: {
        Symbols inner(&symbols, symbols.function);
        for (const auto& [target, value] : s.with) store(*target, inner, true);
        analyze(s.body, inner);
        s.frame = inner.frame();
        for (auto& [target, value] : s.with) {
          bind(target.get(), inner);
          bind(value.get(), symbols);
        }
        bind(s.body, inner);
        break;
      }
      case kMacro:
        bind(s.target.get(), symbols);
        for (Function* f = symbols.function; f; f = f->outer) f->is_outer = true;
        bind_macro(s, symbols);
        break;
      case kCallBlock:
        bind(s.value.get(), symbols);
        for (Function* f = symbols.function; f; f = f->outer) f->is_outer = true;
        bind_macro(s, symbols);
        break;
      case kGeneration:
        bind_macro(s, symbols);
        break;
      default:
        bind(s.value.get(), symbols);
        bind(s.target.get(), symbols);
    }
  }

  static ExpressionPtr clone_target(const Expression& target) {
    auto made = std::make_unique<Expression>();
    made->op = target.op;
    made->line = target.line;
    made->text = target.text;
    for (const ExpressionPtr& item : target.operands) made->operands.push_back(clone_target(*item));
    return made;
  }

  void bind_for(Statement& s, Symbols& symbols) {
    bind(s.value.get(), symbols);
    Symbols inner(&symbols, symbols.function);
    if (Undeclared({"loop"}).in(s.body, "loop")) s.loop_slot = inner.declare_parameter("loop");
    store(*s.target, inner, true);
    analyze(s.body, inner);
    s.frame = inner.frame();
    if (s.test) {
      Symbols test(&symbols, symbols.function);
      s.test_target = clone_target(*s.target);
      store(*s.target, test, true);
      analyze(s.test.get(), test);
      s.test_frame = test.frame();
      bind(s.test_target.get(), test);
      bind(s.test.get(), test);
    }
    bind(s.target.get(), inner);
    bind(s.body, inner);
    Symbols otherwise(&symbols, symbols.function);
    analyze(s.otherwise, otherwise);
    s.otherwise_frame = otherwise.frame();
    bind(s.otherwise, otherwise);
  }

  void bind_macro(Statement& s, Symbols& symbols) {
    MacroSyntax& macro = *s.macro;
    macro.function = std::make_unique<Function>();
    macro.function->outer = symbols.function;
    Symbols inner(&symbols, macro.function.get());
    for (Parameter& parameter : macro.parameters) {
      parameter.slot = inner.declare_parameter(parameter.name);
      if (parameter.name == "caller") macro.explicit_caller = true;
    }
    for (const Parameter& parameter : macro.parameters)
      analyze(parameter.default_value.get(), inner);
    analyze(s.body, inner);
    Undeclared undeclared({"caller", "kwargs", "varargs"});
    undeclared.visit(s.body);
    const auto asks_for = [&](std::string_view name) {
      if (!undeclared.found().contains(name)) return -1;
      for (const Parameter& parameter : macro.parameters) {
        if (parameter.name != name) continue;
        if (name == "caller" && !parameter.default_value)
          throw_error("{}: line {}: the parameter 'caller' needs a default", name_, s.line);
        return -1;
      }
      return inner.declare_parameter(std::string(name));
    };
    macro.caller = asks_for("caller");
    macro.kwargs = asks_for("kwargs");
    macro.varargs = asks_for("varargs");
    macro.frame = inner.frame();
    for (Parameter& parameter : macro.parameters) bind(parameter.default_value.get(), inner);
    bind(s.body, inner);
  }

  void bind(Expression* e, Symbols& symbols) {
    if (!e) return;
    if (e->op == Op::kName) {
      const auto place = symbols.find(e->text);
      REFRAIN_CHECK(place);
      e->place = *place;
    }
    for (const ExpressionPtr& child : e->operands) bind(child.get(), symbols);
    if (!e->arguments) return;
    for (const ExpressionPtr& child : e->arguments->positional) bind(child.get(), symbols);
    for (const auto& [name, child] : e->arguments->named) bind(child.get(), symbols);
    bind(e->arguments->star.get(), symbols);
    bind(e->arguments->star_star.get(), symbols);
  }

  const std::string& name_;
  int64_t work_ = 0;
};

}  // namespace

void bind_names(Template& of, const std::string& name) { Binder(name).bind(of); }

}  // namespace refrain::text::jinja

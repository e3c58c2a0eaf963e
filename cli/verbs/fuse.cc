// An adapter and its base as one model.
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "refrain/formats/peft.h"
#include "refrain/io/file.h"

namespace refrain::cli {
namespace {

struct Fuse {
  std::string model, adapter, out;

  template <class V>
  void visit(V&& v) {
    v("model", model, "model directory: the base");
    v("adapter", adapter, kAdapterHelp);
    v("out", out, "model directory to write; must be new or empty");
  }

  int run(const CommandLine& line) {
    line.require({"model", "adapter", "out"});
    require_new_directory(out);
    require_language_model(model);
    SpecialTokens special;
    const text::Tokenizer tokenizer = load_tokenizer(model);
    const auto base = load_model(model, &special, note);
    if (base->parameters().is_packed())
      throw_error("{}: expected weights as rows, found a quantised model's ({})", model,
                  kernels::name_of(base->parameters().storage()));
    const std::unique_ptr<Lora> lora = load_adapter(adapter, *base, note).lora;
    lora->merge_into(base->parameters());
    make_parent(out);
    io::AtomicDirectory directory(out);
    save_model(directory.path(), *base, special);
    tokenizer.save(directory.path());
    TextFiles::read(model).write(directory.path());
    if (const auto task = data::read_task(model)) data::write_task(directory.path(), *task);
    directory.commit();
    note(fmt::format("{}: {} with {} tensors of {}", out, model,
                     lora->parameters().file_tensors().size(), adapter));
    return 0;
  }
};

}  // namespace

Verb fuse_verb() {
  return make_verb<Fuse>(
      "fuse", "add an adapter to its base, as one model", "-m DIR --adapter DIR -o DIR",
      "The model that is written computes what the base with the adapter does, but "
      "for the\nrounding of weights to float32. Any program that reads the base "
      "reads it.");
}

}  // namespace refrain::cli

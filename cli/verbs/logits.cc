// The logits of a sequence of ids, to compare with other programs.
#include <numeric>

#include "cli/finite.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/verbs.h"
#include "refrain/io/safetensors.h"
#include "refrain/model/workspace.h"

namespace refrain::cli {
namespace {

struct Logits {
  std::string model, adapter, ids, out;

  template <class V>
  void visit(V&& v) {
    v("model", model, kModelHelp);
    v("adapter", adapter, kAdapterHelp);
    v("ids", ids, "token ids: \"1 403 407\"");
    v("out", out, "safetensors file to write; its tensor \"logits\" is [ids, vocabulary]");
  }

  void check(const CommandLine&) const { parse_ids(ids, "--ids"); }

  int run(const CommandLine& line) {
    line.require({"model", "ids", "out"});
    check_target("--out", out, {model, adapter});
    const std::vector<int32_t> tokens = parse_ids(ids, "--ids");
    const auto loaded = load_as_stored(model);
    const auto lora = adapt(*loaded, adapter);
    const int64_t V = loaded->config().vocab_size, T = static_cast<int64_t>(tokens.size());
    for (const int32_t id : tokens)
      if (id >= V) throw_error("--ids: expected ids of 0 to {}, found {}", V - 1, id);
    if (T == 0 || T > (int64_t{1} << 31) / V)
      throw_error("--ids: expected 1 to {} ids, found {}", (int64_t{1} << 31) / V, T);
    std::vector<int32_t> rows(tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<float> values(static_cast<size_t>(T * V));
    RaggedBatchBuilder builder;
    const RaggedBatch w = builder.whole(1, T);
    Workspace().run({}, [&](ExecutionContext& ctx, Arena&) {
      loaded->logits(ctx, w, tokens, {}, rows, {values.data(), {T, V}});
    });
    expect_finite(model, "logits", std::span<const float>(values));
    io::write_safetensors(out, std::vector<io::TensorToWrite>{{"logits", {T, V}, values.data()}},
                          {});
    return 0;
  }
};

}  // namespace

Verb logits_verb() {
  return make_verb<Logits>("logits", "write a model's logits for given ids",
                           "-m DIR --ids \"1 2 3\" --out FILE");
}

}  // namespace refrain::cli

// The three products of every linear map of two transformers; in float32, against the multiply-add
// units.
#include "bench/sections/sections.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {
namespace {

struct Map {
  const char* name;
  int64_t rows, out, in;
};

struct Product {
  const char* name;
  MatrixView<const float> a, b;
  Tensor c;
  std::function<void(Arena&)> run;
};

void time_map(const Setup& setup, Report& report, const Map& map) {
  const int64_t R = map.rows, out = map.out, in = map.in;
  const Buffer<float> x = uniform(R * in, 1), w = uniform(out * in, 2), dy = uniform(R * out, 3);
  Buffer<float> y(dy.size()), dx(x.size()), dw(w.size());
  const ConstTensor tx(x.data(), {R, in}), tw(w.data(), {out, in}), tdy(dy.data(), {R, out});
  const Tensor ty(y.data(), {R, out}), tdx(dx.data(), {R, in}), tdw(dw.data(), {out, in});
  const int32_t chunk[] = {0, static_cast<int32_t>(R)};
  const kernels::MatmulOptions features{setup.compute_type, {}}, rows{setup.compute_type, chunk};
  const bool exact = setup.compute_type == kernels::ComputeType::kFloat32;
  const double operations = 2 * static_cast<double>(R * out) * static_cast<double>(in);
  using view = MatrixView<const float>;
  Workspace workspace;
  for (const Product& p : {
           Product{"forward", tx, view(tw).transposed(), ty,
                   [&](Arena& s) { kernels::linear_forward(tx, tw, ty, s, nullptr, features); }},
           Product{"backward, input", tdy, tw, tdx,
                   [&](Arena& s) { kernels::linear_backward_input(tdy, tw, tdx, s, features); }},
           Product{"backward, weight", view(tdy).transposed(), tx, tdw,
                   [&](Arena& s) { kernels::linear_backward_weight(tdy, tx, tdw, s, rows); }},
       }) {
    const Work work = [&] {
      workspace.run({}, [&](ExecutionContext& ctx, Arena&) { p.run(ctx.scratch); });
    };
    Row row{.section = "products",
            .name = fmt::format("{}{}: {}", map.name, in_compute_type(setup.compute_type), p.name),
            .shape = fmt::format("{} rows, {} -> {}", R, in, out)};
    Check check;
    work();  // a weight's gradient, which is added to, starts at zero here
    setup.planted.in_output(p.c);
    check_product(check, p.a, p.b, p.c, exact ? 0 : 0x1p-10);
    if (check.passed()) {
      row.timing = time_of(setup.repetitions, work);
      row.rate = operations / row.timing.median / 1e9;
      row.unit = "GFLOP/s";
      if (exact) row.ceiling = setup.ceilings.multiply_adds / 1e9;
    }
    report.add(row, check);
  }
}

}  // namespace

void time_products(const Setup& setup, Report& report) {
  // Of 6 blocks, 384 wide, and of 12, 768 wide, with 50,304 tokens; its logits are made in slices.
  const int64_t rows = setup.batch_tokens, slice = std::min<int64_t>(rows, 256);
  for (const Map& map : {Map{"10.7 M q, k, v", rows, 3 * 384, 384},
                         {"10.7 M output", rows, 384, 384},
                         {"10.7 M gate, up", rows, 2 * 1024, 384},
                         {"10.7 M down", rows, 384, 1024},
                         {"124 M q, k, v", rows, 3 * 768, 768},
                         {"124 M output", rows, 768, 768},
                         {"124 M gate, up", rows, 2 * 2048, 768},
                         {"124 M down", rows, 768, 2048},
                         {"124 M logits", slice, 50304, 768}})
    time_map(setup, report, map);
  report.end_section();
}

}  // namespace refrain::bench

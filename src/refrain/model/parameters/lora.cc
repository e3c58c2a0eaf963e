#include "refrain/model/parameters/lora.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

constexpr std::string_view kWeight = ".weight";

bool is_linear(const ParamSpec& spec) {
  return spec.read_by == ReadBy::kProducts && spec.shape.size() == 2 && block_of(spec.name) &&
         spec.name.ends_with(kWeight);
}

std::string without_weight(const std::string& name) {
  return name.substr(0, name.size() - kWeight.size());
}

// The modules that a tensor is.
std::vector<ParamPart> modules_of(const ParamSpec& spec) {
  std::vector<ParamPart> modules = spec.parts;
  if (modules.empty()) modules.push_back({spec.name, spec.shape[0]});
  for (ParamPart& module : modules) module.name = without_weight(module.name);
  return modules;
}

}  // namespace

std::vector<LinearModule> linear_modules(const ParameterStore& store,
                                         const std::function<bool(size_t)>& adapts) {
  std::vector<LinearModule> all;
  for (const auto& entry : store.entries()) {
    const ParamSpec& spec = entry.spec;
    if (!is_linear(spec)) continue;
    if (spec.name.find(".mixer.") != spec.name.npos && !adapts(*block_of(spec.name))) continue;
    for (const ParamPart& module : modules_of(spec))
      all.push_back({module.name, module.rows, spec.shape[1]});
  }
  return all;
}

Lora::Lora(const ParameterStore& base, std::span<const LoraModule> modules, float dropout) {
  struct Added {
    const ParamSpec* of;
    Adapter* adapter;
    std::vector<ParamPart> parts;  // modules, with their ranks
  };
  std::vector<Added> all;
  size_t found = 0;
  for (const auto& entry : base.entries()) {
    if (!is_linear(entry.spec)) continue;
    std::vector<Adapter::Part> parts;
    std::vector<ParamPart> names;
    int64_t row = 0;
    for (const ParamPart& module : modules_of(entry.spec)) {
      const auto its = std::ranges::find(modules, module.name, &LoraModule::name);
      if (its != modules.end()) {
        parts.push_back({row, module.rows, its->rank, its->scale});
        names.push_back({module.name, its->rank});
        ++found;
      }
      row += module.rows;
    }
    if (parts.empty()) continue;
    Adapter& adapter =
        adapters_.add(entry.param->index, entry.spec.shape[1], std::move(parts), dropout);
    all.push_back({&entry.spec, &adapter, std::move(names)});
  }
  REFRAIN_CHECK(found == modules.size());
  parameters_.declare([&](const ParamVisitor& v) {
    for (Added& one : all) {
      const bool is_fused = !one.of->parts.empty();
      std::vector<ParamPart> files;
      for (const ParamPart& part : one.parts)
        if (is_fused) files.push_back({part.name + ".lora_A.weight", part.rows});
      v({without_weight(one.of->name) + ".lora_A.weight",
         {one.adapter->rank(), one.adapter->in()},
         Init::bias(one.adapter->in()),
         true,
         files},
        one.adapter->a());
      for (size_t i = 0; i < one.parts.size(); ++i) {
        Adapter::Part& part = one.adapter->parts()[i];
        v({one.parts[i].name + ".lora_B.weight",
           {part.outputs, part.rank},
           Init::constant(0),
           true},
          part.b);
      }
    }
  });
}

void Lora::initialize(uint64_t seed) { parameters_.initialize(seed, {InitScheme::kFanIn}); }

void Lora::merge_into(ParameterStore& base) const {
  REFRAIN_CHECK(!base.is_packed());
  for (const auto& entry : base.entries()) {
    const Adapter* adapter = adapters_.of(*entry.param);
    if (!adapter) continue;
    const ConstTensor a = adapter->a().w;
    for (const Adapter::Part& part : adapter->parts())
      parallel_ranges(part.outputs, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          float* w = entry.param->w.row(part.first + row);
          for (int64_t i = 0; i < a.cols(); ++i) {
            double sum = 0;
            for (int64_t r = 0; r < part.rank; ++r)
              sum += static_cast<double>(part.b.w.row(row)[r]) *
                     static_cast<double>(a.row(part.at + r)[i]);
            w[i] = static_cast<float>(w[i] + static_cast<double>(part.scale) * sum);
          }
        }
      });
  }
}

}  // namespace refrain

// The mixers there are, by name: those of the library, and those that a program adds.
#pragma once
#include <complex>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "refrain/base/setting_map.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

// visit(name, default as text, help) of a setting.
using SettingVisitor =
    std::function<void(const std::string&, const std::string&, const std::string&)>;

// The plain twin of a kind, one sequence from its start: y [tokens, D] = mix(x [tokens, D]).
// weights: in visiting order; `state` is zero on entry and holds, number by number, what a float
// row of the mixer's state would. T is double or std::complex<double>.
template <class T>
using MixerReference = void (*)(const std::string& prefix, const MixerDims&, const SettingMap&,
                                std::span<const std::vector<T>> weights, int64_t tokens, const T* x,
                                T* y, T* state);

// What the registry knows of a kind. Settings are read under `prefix`: the kind's name and a dot.
struct MixerKind {
  const MixerTraits* traits;
  std::unique_ptr<Mixer> (*make)(const std::string& prefix, const MixerDims&, const SettingMap&);
  void (*put)(const std::string& prefix, const SettingMap&, SettingMap& to);
  void (*visit)(const std::string& prefix, const SettingVisitor&);
  MixerReference<double> in_double;
  MixerReference<std::complex<double>> in_complex;
};

// Of a mixer M(const MixerDims&, const Config&) with M::kTraits; Config lists its settings
// (base/setting_map.h); Ref<T>{shape, config}.forward(weights, first, tokens, x, y, state) is its
// specification.
template <class M, class Config, template <class> class Ref>
MixerKind mixer_kind();

// Adds a kind that the library does not have, for this process; to be called before models are
// made. The name is one word of lower-case letters, digits and underscores that is not taken.
void register_mixer(const std::string& name, const MixerKind&);

// Unknown kinds are an Error that lists the known ones.
std::unique_ptr<Mixer> make_mixer(const std::string& kind, const MixerDims&, const SettingMap&);
const MixerTraits& mixer_traits(const std::string& kind);

std::vector<std::string> mixer_kinds();

// The names of the parts that some kind can compute again (RecomputePart), each once.
std::vector<std::string> recompute_parts();

// The kind of a stack whose pattern is not given.
inline constexpr const char* kDefaultMixer = "attention";

template <class T>
void reference_forward(const std::string& kind, const MixerDims&, const SettingMap&,
                       std::span<const std::vector<T>> weights, int64_t tokens, const T* x, T* y,
                       T* state);

// The settings of a kind as text, with those of `options` filled in.
void put_mixer_settings(const std::string& kind, const SettingMap& options, SettingMap& to);

// Every setting of every mixer, names with their prefix (attention.rope_theta).
void visit_mixer_settings(const SettingVisitor&);

template <class T, template <class> class Ref, class Config>
void run_reference(const std::string& prefix, const MixerDims& shape, const SettingMap& options,
                   std::span<const std::vector<T>> weights, int64_t tokens, const T* x, T* y,
                   T* state) {
  Ref<T>{shape, options.get<Config>(prefix)}.forward(weights, 0, tokens, x, y, state);
}

template <class M, class Config, template <class> class Ref>
MixerKind mixer_kind() {
  return {&M::kTraits,
          [](const std::string& prefix, const MixerDims& shape,
             const SettingMap& options) -> std::unique_ptr<Mixer> {
            return std::make_unique<M>(shape, options.get<Config>(prefix));
          },
          [](const std::string& prefix, const SettingMap& options, SettingMap& to) {
            to.put(prefix, options.get<Config>(prefix));
          },
          [](const std::string& prefix, const SettingVisitor& visit) {
            Config().visit([&](const char* name, auto& field, const char* help) {
              visit(prefix + name, SettingMap::text(field), help);
            });
          },
          run_reference<double, Ref, Config>,
          run_reference<std::complex<double>, Ref, Config>};
}

}  // namespace refrain

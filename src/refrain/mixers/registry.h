// The registry of mixers by name: those of the library, and those that a program adds.
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
#include "refrain/mixers/mixer_config.h"

namespace refrain {

// A setting of a mixer as a list of all settings shows it.
struct MixerSetting {
  enum class Type { kSwitch, kWhole, kNumber, kText };
  std::string name;  // with its prefix
  Type type;
  std::string by_default;  // as text
  std::string help;
};
using SettingVisitor = std::function<void(const MixerSetting&)>;

template <class T>
constexpr MixerSetting::Type setting_type() {
  using Type = MixerSetting::Type;
  return std::is_same_v<T, bool>       ? Type::kSwitch
         : std::is_integral_v<T>       ? Type::kWhole
         : std::is_floating_point_v<T> ? Type::kNumber
                                       : Type::kText;
}

// One sequence from its start.
template <class T>
struct MixerSequence {
  std::span<const std::vector<T>> weights;  // in visiting order
  int64_t tokens;
  const T* x;  // [tokens, D]
  T* y;        // [tokens, D]
  T* state;    // zero on entry; number by number what a float row of the mixer's state holds
};

// The reference implementation of a kind: y = mix(x). T is double or std::complex<double>.
template <class T>
using MixerReference = void (*)(const MixerConfig&, const MixerDims&, const MixerSequence<T>&);

// What the registry knows of a kind. Settings as text have names that begin with `prefix`: the
// kind's name and a dot.
struct MixerKind {
  const MixerTraits* traits;
  std::unique_ptr<Mixer> (*make)(const MixerConfig&, const MixerDims&);
  MixerConfig (*parse)(const std::string& kind, const SettingMap&);
  void (*put)(const MixerConfig&, SettingMap& to);
  void (*visit)(const std::string& prefix, const SettingVisitor&);
  MixerReference<double> in_double;
  MixerReference<std::complex<double>> in_complex;
};

// Of a mixer M(const MixerDims&, const Config&) with M::kTraits; Config lists its settings
// (base/setting_map.h); Ref<T>{shape, config}.forward(weights, first, tokens, x, y, state) is its
// specification.
template <class M, class Config, template <class> class Ref>
MixerKind mixer_kind();

// Adds a kind that the library does not have, for this process. Call it before models are made. The
// name is one word of lower-case letters, digits and underscores that is not taken.
void register_mixer(const std::string& name, const MixerKind&);

// Unknown kinds are an Error that lists the known ones.
MixerConfig parse_mixer(const std::string& kind, const SettingMap& = {});
std::unique_ptr<Mixer> make_mixer(const MixerConfig&, const MixerDims&);
const MixerTraits& mixer_traits(const std::string& kind);

std::vector<std::string> mixer_kinds();

// The names of all parts that some kind can recompute (RecomputePart), each once.
std::vector<std::string> recompute_parts();

// The kind of mixer if no pattern is given.
inline constexpr const char* kDefaultMixer = "attention";

template <class T>
void reference_forward(const MixerConfig&, const MixerDims&, const MixerSequence<T>&);

// Writes all settings of a mixer as text, with its kind as prefix.
void put_mixer_settings(const MixerConfig&, SettingMap& to);

// Every setting of every mixer, names with their prefix (attention.rope_theta).
void visit_mixer_settings(const SettingVisitor&);

template <class T, template <class> class Ref, class Config>
void run_reference(const MixerConfig& config, const MixerDims& dims, const MixerSequence<T>& s) {
  Ref<T>{dims, config.as<Config>()}.forward(s.weights, 0, s.tokens, s.x, s.y, s.state);
}

template <class M, class Config, template <class> class Ref>
MixerKind mixer_kind() {
  return {&M::kTraits,
          [](const MixerConfig& config, const MixerDims& dims) -> std::unique_ptr<Mixer> {
            return std::make_unique<M>(dims, config.as<Config>());
          },
          [](const std::string& kind, const SettingMap& settings) {
            return MixerConfig(kind, settings.get<Config>(kind + "."));
          },
          [](const MixerConfig& config, SettingMap& to) {
            to.put(config.kind() + ".", config.as<Config>());
          },
          [](const std::string& prefix, const SettingVisitor& visit) {
            Config().visit([&](const char* name, auto& field, const char* help) {
              visit({prefix + name, setting_type<std::decay_t<decltype(field)>>(),
                     SettingMap::text(field), help});
            });
          },
          run_reference<double, Ref, Config>,
          run_reference<std::complex<double>, Ref, Config>};
}

}  // namespace refrain

// The mixers there are, by name.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "refrain/base/options.h"
#include "refrain/mixers/mixer.h"
#include "refrain/mixers/shape.h"

namespace refrain {

// Settings are read under "<kind>." (attention.rope_theta). Unknown kinds are an Error that lists
// the known ones.
std::unique_ptr<Mixer> make_mixer(const std::string& kind, const MixerShape&, const Options&);

std::vector<std::string> mixer_kinds();

// The plain twin of a kind, one sequence from its start: y [tokens, D] = mix(x [tokens, D]).
// weights: in visiting order; `state` is zero on entry and holds, number by number, what a float
// row of the mixer's state would. T is double or std::complex<double>.
template <class T>
void reference_forward(const std::string& kind, const MixerShape&, const Options&,
                       std::span<const std::vector<T>> weights, int64_t tokens, const T* x, T* y,
                       T* state);

// The settings of a kind as text, with those of `options` filled in.
void put_mixer_settings(const std::string& kind, const Options& options, Options& to);

// visit(name, default as text, help) for every setting of every mixer, names with their prefix.
void visit_mixer_settings(
    const std::function<void(const std::string&, const std::string&, const std::string&)>& visit);

}  // namespace refrain

#include "refrain/mixers/registry.h"

#include <algorithm>
#include <map>

#include "refrain/mixers/attention/ref.h"
#include "refrain/mixers/attention_rnn/ref.h"
#include "refrain/mixers/gla/ref.h"
#include "refrain/mixers/gru/ref.h"
#include "refrain/mixers/lstm/ref.h"
#include "refrain/mixers/mm_rec/ref.h"
#include "refrain/mixers/rnn/ref.h"

namespace refrain {
namespace {

// A new mixer adds one line here.
std::map<std::string, MixerKind>& entries() {
  static std::map<std::string, MixerKind> all = {
      {"attention", mixer_kind<Attention, AttentionConfig, AttentionRef>()},
      {"attention_rnn", mixer_kind<AttentionRnn, AttentionRnnConfig, AttentionRnnRef>()},
      {"gla", mixer_kind<Gla, GlaConfig, GlaRef>()},
      {"gru", mixer_kind<Gru, GruConfig, GruRef>()},
      {"lstm", mixer_kind<Lstm, LstmConfig, LstmRef>()},
      {"mm_rec", mixer_kind<MmRec, MmRecConfig, MmRecRef>()},
      {"rnn", mixer_kind<Rnn, RnnConfig, RnnRef>()},
      {"simple_rnn", mixer_kind<Gla, SimpleRnnConfig, GlaRef>()},
  };
  return all;
}

const MixerKind& find(const std::string& kind) {
  const auto it = entries().find(kind);
  if (it != entries().end()) return it->second;
  std::string known;
  for (const std::string& k : mixer_kinds()) known += (known.empty() ? "" : ", ") + k;
  throw_error(
      "pattern: no mixer is called '{:.60}'; known: {} (a model of another one needs the program that "
      "registers it)",
      kind, known);
}

}  // namespace

void register_mixer(const std::string& name, const MixerKind& kind) {
  const bool is_word = !name.empty() && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
  if (!is_word)
    throw_error("a mixer's name: expected lower-case letters, digits and underscores, found '{}'",
                name);
  if (!entries().emplace(name, kind).second) throw_error("a mixer called '{}' is known", name);
}

MixerConfig parse_mixer(const std::string& kind, const SettingMap& settings) {
  return find(kind).parse(kind, settings);
}

std::unique_ptr<Mixer> make_mixer(const MixerConfig& config, const MixerDims& dims) {
  return find(config.kind()).make(config, dims);
}

const MixerTraits& mixer_traits(const std::string& kind) { return *find(kind).traits; }

std::vector<std::string> mixer_kinds() {
  std::vector<std::string> kinds;
  for (const auto& [kind, entry] : entries()) kinds.push_back(kind);
  return kinds;
}

std::vector<std::string> recompute_parts() {
  std::vector<std::string> parts;
  for (const auto& [name, kind] : entries())
    for (const RecomputePart& part : kind.traits->recompute)
      if (std::ranges::find(parts, part.name) == parts.end()) parts.emplace_back(part.name);
  return parts;
}

template <>
void reference_forward<double>(const MixerConfig& config, const MixerDims& dims,
                               const MixerSequence<double>& sequence) {
  find(config.kind()).in_double(config, dims, sequence);
}
template <>
void reference_forward<std::complex<double>>(const MixerConfig& config, const MixerDims& dims,
                                             const MixerSequence<std::complex<double>>& sequence) {
  find(config.kind()).in_complex(config, dims, sequence);
}

void put_mixer_settings(const MixerConfig& config, SettingMap& to) {
  find(config.kind()).put(config, to);
}

void visit_mixer_settings(const SettingVisitor& visit) {
  for (const auto& [kind, entry] : entries()) entry.visit(kind + ".", visit);
}

}  // namespace refrain

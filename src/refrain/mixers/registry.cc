#include "refrain/mixers/registry.h"

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

using SettingVisitor =
    std::function<void(const std::string&, const std::string&, const std::string&)>;

template <class T>
using Reference = void (*)(const std::string& prefix, const MixerShape&, const Options&,
                           std::span<const std::vector<T>> weights, int64_t tokens, const T* x,
                           T* y, T* state);

struct Entry {
  std::unique_ptr<Mixer> (*make)(const std::string& prefix, const MixerShape&, const Options&);
  void (*put)(const std::string& prefix, const Options&, Options& to);
  void (*visit)(const std::string& prefix, const SettingVisitor&);
  Reference<double> in_double;
  Reference<std::complex<double>> in_complex;
};

template <class T, template <class> class Ref, class Config>
void run_reference(const std::string& prefix, const MixerShape& shape, const Options& options,
                   std::span<const std::vector<T>> weights, int64_t tokens, const T* x, T* y,
                   T* state) {
  Ref<T>{shape, options.get<Config>(prefix)}.forward(weights, 0, tokens, x, y, state);
}

template <class M, class Config, template <class> class Ref>
Entry entry() {
  return {[](const std::string& prefix, const MixerShape& shape,
             const Options& options) -> std::unique_ptr<Mixer> {
            return std::make_unique<M>(shape, options.get<Config>(prefix));
          },
          [](const std::string& prefix, const Options& options, Options& to) {
            to.put(prefix, options.get<Config>(prefix));
          },
          [](const std::string& prefix, const SettingVisitor& visit) {
            Config().visit([&](const char* name, auto& field, const char* help) {
              visit(prefix + name, Options::text(field), help);
            });
          },
          run_reference<double, Ref, Config>, run_reference<std::complex<double>, Ref, Config>};
}

// A new mixer adds one line here.
const std::map<std::string, Entry>& entries() {
  static const std::map<std::string, Entry> all = {
      {"attention", entry<Attention, AttentionConfig, AttentionRef>()},
      {"attention_rnn", entry<AttentionRnn, AttentionRnnConfig, AttentionRnnRef>()},
      {"gla", entry<Gla, GlaConfig, GlaRef>()},
      {"gru", entry<Gru, GruConfig, GruRef>()},
      {"lstm", entry<Lstm, LstmConfig, LstmRef>()},
      {"mm_rec", entry<MmRec, MmRecConfig, MmRecRef>()},
      {"rnn", entry<Rnn, RnnConfig, RnnRef>()},
      {"simple_rnn", entry<Gla, SimpleRnnConfig, GlaRef>()},
  };
  return all;
}

const Entry& find(const std::string& kind) {
  const auto it = entries().find(kind);
  if (it != entries().end()) return it->second;
  std::string known;
  for (const std::string& k : mixer_kinds()) known += (known.empty() ? "" : ", ") + k;
  throw_error("pattern: no mixer is called '{}'; known: {}", kind, known);
}

}  // namespace

std::unique_ptr<Mixer> make_mixer(const std::string& kind, const MixerShape& shape,
                                  const Options& options) {
  return find(kind).make(kind + ".", shape, options);
}

std::vector<std::string> mixer_kinds() {
  std::vector<std::string> kinds;
  for (const auto& [kind, entry] : entries()) kinds.push_back(kind);
  return kinds;
}

template <>
void reference_forward<double>(const std::string& kind, const MixerShape& shape,
                               const Options& options, std::span<const std::vector<double>> weights,
                               int64_t tokens, const double* x, double* y, double* state) {
  find(kind).in_double(kind + ".", shape, options, weights, tokens, x, y, state);
}
template <>
void reference_forward<std::complex<double>>(
    const std::string& kind, const MixerShape& shape, const Options& options,
    std::span<const std::vector<std::complex<double>>> weights, int64_t tokens,
    const std::complex<double>* x, std::complex<double>* y, std::complex<double>* state) {
  find(kind).in_complex(kind + ".", shape, options, weights, tokens, x, y, state);
}

void put_mixer_settings(const std::string& kind, const Options& options, Options& to) {
  find(kind).put(kind + ".", options, to);
}

void visit_mixer_settings(const SettingVisitor& visit) {
  for (const auto& [kind, entry] : entries()) entry.visit(kind + ".", visit);
}

}  // namespace refrain

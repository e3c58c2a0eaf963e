// Models in GGUF files (io/gguf/gguf.h), as llama.cpp reads and writes them. Their keys are those
// of config.json under other names, so that a file is read as the family of its architecture is
// (family.h). Tensors have their names and shapes, but for one thing: with the architecture
// "llama", channels 2i and 2i + 1 of a head rotate together, and in the files of `transformers` i
// and i + d/2, so rows of queries and keys stand in another order.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "refrain/formats/config_json.h"
#include "refrain/io/gguf/gguf.h"
#include "refrain/model/language_model.h"

namespace refrain {

// The config and the special ids. A setting that is not supported is an Error; `notes` gets those
// that are unknown.
ModelDescription read_gguf_config(const io::Gguf& file, const Notes& notes = {});

// As load_model() and load_packed_model() of checkpoint.h; `pack` says in which type. Packed as
// float32, a matrix is stored in the type of its file where there is one that holds the same
// numbers (F16, BF16, Q8_0 as q8_0, Q4_0 and Q4_1 as q4).
std::unique_ptr<LanguageModel> load_gguf(const std::string& path, SpecialTokens* special,
                                         const Notes& notes, std::optional<Storage> pack);

// As load_weights() of checkpoint.h, into rows or packed weights.
void load_gguf_weights(const std::string& path, LanguageModel& model);

// An Error that says why, if llama.cpp does not compute what the model computes.
void require_gguf_model(const ModelConfig&);

struct GgufOptions {
  io::GgufType type = io::GgufType::kF32;  // of matrices: F32, F16, BF16, Q8_0 or Q4_0
  io::GgufKeys tokenizer{};                // text::Tokenizer::to_gguf()
};
// Of rows of float32. Norms and biases stay F32, and so do matrices whose rows have no whole blocks
// (`notes` gets these). In a file of Q4_0 the output is Q8_0, as in those of llama.cpp.
void save_gguf(const std::string& path, const LanguageModel& model, const SpecialTokens& special,
               const GgufOptions& options, const Notes& notes = {});

}  // namespace refrain

// A sequence on disk, so that a later run goes on where one stopped.
//
//   bytes  0  "refrain\n"
//          8  u32 version (2), u32 type of the cache of keys and values: f32 0, bf16 1, q8_0 2
//         16  u64 fingerprint of the model: its settings and a sample of its weights
//         24  u64 tokens n, of which the first f are not in the file, u64 f
//         40  u64 begin b, u64 position p: the state has read tokens b .. b + p; f <= b + p < n
//         56  u64 draws of the sampler, u64 tokens of low confidence in a row
//         72  i32 tokens [n - f]
//             each block's state: what p tokens need of it (mixers/mixer.h)
//   at end    u64 checksum: mix_key(version, all bytes before it)
//
// Numbers are little-endian.
#pragma once
#include <string>
#include <string_view>

#include "refrain/generate/sequence.h"

namespace refrain {

// Durable and atomic.
void write_state(const std::string& path, LanguageModel& model, Sequence& sequence);

// The file is checked whole before it is used. It is an Error if it is no state file, is damaged,
// belongs to another model, or has a cache of another type than the model's is set to.
Sequence read_state(const std::string& path, LanguageModel& model);

// The same, of the bytes of such a file; `name` stands in errors.
std::string state_to_bytes(LanguageModel& model, Sequence& sequence);
Sequence state_from_bytes(std::string_view bytes, const std::string& name, LanguageModel& model);

}  // namespace refrain

// A sequence on disk, so that a later run goes on where one stopped.
//
//   bytes  0  "refrain\n"
//          8  u32 version (1), u32 zero
//         16  u64 fingerprint of the model: its settings and a sample of its weights
//         24  u64 tokens n, begin b, position p: the state has read tokens b .. b + p, and p < n -
//         b 48  u64 draws of the sampler, u64 tokens of low confidence in a row 64  i32 tokens [n]
//             each block's state: what p tokens need of it (mixers/mixer.h)
//   at end    u64 checksum: mix_key(version, all bytes before it)
//
// Numbers are little-endian.
#pragma once
#include <string>

#include "refrain/generate/sequence.h"

namespace refrain {

// Durable and atomic.
void write_state(const std::string& path, LanguageModel& model, Sequence& sequence);

// The file is checked whole before it is used: an Error if it is no state file, is damaged, or was
// left by another model.
Sequence read_state(const std::string& path, LanguageModel& model);

}  // namespace refrain

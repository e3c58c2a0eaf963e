// The rotary positions of a Hugging Face config.json: "rope_theta" and "rope_scaling" (version 4 of
// `transformers`), or "rope_parameters" (version 5). Of the ways to scale angles "linear" and
// "llama3" are supported.
#pragma once
#include <string>
#include <vector>

#include "refrain/io/json.h"
#include "refrain/mixers/attention/attention.h"

namespace refrain {

// Sets rope_theta and rope_scaling with what belongs to it. `absent_theta`: the family's base where
// the file has none. What is unknown goes into `unknown`.
void read_rope_settings(const io::Json& json, const std::string& name, double absent_theta,
                        AttentionConfig& to, std::vector<std::string>& unknown);
// Without rotary positions, and so without a scaling of them.
AttentionConfig without_rope(AttentionConfig config);
// In the spellings of both versions.
void put_rope_settings(const AttentionConfig&, io::Json& to);

}  // namespace refrain

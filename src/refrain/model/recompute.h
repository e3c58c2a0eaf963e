// What backward computes again instead of reading saved activations: less memory for more time,
// with the same gradients to the bit.
#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace refrain {

struct Recompute {
  static constexpr int64_t kAllBlocks = std::numeric_limits<int64_t>::max();
  // A part: what attention of an autoencoder's decoder keeps whole.
  static constexpr std::string_view kProbabilities = "probabilities";

  // Of so many blocks, from the first on, all but their input; not of the last one if its backward
  // comes next.
  int64_t blocks = 0;
  bool mixers = false;         // of the other blocks, what their mixers save, and
  bool feed_forwards = false;  // the feed-forward layers' values before the activation
  int64_t checkpoint_interval =
      0;  // inside mixers: states every so many tokens (ExecutionContext::checkpoint_interval)
  std::vector<std::string> parts{};  // of mixers, by name (RecomputePart)
  // For a sequence that is trained chunk by chunk (TrainingOptions::chunk_length): everything
  // except the initial states of the chunks.
  bool chunks = false;

  bool operator==(const Recompute&) const = default;
};

}  // namespace refrain

// A place that the state of a sequence can go back to: what reading more tokens overwrites of it,
// copied before. Nothing of a key/value cache; all of a recurrent state; of a ring, a few rows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "refrain/model/sequence_state.h"

namespace refrain {

class Rollback {
 public:
  // What save() copies.
  static size_t bytes(const LanguageModel& model, int64_t position, int64_t tokens);

  // The place is where the state is now; `tokens` tokens will be read from here.
  void save(const LanguageModel& model, SequenceState& state, int64_t tokens);

  // Nothing is overwritten: the state can go back to any later position as well, just so.
  bool trivial() const { return parts_.empty(); }

  void restore(SequenceState& state) const;

 private:
  struct Part {
    size_t block;
    StateRange range;
  };
  int64_t position_ = 0;
  std::vector<Part> parts_;
  std::vector<std::byte> bytes_;  // of the parts, one after another
};

}  // namespace refrain

// Resident memory of this process, as the system saw it.
#pragma once
#include <optional>

namespace refrain::bench {

// The largest resident set since construction; nothing where the system does not say.
class ResidentPeak {
 public:
  ResidentPeak();
  std::optional<double> mebibytes() const;

 private:
  bool begun_;
};

}  // namespace refrain::bench

// A model whose weights or sums are no numbers: what it gives is an Error, never a result.
#pragma once
#include <cmath>
#include <span>
#include <string>
#include <string_view>

#include "refrain/base/error.h"

namespace refrain::cli {

// `what`: "loss", "logits". The Error names the model and the first that is no finite number.
template <class T>
void expect_finite(const std::string& model, std::string_view what, std::span<const T> values) {
  for (const T value : values)
    if (!std::isfinite(value))
      throw_error("{}: {}: expected finite numbers, found {}", model, what, value);
}
inline void expect_finite(const std::string& model, std::string_view what, double value) {
  expect_finite(model, what, std::span<const double>(&value, 1));
}

}  // namespace refrain::cli

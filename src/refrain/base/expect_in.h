// The check of a setting's range.
#pragma once
#include <string_view>
#include <type_traits>

#include "refrain/base/error.h"

namespace refrain {

// An Error that names the setting, if its value is outside [low, high].
template <class T>
void expect_in(std::string_view name, T value, std::type_identity_t<T> low,
               std::type_identity_t<T> high) {
  // Not `value < low`: what is not a number is in no range.
  if (!(value >= low && value <= high))
    throw_error("{}: expected {} to {}, found {}", name, low, high, value);
}

}  // namespace refrain

// What a call that must fail with an Error says.
#pragma once
#include <string>

#include "refrain/base/error.h"

namespace refrain {

template <class F>
std::string error_of(F call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "(no error)";
}

}  // namespace refrain

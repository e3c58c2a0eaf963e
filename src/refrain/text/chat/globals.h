// The functions that chat templates may call: range, dict, namespace, raise_exception,
// strftime_now.
#pragma once
#include <ctime>
#include <optional>

#include "refrain/text/chat/jinja/interpreter.h"
#include "refrain/text/chat/jinja/runtime.h"

namespace refrain::text {

// `now` is what strftime_now() formats; without it, asking for the time is an Error. It must live
// as long as the context.
void put_globals(jinja::Runtime& rt, const std::optional<std::tm>& now, jinja::Context& context);

}  // namespace refrain::text

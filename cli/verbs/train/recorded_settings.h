// The settings that a run has recorded, of this version or of a former one.
#pragma once
#include <string>
#include <string_view>

#include "refrain/io/json.h"

namespace refrain::cli {

// What `saved` says in the names and values of this version; `where` names its file in an Error.
io::Json by_present_names(const io::Json& saved, const std::string& where);

// Settings of former versions that only measured, to the same numbers.
bool is_retired(std::string_view name);

// Whether all settings that came together with this one are missing in `recorded`: the run is
// older than they are, and did what their defaults do.
bool came_later(const std::string& name, const io::Json& recorded);

}  // namespace refrain::cli

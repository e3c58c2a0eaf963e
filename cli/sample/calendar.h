// The grammar behind the calendar data: draws one English text and its Japanese form. A text means
// one thing: no two draws give the same English with different Japanese.
#pragma once
#include <string>

#include "refrain/base/random.h"

namespace refrain::cli {

struct CalendarText {
  std::string english, japanese;
};

CalendarText draw_calendar_text(Random& random);

}  // namespace refrain::cli

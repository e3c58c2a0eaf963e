// Texts that end a generation, looked for in output that comes in pieces. A stop text is never
// shown, nor a part of it: what may be the start of one is held back until it is clear.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace refrain {

class StopTexts {
 public:
  // An Error if one of them is empty.
  explicit StopTexts(std::vector<std::string> stops);

  // What may be shown by now. The stop text that is complete first counts, however the text was cut
  // into pieces; from then on there is nothing to show. Whole characters in, whole characters out.
  std::string feed(std::string_view piece);
  bool found() const { return found_; }
  // What was held back at the end of the text.
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace refrain

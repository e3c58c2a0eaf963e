// Texts that end a generation. They are looked for in output that comes in parts. A stop text is
// never shown, nor a part of it: text that may be the start of a stop text is held back until that
// is clear.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace refrain {

class StopTexts {
 public:
  // An Error if one of them is empty.
  explicit StopTexts(std::vector<std::string> stops);

  // The text that may be shown now. The stop text that is complete first counts, however the text
  // is cut into parts. After it nothing is shown. Input and output are whole characters.
  std::string feed(std::string_view piece);
  bool found() const { return found_; }
  // The text that was held back at the end.
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace refrain

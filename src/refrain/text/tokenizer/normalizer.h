// What changes a text before it is split, as the normalizer of tokenizer.json says, one step after
// another: NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/io/json_part.h"
#include "refrain/text/tokenizer/regex.h"
#include "refrain/text/tokenizer/unicode_forms.h"

namespace refrain::text {

class Normalizer {
 public:
  static constexpr size_t kMostSteps = 64;
  // A text may grow to so many bytes; more is an Error.
  static constexpr size_t most_bytes(size_t of_text) { return (size_t{1} << 20) + 64 * of_text; }

  // Adds a step. Anything but those above is an Error.
  void add(const io::Part& part);
  bool empty() const { return steps_.empty(); }
  // Whether a text's parts give its normalized parts, if they are cut before or behind white space.
  bool keeps_cuts() const;

  // `text` itself if nothing changes, otherwise a view of `storage`.
  std::string_view apply(std::string_view text, std::string& storage) const;

 private:
  enum class By { kForm, kLowercase, kStrip, kReplace, kPrepend };
  struct Step {
    By by;
    UnicodeForm form = UnicodeForm::kNfc;
    bool left = false, right = false;  // Strip
    std::string text{}, content{};     // Replace: by the content; Prepend: the content
    std::unique_ptr<Regex> regex{};    // Replace: in place of the text
  };
  // False if nothing changes.
  bool change(const Step& step, std::string_view text, size_t most, std::string& out) const;
  bool replace(const Step& step, std::string_view text, size_t most, std::string& out) const;
  void check_size(size_t bytes, size_t most) const;

  std::vector<Step> steps_;
  std::string where_;  // its place in errors
};

}  // namespace refrain::text

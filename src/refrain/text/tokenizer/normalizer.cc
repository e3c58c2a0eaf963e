#include "refrain/text/tokenizer/normalizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/text/tokenizer/pre_tokenizer.h"
#include "refrain/text/tokenizer/pretokenize.h"

namespace refrain::text {

void Normalizer::add(const io::Part& part) {
  constexpr std::array<std::pair<std::string_view, UnicodeForm>, 4> kForms = {
      {{"NFC", UnicodeForm::kNfc},
       {"NFD", UnicodeForm::kNfd},
       {"NFKC", UnicodeForm::kNfkc},
       {"NFKD", UnicodeForm::kNfkd}}};
  where_ = part.where;
  if (steps_.size() == kMostSteps)
    throw_error("{}: expected at most {} steps, found more", where_, kMostSteps);
  const std::string type = part.text("type");
  for (const auto& [name, form] : kForms)
    if (type == name) {
      part.only({"type"});
      steps_.push_back({.by = By::kForm, .form = form});
      return;
    }
  if (type == "Lowercase") {
    part.only({"type"});
    steps_.push_back({.by = By::kLowercase});
  } else if (type == "Strip") {
    part.only({"type", "strip_left", "strip_right"});
    steps_.push_back(
        {.by = By::kStrip, .left = part.flag("strip_left"), .right = part.flag("strip_right")});
  } else if (type == "Replace") {
    part.only({"type", "pattern", "content"});
    const io::Part at = part.at("pattern");
    SearchPattern pattern = read_search_pattern(at);
    Step step{.by = By::kReplace, .content = part.text("content")};
    if (pattern.is_regex)
      step.regex = std::make_unique<Regex>(pattern.text, at.where);
    else
      step.text = std::move(pattern.text);
    steps_.push_back(std::move(step));
  } else if (type == "Prepend") {
    part.only({"type", "prepend"});
    steps_.push_back({.by = By::kPrepend, .content = part.text("prepend")});
  } else {
    throw_error(
        "{}: type: expected NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace or Prepend, found {}",
        part.where, io::quote(type));
  }
}

bool Normalizer::keeps_cuts() const {
  return std::all_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return step.by == By::kForm || step.by == By::kLowercase;
  });
}

std::string_view Normalizer::apply(std::string_view text, std::string& storage) const {
  std::string changed;
  const size_t most = most_bytes(text.size());
  for (const Step& step : steps_)
    if (change(step, text, most, changed)) {
      check_size(changed.size(), most);
      storage.swap(changed);
      text = storage;
    }
  return text;
}

void Normalizer::check_size(size_t bytes, size_t most) const {
  if (bytes > most)
    throw_error("{}: a text grows to more than {} bytes, which is the most for its size", where_,
                most);
}

bool Normalizer::change(const Step& step, std::string_view text, size_t most,
                        std::string& out) const {
  switch (step.by) {
    case By::kForm:
      return to_unicode_form(step.form, text, out);
    case By::kLowercase:
      return to_lower_case(text, out);
    case By::kStrip: {
      std::string_view rest = text;
      if (step.left) rest.remove_prefix(leading_space(rest));
      if (step.right) rest.remove_suffix(trailing_space(rest));
      if (rest.size() == text.size()) return false;
      out = rest;
      return true;
    }
    case By::kReplace:
      return replace(step, text, most, out);
    case By::kPrepend:
      break;
  }
  if (text.empty() || step.content.empty()) return false;
  out = step.content;
  out += text;
  return true;
}

bool Normalizer::replace(const Step& step, std::string_view text, size_t most,
                         std::string& out) const {
  std::string replaced;
  size_t copied = 0;
  bool any = false;
  const auto put = [&](size_t begin, size_t end) {
    replaced += text.substr(copied, begin - copied);
    replaced += step.content;
    check_size(replaced.size(), most);
    copied = end;
    any = true;
  };
  if (step.regex) {
    RegexSearch search(*step.regex, text.size());
    for (search.start(text); search.next();) put(search.begin(), search.end());
  } else {
    for (size_t at = 0; (at = text.find(step.text, at)) != text.npos; at += step.text.size())
      put(at, at + step.text.size());
  }
  if (!any) return false;
  replaced += text.substr(copied);
  out = std::move(replaced);
  return true;
}

}  // namespace refrain::text

#include "refrain/text/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "refrain/base/error.h"

namespace refrain::text {
namespace {

SplitBehavior read_behavior(const io::Part& part, std::optional<std::string> absent) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {
      {{"Removed", SplitBehavior::kRemoved},
       {"Isolated", SplitBehavior::kIsolated},
       {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
       {"MergedWithNext", SplitBehavior::kMergedWithNext},
       {"Contiguous", SplitBehavior::kContiguous}}};
  const std::string found = part.text("behavior", std::move(absent));
  for (const auto& [name, behavior] : kNames)
    if (found == name) return behavior;
  throw_error(
      "{}: behavior: expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, "
      "found {}",
      part.where, io::quote(found));
}

std::optional<WordPattern> known_pattern(std::string_view regex) {
  for (const bool marks : {false, true})
    for (const int digits : {0, 1, 3})
      if (const WordPattern pattern{marks, digits}; pattern.regex() == regex) return pattern;
  return {};
}

}  // namespace

SearchPattern read_search_pattern(const io::Part& part) {
  part.only({"String", "Regex"});
  const bool is_regex = part.at("Regex").json != nullptr;
  if (is_regex && part.at("String").json) part.refuse("String or Regex");
  SearchPattern pattern{part.text(is_regex ? "Regex" : "String"), is_regex};
  if (pattern.text.empty()) throw_error("{}: expected a pattern that is not empty", part.where);
  return pattern;
}

void PreTokenizer::add(const io::Part& part) {
  if (steps_.size() == kMostSteps)
    throw_error("{}: expected at most {} steps, found more", part.where, kMostSteps);
  const std::string type = part.text("type");
  if (type == "Digits") {
    part.only({"type", "individual_digits"});
    const bool individual = part.flag("individual_digits", false);
    steps_.push_back(
        {.by = By::kDigits,
         .behavior = individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "Punctuation") {
    part.only({"type", "behavior"});
    steps_.push_back({.by = By::kPunctuation, .behavior = read_behavior(part, "Isolated")});
  } else if (type == "Split") {
    steps_.push_back(read_split(part));
    has_regex_ = has_regex_ || steps_.back().by == By::kRegex;
  } else {
    throw_error("{}: type: expected Digits, Punctuation or Split before ByteLevel, found {}",
                part.where, io::quote(type));
  }
}

PreTokenizer::Step PreTokenizer::read_split(const io::Part& part) {
  part.only({"type", "pattern", "behavior", "invert"});
  SearchPattern pattern = read_search_pattern(part.at("pattern"));
  Step step{
      .by = By::kText, .behavior = read_behavior(part, {}), .invert = part.flag("invert", false)};
  // Patterns that match all of any text.
  const bool gives_matches = step.behavior == SplitBehavior::kIsolated ||
                             (step.behavior == SplitBehavior::kRemoved && step.invert);
  if (!pattern.is_regex) {
    step.text = std::move(pattern.text);
  } else if (gives_matches && pattern.text == WordPattern::kGpt2) {
    step.by = By::kGpt2;
  } else if (const auto known = known_pattern(pattern.text); gives_matches && known) {
    step.by = By::kPattern;
    step.pattern = *known;
  } else {
    step.by = By::kRegex;
    step.regex = std::make_unique<Regex>(pattern.text, part.where + ": pattern");
  }
  return step;
}

bool PreTokenizer::only_digits() const {
  return !steps_.empty() && std::all_of(steps_.begin(), steps_.end(),
                                        [](const Step& step) { return step.by == By::kDigits; });
}

}  // namespace refrain::text

// What splits a text into words, as the pre_tokenizer of tokenizer.json says: one step after
// another splits what the step before it gave.
//
//   Digits       between numbers and others; individual_digits: around every number
//   Punctuation  at punctuation
//   Split        at the matches of a text or of a regular expression
//
// A step finds its matches, and its behaviour says what becomes of them and of what is between.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/base/utf8.h"
#include "refrain/io/json_part.h"
#include "refrain/text/tokenizer/pretokenize.h"
#include "refrain/text/tokenizer/regex.h"

namespace refrain::text {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Puts together what a text is split into. f(begin, end) gets what is not empty, in order.
template <class F>
class Splits {
 public:
  Splits(SplitBehavior behavior, bool invert, size_t bytes, F& f)
      : behavior_(behavior), invert_(invert), bytes_(bytes), f_(f) {}

  // The next match.
  void match(size_t begin, size_t end) {
    if (begin != at_) add(at_, begin, false);
    add(begin, end, true);
    at_ = end;
  }
  void finish() {
    if (at_ != bytes_) add(at_, bytes_, false);
    give();
  }

 private:
  void add(size_t begin, size_t end, bool is_match) {
    is_match = is_match != invert_;
    const bool behind_match = std::exchange(behind_match_, is_match);
    if (behavior_ == SplitBehavior::kRemoved && is_match) return;
    const bool joins =
        (behavior_ == SplitBehavior::kContiguous && is_match == behind_match) ||
        (behavior_ == SplitBehavior::kMergedWithPrevious && is_match && !behind_match) ||
        (behavior_ == SplitBehavior::kMergedWithNext && !is_match && behind_match);
    if (!joins) {
      give();
      begin_ = begin;
    }
    end_ = end;
  }
  void give() {
    if (end_ > begin_) f_(begin_, end_);
    begin_ = end_;
  }

  SplitBehavior behavior_;
  bool invert_;
  size_t bytes_;
  F& f_;
  size_t at_ = 0;               // behind the last match
  size_t begin_ = 0, end_ = 0;  // what is not given yet
  bool behind_match_ = false;
};

class PreTokenizer {
 public:
  static constexpr size_t kMostSteps = 64;

  // Adds a step. Anything but the three above is an Error.
  void add(const io::Part& part);
  bool empty() const { return steps_.empty(); }

  // What the steps have in common, for where texts may be cut.
  bool only_digits() const;
  bool is_gpt2() const { return steps_.size() == 1 && steps_[0].by == By::kGpt2; }
  bool is_word_pattern() const { return steps_.size() == 1 && steps_[0].by == By::kPattern; }

  // Calls f(word) for the words of the text, in order. They are parts of it.
  template <class F>
  void for_each(std::string_view text, F&& f) const {
    std::vector<std::unique_ptr<RegexSearch>> searches(steps_.size());
    // Words end where characters do: what they are words of is looked at once.
    const bool is_utf8 = has_regex_ && !find_invalid_utf8(text);
    split(0, text, {searches, text.size(), is_utf8}, f);
  }

 private:
  enum class By { kGpt2, kPattern, kDigits, kPunctuation, kText, kRegex };
  struct Step {
    By by;
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
    WordPattern pattern{};
    std::string text{};
    std::unique_ptr<Regex> regex{};
  };
  struct Running {
    std::vector<std::unique_ptr<RegexSearch>>& searches;  // of the steps
    size_t bytes;                                         // of the whole text
    bool is_utf8;                                         // known of it
  };

  static Step read_split(const io::Part& part);

  template <class F>
  void split(size_t number, std::string_view text, const Running& running, F& f) const {
    if (number == steps_.size()) {
      f(text);
      return;
    }
    const Step& step = steps_[number];
    const auto next = [&](std::string_view word) { split(number + 1, word, running, f); };
    if (step.by == By::kGpt2) {
      for_each_gpt2_word(text, true, next);
    } else if (step.by == By::kPattern) {
      for (size_t at = 0; at < text.size();) {
        const size_t bytes = pattern_word(step.pattern, text.substr(at));
        next(text.substr(at, bytes));
        at += bytes;
      }
    } else {
      const auto give = [&](size_t begin, size_t end) { next(text.substr(begin, end - begin)); };
      Splits splits(step.behavior, step.invert, text.size(), give);
      for_each_match(step, text, running, running.searches[number],
                     [&](size_t begin, size_t end) { splits.match(begin, end); });
      splits.finish();
    }
  }

  template <class F>
  static void for_each_match(const Step& step, std::string_view text, const Running& running,
                             std::unique_ptr<RegexSearch>& search, F&& f) {
    if (step.by == By::kRegex) {
      if (!search) search = std::make_unique<RegexSearch>(*step.regex, running.bytes);
      for (search->start(text, running.is_utf8); search->next();) f(search->begin(), search->end());
    } else if (step.by == By::kText) {
      for (size_t at = 0; (at = text.find(step.text, at)) != text.npos; at += step.text.size())
        f(at, at + step.text.size());
    } else {
      const auto next = step.by == By::kDigits ? next_number : next_punctuation;
      for (Run run = next(text, 0); run.begin < run.end; run = next(text, run.end))
        f(run.begin, run.end);
    }
  }

  std::vector<Step> steps_;
  bool has_regex_ = false;
};

// {"String": ...} or {"Regex": ...}: what Split and Replace look for.
struct SearchPattern {
  std::string text;
  bool is_regex;
};
SearchPattern read_search_pattern(const io::Part& part);

}  // namespace refrain::text

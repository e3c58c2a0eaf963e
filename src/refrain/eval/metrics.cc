#include "refrain/eval/metrics.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"

namespace refrain::eval {
namespace {

bool is_white(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_stop(char c) { return c == '.' || c == ','; }

// ASCII's punctuation.
bool is_punctuation(char c) { return c > ' ' && c < 0x7F && !std::isalnum(c); }

// Words or characters, one behind another, so that an n-gram is a stretch of the text. A space ends
// a word; there is none in characters.
struct Units {
  std::string text;
  std::vector<size_t> begin = {0};  // of every unit, and the end of the last

  size_t size() const { return begin.size() - 1; }
  void add(std::string_view unit) {
    text += unit;
    begin.push_back(text.size());
  }
  void add_word(std::string_view word) {
    text += word;
    add(" ");
  }
  std::vector<std::string_view> sorted_ngrams(size_t n) const {
    std::vector<std::string_view> all;
    for (size_t i = 0; i + n <= size(); ++i)
      all.push_back(std::string_view(text).substr(begin[i], begin[i + n] - begin[i]));
    std::sort(all.begin(), all.end());
    return all;
  }
};

Units characters_of(std::string_view text) {
  Units units;
  while (!text.empty()) {
    const CodePoint next = decode_utf8(text);
    if (!is_white(next.code)) units.add(text.substr(0, next.bytes));
    text.remove_prefix(next.bytes);
  }
  return units;
}

template <class OnWord>
void for_each_word(std::string_view text, OnWord&& on_word) {
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    const CodePoint next = decode_utf8(text.substr(at));
    if (is_white(next.code)) {
      if (at > begin) on_word(text.substr(begin, at - begin));
      begin = at + next.bytes;
    }
    at += next.bytes;
  }
  if (at > begin) on_word(text.substr(begin));
}

Units words_of(std::string_view text) {
  Units units;
  for_each_word(text, [&](std::string_view word) { units.add_word(word); });
  return units;
}

// Words as chrF++ has them: a mark at the end becomes a word, or else one at the start.
Units words_and_marks_of(std::string_view text) {
  Units units;
  for_each_word(text, [&](std::string_view word) {
    const bool one_character = decode_utf8(word).bytes == word.size();
    const size_t cut = one_character                  ? 0
                       : is_punctuation(word.back())  ? word.size() - 1
                       : is_punctuation(word.front()) ? 1
                                                      : 0;
    if (cut > 0) units.add_word(word.substr(0, cut));
    units.add_word(word.substr(cut));
  });
  return units;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size())
    text.replace(at, from.size(), to);
}

// From left to right, pairs that do not overlap get a space between them and one at either end.
template <class First, class Second>
std::string part_pairs(std::string_view text, First first, Second second, bool space_before) {
  std::string parted;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i + 1 == text.size() || !first(text[i]) || !second(text[i + 1])) {
      parted += text[i];
      continue;
    }
    if (space_before) parted += ' ';
    parted += text[i];
    parted += ' ';
    parted += text[++i];
    if (!space_before) parted += ' ';
  }
  return parted;
}

// mteval-v13a: punctuation stands alone, but for apostrophes, hyphens behind anything but a digit,
// and stops and commas between digits. Bytes will do: every character it looks for is ASCII.
std::string parted_13a(std::string_view line) {
  std::string text(line.substr(0, line.find_last_not_of(" \t\r\n") + 1));
  replace_all(text, "<skipped>", "");
  replace_all(text, "-\n", "");
  replace_all(text, "\n", " ");
  replace_all(text, "&quot;", "\"");
  replace_all(text, "&amp;", "&");
  replace_all(text, "&lt;", "<");
  replace_all(text, "&gt;", ">");

  std::string parted = " ";
  for (const char c : text) {
    const bool alone = is_punctuation(c) && c != '\'' && c != '-' && !is_stop(c);
    if (alone) parted += ' ';
    parted += c;
    if (alone) parted += ' ';
  }
  parted += ' ';
  const auto no_digit = [](char c) { return !is_digit(c); };
  const auto hyphen = [](char c) { return c == '-'; };
  parted = part_pairs(parted, no_digit, is_stop, false);
  parted = part_pairs(parted, is_stop, no_digit, true);
  return part_pairs(parted, is_digit, hyphen, false);
}

Units tokenized(std::string_view text, std::string_view tokenize) {
  if (tokenize == "13a") return words_of(parted_13a(text));
  if (tokenize == "char") return characters_of(text);
  if (tokenize == "none") return words_of(text);
  throw_error("BLEU's tokenization: expected 13a, char or none, found {}", io::quote(tokenize));
}

NgramCounts count(const Units& hypothesis, const Units& reference, size_t n) {
  const std::vector<std::string_view> h = hypothesis.sorted_ngrams(n);
  const std::vector<std::string_view> r = reference.sorted_ngrams(n);
  NgramCounts counts = {static_cast<int64_t>(h.size()), static_cast<int64_t>(r.size()), 0};
  for (auto i = h.begin(), k = r.begin(); i != h.end() && k != r.end();) {
    if (const int order = i->compare(*k); order == 0) {
      ++counts.matches;
      ++i;
      ++k;
    } else {
      ++(order < 0 ? i : k);
    }
  }
  return counts;
}

void add_to(NgramCounts& sum, const NgramCounts& counts) {
  sum.hypothesis += counts.hypothesis;
  sum.reference += counts.reference;
  sum.matches += counts.matches;
}

double ratio(int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); }

}  // namespace

Bleu::Bleu(std::string tokenize) : tokenize_(std::move(tokenize)) { tokenized("", tokenize_); }

void Bleu::add(std::string_view hypothesis, std::string_view reference) {
  const Units h = tokenized(hypothesis, tokenize_), r = tokenized(reference, tokenize_);
  for (size_t n = 1; n <= kOrder; ++n) add_to(counts_[n - 1], count(h, r, n));
}

double Bleu::brevity_penalty() const {
  if (hypothesis_tokens() >= reference_tokens()) return 1;
  if (hypothesis_tokens() == 0) return 0;
  return std::exp(1 - ratio(reference_tokens(), hypothesis_tokens()));
}

std::array<double, Bleu::kOrder> Bleu::precisions() const {
  std::array<double, kOrder> all{};
  if (counts_[0].matches == 0) return all;
  double smoothing = 1;
  for (size_t n = 0; n < kOrder && counts_[n].hypothesis > 0; ++n) {
    const auto total = static_cast<double>(counts_[n].hypothesis);
    all[n] = counts_[n].matches > 0 ? 100 * static_cast<double>(counts_[n].matches) / total
                                    : 100 / ((smoothing *= 2) * total);
  }
  return all;
}

double Bleu::score() const {
  double sum = 0;
  for (const double p : precisions()) sum += std::log(p);  // -inf when an order has no n-grams
  return brevity_penalty() * std::exp(sum / kOrder);
}

std::string Bleu::signature() const {
  return "nrefs:1|case:mixed|eff:no|tok:" + tokenize_ + "|smooth:exp";
}

std::vector<std::string> bleu_tokens(std::string_view text, std::string_view tokenize) {
  const Units units = tokenized(text, tokenize);
  std::vector<std::string> tokens;
  for (size_t i = 0; i < units.size(); ++i) {
    tokens.push_back(units.text.substr(units.begin[i], units.begin[i + 1] - units.begin[i]));
    if (tokens.back().ends_with(' ')) tokens.back().pop_back();
  }
  return tokens;
}

Chrf::Chrf(int64_t word_order) : word_order_(static_cast<size_t>(word_order)) {
  if (word_order != 0 && word_order != 2)
    throw_error("chrF's word order: expected 0, or 2 for chrF++, found {}", word_order);
  counts_.resize(kCharOrder + word_order_);
}

void Chrf::add(std::string_view hypothesis, std::string_view reference) {
  const auto add_orders = [](const Units& h, const Units& r, size_t orders, NgramCounts* sums) {
    for (size_t n = 1; n <= orders; ++n) {
      NgramCounts counts = count(h, r, n);
      if (counts.reference == 0) counts.hypothesis = 0;  // there is nothing they could have hit
      add_to(sums[n - 1], counts);
    }
  };
  add_orders(characters_of(hypothesis), characters_of(reference), kCharOrder, counts_.data());
  if (word_order_ > 0)
    add_orders(words_and_marks_of(hypothesis), words_and_marks_of(reference), word_order_,
               counts_.data() + kCharOrder);
}

double Chrf::score() const {
  constexpr double kBetaSquared = 4;
  double precision = 0, recall = 0, orders = 0;
  for (const NgramCounts& c : counts_) {
    if (c.hypothesis == 0 || c.reference == 0) continue;
    precision += ratio(c.matches, c.hypothesis);
    recall += ratio(c.matches, c.reference);
    ++orders;
  }
  if (precision + recall == 0) return 0;
  precision /= orders;
  recall /= orders;
  return 100 * (1 + kBetaSquared) * precision * recall / (kBetaSquared * precision + recall);
}

std::string Chrf::name() const { return word_order_ > 0 ? "chrF2++" : "chrF2"; }

std::string Chrf::signature() const {
  return fmt::format("nrefs:1|case:mixed|eff:yes|nc:{}|nw:{}|space:no", kCharOrder, word_order_);
}

}  // namespace refrain::eval

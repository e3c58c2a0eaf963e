#include "refrain/text/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"
#include "refrain/text/tokenizer/regex_syntax.h"

namespace refrain::text {
namespace {

template <class T, void (*kFree)(T*)>
struct Free {
  void operator()(T* object) const { kFree(object); }
};
template <class T, void (*kFree)(T*)>
using Owned = std::unique_ptr<T, Free<T, kFree>>;

using CodePointer = Owned<pcre2_code, pcre2_code_free>;
using MatchData = Owned<pcre2_match_data, pcre2_match_data_free>;
using MatchContext = Owned<pcre2_match_context, pcre2_match_context_free>;
using CompileContext = Owned<pcre2_compile_context, pcre2_compile_context_free>;
using JitStack = Owned<pcre2_jit_stack, pcre2_jit_stack_free>;

PCRE2_SPTR bytes_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

// Null when it cannot be compiled; `error` and `at` then say why and where.
CodePointer compile(std::string_view pattern, uint32_t options, int& error, PCRE2_SIZE& at) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  REFRAIN_CHECK(context);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  CodePointer code(pcre2_compile(bytes_of(pattern), pattern.size(),
                                 options | PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at,
                                 context.get()));
  if (code) pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // only speed depends on it
  return code;
}

// Of this thread: other programs do not count.
double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

struct Regex::Code {
  CodePointer code;
  std::string pattern, where;
  std::optional<std::array<uint8_t, 32>> first_bytes{};  // a bit for each that a match begins with
  bool is_jit = false;

  bool may_begin(char c) const {
    const auto byte = static_cast<uint8_t>(c);
    return !first_bytes || ((*first_bytes)[byte / 8] >> (byte % 8) & 1) != 0;
  }
};

Regex::Regex(std::string_view pattern, const std::string& where) {
  if (pattern.size() > kMaxBytes)
    throw_error("{}: expected a regular expression of at most {} bytes, found {}", where, kMaxBytes,
                pattern.size());
  const std::string translated = to_pcre2(pattern, where);
  int error = 0;
  PCRE2_SIZE at = 0;
  // A match is tried at one place at a time, which PCRE2's machine code cannot be told later.
  CodePointer code = compile(translated, PCRE2_ANCHORED, error, at);
  if (!code) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    throw_error("{}: the regular expression {} is not one: {}", where, io::quote(pattern),
                reinterpret_cast<const char*>(message.data()));
  }
  code_.reset(new Code{std::move(code), std::string(pattern), where});
  size_t machine_code = 0;
  pcre2_pattern_info(code_->code.get(), PCRE2_INFO_JITSIZE, &machine_code);
  code_->is_jit = machine_code > 0;
  // Only those that may match elsewhere know how a match begins.
  const uint8_t* first = nullptr;
  if (const CodePointer loose = compile(translated, 0, error, at); loose)
    if (pcre2_pattern_info(loose.get(), PCRE2_INFO_FIRSTBITMAP, &first) == 0 && first)
      std::copy_n(first, 32, code_->first_bytes.emplace().begin());
}

Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

struct RegexSearch::Memory {
  MatchData match;
  MatchContext context;
  JitStack stack;
};

RegexSearch::RegexSearch(const Regex& regex, size_t bytes)
    : code_(*regex.code_),
      memory_(std::make_unique<Memory>()),
      started_(processor_seconds()),
      allowed_(kSeconds + kSecondsPerByte * static_cast<double>(bytes)) {
  constexpr size_t kFirstStack = size_t{1} << 15, kMostStack = size_t{1} << 25;
  // An attempt takes at most about this many steps over all of the text.
  constexpr size_t kWork = 10'000'000'000, kFewest = 10'000, kMost = 1'000'000;
  memory_->match.reset(pcre2_match_data_create(1, nullptr));
  memory_->context.reset(pcre2_match_context_create(nullptr));
  memory_->stack.reset(pcre2_jit_stack_create(kFirstStack, kMostStack, nullptr));
  REFRAIN_CHECK(memory_->match && memory_->context && memory_->stack);
  const auto limit = std::clamp(kWork / std::max<size_t>(bytes, 1), kFewest, kMost);
  pcre2_set_match_limit(memory_->context.get(), static_cast<uint32_t>(limit));
  pcre2_set_heap_limit(memory_->context.get(), kMostStack / 1024);
  pcre2_jit_stack_assign(memory_->context.get(), nullptr, memory_->stack.get());
}

RegexSearch::~RegexSearch() = default;

void RegexSearch::start(std::string_view text, bool is_utf8) {
  text_ = text;
  is_utf8_ = is_utf8;
  begin_part(0);
}

void RegexSearch::begin_part(size_t at) {
  part_begin_ = at;
  part_ = text_.substr(at);
  if (!is_utf8_) part_ = part_.substr(0, find_invalid_utf8(part_).value_or(part_.size()));
  at_ = last_end_ = 0;
  matched_ = false;
}

bool RegexSearch::next() {
  for (;;) {
    if (!part_.empty() && next_in_part()) {
      begin_ += part_begin_;
      end_ += part_begin_;
      return true;
    }
    const size_t end = part_begin_ + part_.size();
    if (end == text_.size()) return false;
    begin_part(end + decode_utf8(text_.substr(end)).bytes);
  }
}

bool RegexSearch::next_in_part() {
  const auto step = [&] { at_ += at_ < part_.size() ? decode_utf8(part_.substr(at_)).bytes : 1; };
  for (; at_ <= part_.size(); step()) {
    if (code_.first_bytes && (at_ == part_.size() || !code_.may_begin(part_[at_]))) continue;
    if (!match(at_)) continue;
    if (begin_ == end_ && matched_ && last_end_ == end_) continue;
    matched_ = true;
    at_ = last_end_ = end_;
    return true;
  }
  return false;
}

bool RegexSearch::match(size_t at) {
  constexpr size_t kAttempts = 64;  // between two looks at the clock
  if (++attempts_ % kAttempts == 0) check_time();
  const auto run = code_.is_jit ? pcre2_jit_match : pcre2_match;
  const int found = run(code_.code.get(), bytes_of(part_), part_.size(), at, PCRE2_NO_UTF_CHECK,
                        memory_->match.get(), memory_->context.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) give_up();
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(memory_->match.get());
  begin_ = range[0];
  end_ = range[1];
  REFRAIN_CHECK(begin_ == at && begin_ <= end_ && end_ <= part_.size());
  return true;
}

void RegexSearch::check_time() {
  if (processor_seconds() - started_ > allowed_) give_up();
}

void RegexSearch::give_up() const {
  throw_error("{}: the regular expression {} takes too long on a text of {} bytes: it backtracks",
              code_.where, io::quote(code_.pattern), text_.size());
}

std::vector<bool> characters_of(const std::string& character_class, char32_t end) {
  std::string all;
  for (char32_t c = 0; c < end; ++c)
    if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  const CodePointer code = compile(character_class + "+", 0, error, error_at);
  REFRAIN_CHECK(code);
  const MatchData match(pcre2_match_data_create(1, nullptr));
  REFRAIN_CHECK(match);
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
  std::vector<bool> found(end);
  for (size_t at = 0; pcre2_match(code.get(), bytes_of(all), all.size(), at, PCRE2_NO_UTF_CHECK,
                                  match.get(), nullptr) > 0;
       at = range[1]) {
    std::string_view run = std::string_view(all).substr(range[0], range[1] - range[0]);
    while (!run.empty()) {
      const CodePoint c = decode_utf8(run);
      found[c.code] = true;
      run.remove_prefix(c.bytes);
    }
  }
  return found;
}

}  // namespace refrain::text

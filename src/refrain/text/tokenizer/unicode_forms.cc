#include "refrain/text/tokenizer/unicode_forms.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"

namespace refrain::text {
namespace {

// All characters behind it are inert: it is behind the last one that can be decomposed.
constexpr char32_t kEnd = 0x30000;
constexpr size_t kLongest = 32;  // of one character decomposed: 18

int combining_class(char32_t c) {
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

class Form {
 public:
  explicit Form(int options)
      : options_(static_cast<utf8proc_option_t>(options)), inert_(kEnd, true) {
    const auto canonical = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    std::vector<utf8proc_int32_t> parts;
    for (char32_t c = 0x80; c < kEnd; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      parts.clear();
      decompose(c, canonical, parts);
      // It may be put together with what is before it.
      for (size_t i = 1; i < parts.size(); ++i) inert_[static_cast<size_t>(parts[i])] = false;
      parts.clear();
      decompose(c, options_, parts);
      const auto length = utf8proc_normalize_utf32(
          parts.data(), static_cast<utf8proc_ssize_t>(parts.size()), options_);
      if (combining_class(c) != 0 || length != 1 || parts[0] != static_cast<utf8proc_int32_t>(c))
        inert_[c] = false;
    }
  }

  bool is_inert(char32_t c) const { return c >= kEnd || inert_[c]; }

  // `text` is UTF-8.
  void append(std::string_view text, std::string& out) const {
    std::vector<utf8proc_int32_t> parts;
    while (!text.empty()) {
      const CodePoint c = decode_utf8(text);
      decompose(c.code, options_, parts);
      text.remove_prefix(c.bytes);
    }
    // utf8proc's own sort takes the square of a run's length.
    const auto class_of = [](utf8proc_int32_t c) {
      return combining_class(static_cast<char32_t>(c));
    };
    for (auto from = parts.begin(); from != parts.end();) {
      if (class_of(*from) == 0) {
        ++from;
        continue;
      }
      const auto to = std::find_if(from, parts.end(), [&](auto c) { return class_of(c) == 0; });
      std::stable_sort(from, to, [&](auto a, auto b) { return class_of(a) < class_of(b); });
      from = to;
    }
    const auto length = utf8proc_normalize_utf32(
        parts.data(), static_cast<utf8proc_ssize_t>(parts.size()), options_);
    REFRAIN_CHECK(length >= 0);
    for (utf8proc_ssize_t i = 0; i < length; ++i)
      append_utf8(out, static_cast<char32_t>(parts[static_cast<size_t>(i)]));
  }

 private:
  static void decompose(char32_t c, utf8proc_option_t options, std::vector<utf8proc_int32_t>& out) {
    std::array<utf8proc_int32_t, kLongest> parts;
    int boundary = 0;
    const auto length = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(),
                                                parts.size(), options, &boundary);
    REFRAIN_CHECK(length >= 0 && length <= static_cast<utf8proc_ssize_t>(kLongest));
    out.insert(out.end(), parts.begin(), parts.begin() + length);
  }

  utf8proc_option_t options_;
  std::vector<bool> inert_;
};

const Form& form_of(UnicodeForm form) {
  switch (form) {
    case UnicodeForm::kNfc: {
      static const Form nfc(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
      return nfc;
    }
    case UnicodeForm::kNfd: {
      static const Form nfd(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
      return nfd;
    }
    case UnicodeForm::kNfkc: {
      static const Form nfkc(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
      return nfkc;
    }
    case UnicodeForm::kNfkd:
      break;
  }
  static const Form nfkd(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  return nfkd;
}

// Where the run of ASCII that goes on at `at` ends, or an earlier place in it.
size_t skip_ascii(std::string_view text, size_t at) {
  constexpr uint64_t kHigh = 0x8080808080808080u;
  uint64_t eight = 0;
  for (; at + sizeof eight <= text.size(); at += sizeof eight) {
    std::memcpy(&eight, text.data() + at, sizeof eight);
    if (eight & kHigh) break;
  }
  while (at < text.size() && static_cast<uint8_t>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

bool to_unicode_form(UnicodeForm kind, std::string_view text, std::string& out) {
  size_t at = skip_ascii(text, 0);
  if (at == text.size()) return false;
  const Form& form = form_of(kind);
  bool changed = false;
  size_t copied = 0;              // of the text, to `out`
  size_t before = at - (at > 0);  // where the inert character before `at` begins; `at` if none is
  std::string normalized;
  while (at < text.size()) {
    const CodePoint c = decode_utf8(text.substr(at));
    if (!c.valid || form.is_inert(c.code)) {
      before = c.valid ? at : at + c.bytes;
      at += c.bytes;
      if (const size_t end = skip_ascii(text, at); end > at) {
        at = end;
        before = at - 1;
      }
      continue;
    }
    size_t end = at;
    while (end < text.size()) {
      const CodePoint next = decode_utf8(text.substr(end));
      if (!next.valid || form.is_inert(next.code)) break;
      end += next.bytes;
    }
    const std::string_view part = text.substr(before, end - before);
    normalized.clear();
    form.append(part, normalized);
    if (normalized != part) {
      if (!changed) out.clear();
      changed = true;
      out += text.substr(copied, before - copied);
      out += normalized;
      copied = end;
    }
    at = before = end;
  }
  if (changed) out += text.substr(copied);
  return changed;
}

bool to_lower_case(std::string_view text, std::string& out) {
  constexpr char32_t kDottedI = 0x130;  // the only one that becomes two: i and a dot
  std::string lower;
  lower.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text.substr(at));
    if (!c.valid) {
      lower += text.substr(at, c.bytes);
    } else if (c.code < 0x80) {
      lower += static_cast<char>(c.code >= 'A' && c.code <= 'Z' ? c.code | 0x20 : c.code);
    } else if (c.code == kDottedI) {
      lower += "i\u0307";
    } else {
      append_utf8(lower, static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(c.code))));
    }
    at += c.bytes;
  }
  if (lower == text) return false;
  out = std::move(lower);
  return true;
}

char32_t to_upper(char32_t code) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code)));
}
char32_t to_lower(char32_t code) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)));
}
char32_t to_title(char32_t code) {
  return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(code)));
}

}  // namespace refrain::text

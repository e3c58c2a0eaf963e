// What counts as white space when texts are read.
#pragma once

namespace refrain::text {

// Control characters count, because text of only these has no content.
inline bool is_space(char32_t code) {
  return code <= ' ' || code == 0x7F || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         code == 0x180E || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

}  // namespace refrain::text

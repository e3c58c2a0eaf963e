// Amounts of memory as text, "1.5G".
#pragma once
#include <cstddef>
#include <string>

namespace refrain {

// "800M", "2G", "1.5GiB", "65536": a number of bytes, or of K, M, G or T of 1024 each, with or
// without B or iB. Anything else and less than one byte are an Error, which begins with `name`. A
// number below 1024 without a unit is an Error too, since its unit is probably missing.
size_t parse_bytes(const std::string& name, const std::string& text);

// "1.50 GiB", "802 MiB", "64 KiB".
std::string bytes_text(size_t bytes);
std::string bytes_text_below(size_t bytes);  // likewise, of no more than there are
// "1437 MiB": rounded up, so no less than `bytes`. parse_bytes() reads it ("1437MiB").
std::string bytes_text_above(size_t bytes);

}  // namespace refrain

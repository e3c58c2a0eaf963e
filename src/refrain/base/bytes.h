// Amounts of memory as people write them.
#pragma once
#include <cstddef>
#include <string>

namespace refrain {

// "800M", "2G", "1.5GiB", "65536": a number of bytes, of K, M, G or T of 1024 each, with or without
// B or iB behind. An Error, which begins with `name`, for anything else and for less than a byte; a
// number below 1024 without a unit has lost it, and is one too.
size_t parse_bytes(const std::string& name, const std::string& text);

// "1.50 GiB", "802 MiB", "64 KiB".
std::string bytes_text(size_t bytes);
std::string bytes_text_below(size_t bytes);  // likewise, of no more than there are
// "1437 MiB": as parse_bytes() takes it ("1437MiB"), no less than `bytes`.
std::string bytes_text_above(size_t bytes);

}  // namespace refrain

// Text that is read in parts: plain files, gzip of them (recognised by content, not by name), "-"
// for standard input. Memory does not grow with the file. A leading UTF-8 byte-order mark is
// dropped. Bytes are returned unchanged; to check UTF-8 use base/utf8.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace refrain::io {

class TextReader {
 public:
  explicit TextReader(const std::string& path);
  TextReader(const std::string& path, const std::string& name);  // which errors call it
  // For a file that belongs to a directory: a pipe or a device of that name is refused.
  static TextReader of_regular(const std::string& path);
  ~TextReader();
  TextReader(TextReader&&) noexcept;
  TextReader& operator=(TextReader&&) noexcept;

  // Replaces `piece` by the next `max_bytes` bytes, fewer only before the end; false at the end.
  // Corrupt or truncated gzip is an Error.
  bool read(std::string& piece, size_t max_bytes = size_t{1} << 20);

  // The next line without its "\n" or "\r\n"; false at the end. A last line without a line end
  // counts. A line longer than `max_bytes` is an Error that names the line.
  bool line(std::string& line, size_t max_bytes = size_t{1} << 26);
  int64_t line_number() const;      // of the line given last, from 1
  const std::string& name() const;  // the path, "standard input", or what was given

 private:
  struct Impl;
  explicit TextReader(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace refrain::io

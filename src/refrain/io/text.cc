#include "refrain/io/text.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <new>
#include <string_view>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/io/descriptor.h"

namespace refrain::io {
namespace {

constexpr size_t kBuffer = size_t{1} << 17;
constexpr const char* kStandardInput = "standard input";
constexpr std::string_view kGzip = "\x1F\x8B\x08", kByteOrderMark = "\xEF\xBB\xBF";

struct Buffer {
  std::string bytes = std::string(kBuffer, '\0');
  size_t begin = 0, end = 0;  // what was read and not yet taken

  std::string_view left() const { return {bytes.data() + begin, end - begin}; }
};

// Whether the stream starts with `mark`. Reads no more of it than that takes, so that one short
// line typed at a terminal is answered at once.
template <class Read>
bool starts_with(Buffer& buffer, std::string_view mark, Read read) {
  while (buffer.end < mark.size() && mark.starts_with(buffer.left())) {
    const size_t got = read(buffer.bytes.data() + buffer.end, kBuffer - buffer.end);
    if (got == 0) break;
    buffer.end += got;
  }
  return buffer.left().starts_with(mark);
}

}  // namespace

struct TextReader::Impl {
  std::string name;
  Descriptor file;
  Buffer raw;   // as the file has it; of plain text only what the search for gzip read
  Buffer text;  // unpacked
  z_stream inflater{};
  bool packed = false, inside = false;  // gzip at all; between start and end of a member
  int64_t lines = 0;

  Impl(std::string shown, Descriptor opened) : name(std::move(shown)), file(std::move(opened)) {}
  ~Impl() { inflateEnd(&inflater); }

  void start() {
    packed = starts_with(raw, kGzip, [&](char* to, size_t max) { return file.read(to, max); });
    if (packed) {
      constexpr int kGzipOnly = 16;
      if (inflateInit2(&inflater, MAX_WBITS + kGzipOnly) != Z_OK) throw std::bad_alloc();
      inflater.next_in = reinterpret_cast<Bytef*>(raw.bytes.data());
      inflater.avail_in = static_cast<uInt>(raw.end);
      inside = true;
    }
    if (starts_with(text, kByteOrderMark, [&](char* to, size_t max) { return unpack(to, max); }))
      text.begin = kByteOrderMark.size();
  }

  size_t unpack(char* to, size_t max) {  // 0 at the end only
    if (packed) return inflate_some(to, max);
    if (raw.begin == raw.end) return file.read(to, max);
    const size_t got = raw.left().copy(to, max);
    raw.begin += got;
    return got;
  }

  size_t inflate_some(char* to, size_t max) {
    inflater.next_out = reinterpret_cast<Bytef*>(to);
    inflater.avail_out = static_cast<uInt>(max);
    while (inflater.avail_out == max) {
      if (inflater.avail_in == 0) {
        inflater.next_in = reinterpret_cast<Bytef*>(raw.bytes.data());
        inflater.avail_in = static_cast<uInt>(file.read(raw.bytes.data(), kBuffer));
        if (inflater.avail_in == 0 && inside) throw_error("{}: the gzip data is cut short", name);
        if (inflater.avail_in == 0) return 0;
      }
      if (!inside) inflateReset(&inflater);
      const int status = inflate(&inflater, Z_NO_FLUSH);
      inside = status != Z_STREAM_END;
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
        throw_error("{}: corrupt gzip data: {}", name,
                    inflater.msg ? inflater.msg : zError(status));
    }
    return max - inflater.avail_out;
  }

  bool more() {  // false at the end
    if (text.begin == text.end) {
      text.begin = 0;
      text.end = unpack(text.bytes.data(), kBuffer);
    }
    return text.end > 0;
  }
};

TextReader::TextReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) { impl_->start(); }

TextReader::TextReader(const std::string& path)
    : TextReader(path == "-" ? std::make_unique<Impl>(kStandardInput,
                                                      Descriptor(dup(STDIN_FILENO), kStandardInput))
                             : std::make_unique<Impl>(path, Descriptor(path, O_RDONLY))) {}

TextReader::TextReader(const std::string& path, const std::string& name)
    : TextReader(std::make_unique<Impl>(name, Descriptor(path, O_RDONLY))) {}

TextReader TextReader::of_regular(const std::string& path) {
  return TextReader(std::make_unique<Impl>(path, open_regular(path)));
}

TextReader::~TextReader() = default;
TextReader::TextReader(TextReader&&) noexcept = default;
TextReader& TextReader::operator=(TextReader&&) noexcept = default;

bool TextReader::read(std::string& piece, size_t max_bytes) {
  piece.clear();
  Buffer& text = impl_->text;
  while (piece.size() < max_bytes && impl_->more()) {
    const std::string_view next = text.left().substr(0, max_bytes - piece.size());
    piece += next;
    text.begin += next.size();
  }
  return !piece.empty();
}

bool TextReader::line(std::string& line, size_t max_bytes) {
  line.clear();
  bool found = false, ended = false;
  Buffer& text = impl_->text;
  while (!ended && impl_->more()) {
    found = true;
    const std::string_view next = text.left();
    const size_t size = std::min(next.find('\n'), next.size());
    ended = size < next.size();
    line += next.substr(0, size);
    text.begin += size + ended;
    // A "\r" at the end may yet turn out to belong to the line's end.
    if (line.size() - line.ends_with('\r') > max_bytes)
      throw_error("{}: line {}: longer than {} bytes", name(), line_number() + 1, max_bytes);
  }
  if (ended && line.ends_with('\r')) line.pop_back();
  impl_->lines += found;
  return found;
}

int64_t TextReader::line_number() const { return impl_->lines; }
const std::string& TextReader::name() const { return impl_->name; }

}  // namespace refrain::io

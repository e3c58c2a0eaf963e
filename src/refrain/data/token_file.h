// Token ids on disk. A text is encoded once and mapped from then on, so training memory does not
// grow with the data. Little endian:
//
//      0  8 bytes  "RFTOKENS"
//      8  u32      version, 1
//     12  u32      task: 0 lm, 1 translate, 2 probe
//     16  u32      bytes of an id: 2 when the vocabulary has at most 65,536 tokens, else 4
//     20  u32      0
//     24  u64      tokens in the vocabulary
//     32  u64      fingerprint of the tokenizer
//     40  24 bytes 0
//     64           the ids, one after another, then 0 up to a multiple of 8
//                  the boundaries, u64 each: places among the ids, ascending, the first 0 and the
//                  last the number of ids. lm: where a document begins. translate: where a pair
//                  begins and, after it, where its target does. probe: where a sequence begins and,
//                  after it, where its targets do, which are as many ids; the one behind the
//                  vocabulary's last says that nothing is asked.
//   last 32 bytes  u64 ids, u64 boundaries, u64 bytes of text behind the ids, "RFTOKEND"
//
// Counts stand at the end because a stream does not know them before.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "refrain/io/file.h"

namespace refrain::data {

enum class TokenTask : uint32_t { kLm, kTranslate, kProbe };

struct TokenFileHeader {
  TokenTask task = TokenTask::kLm;
  uint64_t vocab_size = 0;
  uint64_t fingerprint = 0;
};

// Checks everything but the ids when it is opened; ids are checked as they are read, so that
// opening a large file does not read all of it.
class TokenFile {
 public:
  explicit TokenFile(const std::string& path);
  // True if the file starts as a token file does.
  static bool is_one(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const TokenFileHeader& header() const { return header_; }
  int64_t ids() const { return ids_; }
  int64_t boundaries() const { return boundaries_; }
  int64_t boundary(int64_t i) const;
  int64_t text_bytes() const { return text_bytes_; }
  // The ids from `first` on. Error when one is not in the vocabulary (probe: nor behind its last).
  void read(int64_t first, std::span<int32_t> out) const;

 private:
  io::MappedFile file_;
  TokenFileHeader header_;
  uint32_t id_bytes_ = 0;
  int64_t ids_ = 0, boundaries_ = 0, text_bytes_ = 0;
  const std::byte* boundary_data_ = nullptr;
};

// Ids go straight to disk; a boundary takes 8 bytes of memory until commit().
class TokenFileWriter {
 public:
  TokenFileWriter(const std::string& path, const TokenFileHeader& header);

  void add(std::span<const int32_t> ids);
  void add(int32_t id) { add({&id, 1}); }
  void mark_boundary() { boundaries_.push_back(ids_); }  // at the next id
  int64_t ids() const { return static_cast<int64_t>(ids_); }
  void commit(int64_t text_bytes);  // marks the last boundary

 private:
  io::AtomicFile file_;
  TokenFileHeader header_;
  uint32_t id_bytes_;
  uint64_t ids_ = 0;
  std::vector<uint64_t> boundaries_;
};

}  // namespace refrain::data

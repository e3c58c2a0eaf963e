// Token ids on disk. A text is encoded once, and training reads the ids from the file, so training
// memory does not grow with the data. Little endian:
//
//      0  8 bytes  "RFTOKENS"
//      8  u32      version, 2
//     12  u32      task: 0 lm, 1 translate, 2 probe, 3 chat
//     16  u32      bytes of an id: 2 if the vocabulary has at most 65,536 tokens, else 4
//     20  u32      0
//     24  u64      tokens in the vocabulary
//     32  u64      fingerprint of the tokenizer
//     40  24 bytes 0
//     64           the ids, one after another, then 0 up to a multiple of 8
//                  a hash (XXH64) of every 256 KiB of that, the last of the remainder, u64 each
//                  the boundaries, u64 each: places among the ids, ascending, the first 0 and the
//                  last the number of ids. lm: where a document begins. translate: where a pair
//                  begins and, after it, where its target does. probe, chat: where a sequence
//                  begins and, after it, where its targets do, which are as many ids; the id after
//                  the vocabulary's last means that there is no question, or nothing to learn.
//   last 40 bytes  u64 ids, u64 boundaries, u64 bytes of the text, u64 fingerprint, and "RFTOKEND"
//
// The fingerprint covers the header, the hashes, the boundaries and the three counts, so all of the
// file. It is checked when the file is opened. Ids are checked when they are first read, 256 KiB at
// a time. Counts are at the end because a stream does not know them earlier.
//
// Version 1 is read too. It has no hashes, and its last 32 bytes have no fingerprint. Its ids are
// only checked against the vocabulary.
#pragma once
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "refrain/io/file.h"
#include "refrain/io/input_file.h"

namespace refrain::data {

enum class TokenTask : uint32_t { kLm, kTranslate, kProbe, kChat };
// Sequences with targets of their own, as many ids as inputs.
constexpr bool has_targets(TokenTask task) {
  return task == TokenTask::kProbe || task == TokenTask::kChat;
}

struct TokenFileHeader {
  TokenTask task = TokenTask::kLm;
  uint64_t vocab_size = 0;
  uint64_t fingerprint = 0;
};

// Opening checks everything except the ids. Ids are checked when they are read, so opening a large
// file does not read all of it. The boundaries of pairs and probes are held in memory, 8 bytes
// each.
class TokenFile {
 public:
  explicit TokenFile(const std::string& path) : TokenFile(path, path) {}
  TokenFile(const std::string& path, const std::string& name);  // which errors call it
  // True if the file starts as a token file does.
  static bool is_one(const std::string& path);

  const std::string& name() const { return file_.name(); }
  const TokenFileHeader& header() const { return header_; }
  int64_t ids() const { return ids_; }
  int64_t boundaries() const { return boundaries_; }
  int64_t boundary(int64_t i) const;
  int64_t text_bytes() const { return text_bytes_; }
  // A hash of the whole file. A file of version 1 is read whole for it.
  uint64_t fingerprint() const;
  // The ids from `first` on. An Error if one is not in the vocabulary (probe: nor the one after its
  // last), or if they are not those that were written. Any number of threads may read.
  void read(int64_t first, std::span<int32_t> out) const;

 private:
  uint64_t check_boundaries();
  void read_bytes(size_t at, std::span<std::byte> out) const;  // of the ids
  void load_block(size_t block) const;

  io::InputFile file_;
  TokenFileHeader header_;
  uint32_t id_bytes_ = 0;
  int64_t ids_ = 0, boundaries_ = 0, text_bytes_ = 0;
  size_t id_space_ = 0;       // bytes, padding included
  size_t boundaries_at_ = 0;  // in the file
  uint64_t fingerprint_ = 0;  // version 2
  std::vector<uint64_t> hashes_, kept_boundaries_;

  mutable std::mutex mutex_;  // over what follows
  mutable std::vector<bool> checked_;
  mutable std::vector<std::byte> block_;  // the one checked last
  mutable size_t block_at_ = SIZE_MAX;
};

// Writes a token file. Ids go to disk at once; a boundary takes 8 bytes of memory until commit().
class TokenFileWriter {
 public:
  TokenFileWriter(const std::string& path, const TokenFileHeader& header);

  void add(std::span<const int32_t> ids);
  void add(int32_t id) { add({&id, 1}); }
  void mark_boundary() { boundaries_.push_back(ids_); }  // at the next id
  int64_t ids() const { return static_cast<int64_t>(ids_); }
  // Marks the last boundary. `before` is called when everything is on disk and only the final name
  // is missing.
  void commit(int64_t text_bytes, const std::function<void()>& before = {});

 private:
  io::AtomicFile file_;
  TokenFileHeader header_;
  uint32_t id_bytes_;
  uint64_t ids_ = 0;
  std::vector<uint64_t> boundaries_, hashes_;
  std::vector<std::byte> block_;  // ids that have no hash yet

  void write_block();
};

}  // namespace refrain::data

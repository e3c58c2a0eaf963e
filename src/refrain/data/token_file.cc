#include "refrain/data/token_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "refrain/base/error.h"
#include "refrain/base/hash.h"

namespace refrain::data {
namespace {

static_assert(std::endian::native == std::endian::little,
              "numbers are read as they stand in the file");

constexpr std::string_view kMagic = "RFTOKENS", kEnd = "RFTOKEND";
constexpr uint32_t kFirstVersion = 1, kVersion = 2;
constexpr size_t kBlock = size_t{1} << 18;  // bytes of ids that have a hash together
constexpr uint64_t kMaxVocab = uint64_t{1} << 31;
constexpr uint64_t kPadding = 8;

struct Head {
  char magic[8];
  uint32_t version, task, id_bytes, zero;
  uint64_t vocab_size, fingerprint;
  char rest[24];
};
static_assert(sizeof(Head) == 64);

struct Tail {
  uint64_t ids, boundaries, text_bytes, fingerprint;
  char magic[8];
};
static_assert(sizeof(Tail) == 40);
constexpr size_t kFirstTail = 32;  // bytes of it in version 1

// Ids are below this.
uint64_t id_limit(const TokenFileHeader& header) {
  return header.vocab_size + (has_targets(header.task) ? 1 : 0);
}

uint32_t bytes_of_id(const TokenFileHeader& header) { return id_limit(header) <= 65536 ? 2 : 4; }

Head head_of(const TokenFileHeader& header) {
  Head head{};
  std::copy(kMagic.begin(), kMagic.end(), head.magic);
  head.version = kVersion;
  head.task = static_cast<uint32_t>(header.task);
  head.id_bytes = bytes_of_id(header);
  head.vocab_size = header.vocab_size;
  head.fingerprint = header.fingerprint;
  return head;
}

uint64_t padded(uint64_t bytes) { return (bytes + kPadding - 1) / kPadding * kPadding; }

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

size_t blocks_of(uint64_t bytes) { return bytes / kBlock + (bytes % kBlock != 0); }

// Of a whole file.
uint64_t fingerprint_of(const Head& head, std::span<const uint64_t> hashes,
                        uint64_t hash_of_boundaries, const Tail& tail) {
  const uint64_t parts[] = {hash64(bytes_of(head)), hash64(std::as_bytes(hashes)),
                            hash_of_boundaries,     tail.ids,
                            tail.boundaries,        tail.text_bytes};
  return hash64(std::as_bytes(std::span(parts)));
}

// Boundaries come in pieces: each piece's hash goes into the next.
constexpr size_t kPiece = size_t{1} << 13;  // boundaries

uint64_t hash_of_boundaries(uint64_t before, std::span<const uint64_t> piece) {
  return hash64(std::as_bytes(piece), before);
}

}  // namespace

TokenFile::TokenFile(const std::string& path, const std::string& name) : file_(path, name) {
  const size_t size = file_.size();
  if (size < sizeof(Head) + kFirstTail)
    throw_error("{}: not a token file: {} bytes, expected at least {}", name, size,
                sizeof(Head) + kFirstTail);
  Head head;
  Tail tail{};
  const auto writable = [](auto& value) { return std::as_writable_bytes(std::span(&value, 1)); };
  file_.read(0, writable(head));
  if (kMagic != std::string_view(head.magic, 8))
    throw_error("{}: not a token file: it does not start with {}", name, kMagic);
  if (head.version != kFirstVersion && head.version != kVersion)
    throw_error("{}: token file version {}, expected {} or {}", name, head.version, kFirstVersion,
                kVersion);
  const bool has_hashes = head.version == kVersion;
  const size_t tail_bytes = has_hashes ? sizeof(Tail) : kFirstTail;
  if (size < sizeof(Head) + tail_bytes)
    throw_error("{}: cut short: {} bytes, expected at least {}", name, size,
                sizeof(Head) + tail_bytes);
  file_.read(size - tail_bytes, writable(tail).first(tail_bytes));
  if (!has_hashes) std::memcpy(tail.magic, &tail.fingerprint, sizeof(tail.magic));
  if (kEnd != std::string_view(tail.magic, 8))
    throw_error("{}: cut short: it does not end with {}", name, kEnd);
  if (head.task > 3) throw_error("{}: task {}, expected 0 to 3", name, head.task);
  if (head.vocab_size == 0 || head.vocab_size > kMaxVocab)
    throw_error("{}: a vocabulary of {} tokens, expected 1 to {}", name, head.vocab_size,
                kMaxVocab);
  header_ = {static_cast<TokenTask>(head.task), head.vocab_size, head.fingerprint};
  if (head.id_bytes != bytes_of_id(header_))
    throw_error("{}: {} bytes an id, expected {} for a vocabulary of {} tokens", name,
                head.id_bytes, bytes_of_id(header_), head.vocab_size);
  const uint64_t room = size - sizeof(Head) - tail_bytes;
  const auto space = [&] { return padded(tail.ids * head.id_bytes); };
  const auto hashes = [&] { return has_hashes ? blocks_of(space()) : 0; };
  if (tail.ids > room / head.id_bytes || tail.boundaries > room / 8 ||
      space() + 8 * (hashes() + tail.boundaries) != room)
    throw_error("{}: {} ids and {} boundaries do not fit a file of {} bytes", name, tail.ids,
                tail.boundaries, size);
  if (tail.text_bytes > uint64_t{1} << 62)
    throw_error("{}: {} bytes of text, expected fewer", name, tail.text_bytes);
  // n documents have n + 1 boundaries, n pairs 2 n + 1.
  const bool pairs = header_.task != TokenTask::kLm;
  if (tail.boundaries < 2 || (pairs && tail.boundaries % 2 == 0))
    throw_error("{}: {} boundaries, expected {}", name, tail.boundaries,
                pairs ? "an odd number from 3 on" : "at least 2");

  id_bytes_ = head.id_bytes;
  ids_ = static_cast<int64_t>(tail.ids);
  boundaries_ = static_cast<int64_t>(tail.boundaries);
  text_bytes_ = static_cast<int64_t>(tail.text_bytes);
  id_space_ = space();
  hashes_.resize(hashes());
  file_.read(sizeof(Head) + id_space_, std::as_writable_bytes(std::span(hashes_)));
  boundaries_at_ = sizeof(Head) + id_space_ + 8 * hashes_.size();
  checked_.resize(blocks_of(id_space_));
  const uint64_t of_boundaries = check_boundaries();
  if (has_hashes) {
    fingerprint_ = fingerprint_of(head, hashes_, of_boundaries, tail);
    if (fingerprint_ != tail.fingerprint)
      throw_error("{}: damaged: its fingerprint is {:016x}, expected {:016x}", name, fingerprint_,
                  tail.fingerprint);
  }
}

// Returns their hash.
uint64_t TokenFile::check_boundaries() {
  const bool pairs = header_.task != TokenTask::kLm;
  const auto ids = static_cast<uint64_t>(ids_);
  if (pairs) kept_boundaries_.reserve(static_cast<size_t>(boundaries_));
  uint64_t before = 0, length = 0, hash = 0;
  std::vector<uint64_t> piece;
  for (int64_t i = 0; i < boundaries_; ++i) {
    const size_t in_piece = static_cast<size_t>(i) % kPiece;
    if (in_piece == 0) {
      piece.resize(std::min(kPiece, static_cast<size_t>(boundaries_ - i)));
      file_.read(boundaries_at_ + 8 * static_cast<size_t>(i),
                 std::as_writable_bytes(std::span(piece)));
      hash = hash_of_boundaries(hash, piece);
    }
    const uint64_t at = piece[in_piece];
    if (i == 0 ? at != 0 : at <= before || at > ids)
      throw_error("{}: boundary {} is {} after {} of {} ids, expected them to ascend", name(), i,
                  at, before, ids);
    if (has_targets(header_.task) && i > 0 && i % 2 == 0 && at - before != length)
      throw_error("{}: boundary {}: {} targets of {} ids, expected as many", name(), i, at - before,
                  length);
    length = at - before;
    before = at;
    if (pairs) kept_boundaries_.push_back(at);
  }
  if (before != ids)
    throw_error("{}: the last boundary is {}, expected {} ids", name(), before, ids);
  return hash;
}

bool TokenFile::is_one(const std::string& path) {
  // Pipes cannot be token files, and peeking at one would take bytes from it.
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) return false;
  const io::InputFile file(path);
  std::array<char, kMagic.size()> start;
  if (file.size() < start.size()) return false;
  file.read(0, std::as_writable_bytes(std::span(start)));
  return std::string_view(start.data(), start.size()) == kMagic;
}

int64_t TokenFile::boundary(int64_t i) const {
  REFRAIN_CHECK(i >= 0 && i < boundaries_);
  if (!kept_boundaries_.empty())
    return static_cast<int64_t>(kept_boundaries_[static_cast<size_t>(i)]);
  uint64_t at = 0;
  file_.read(boundaries_at_ + 8 * static_cast<size_t>(i),
             std::as_writable_bytes(std::span(&at, 1)));
  // Checked when it was opened; a file that changed since must not lead anywhere else.
  return static_cast<int64_t>(std::min(at, static_cast<uint64_t>(ids_)));
}

// Into block_, held against its hash.
void TokenFile::load_block(size_t block) const {
  block_at_ = SIZE_MAX;
  block_.resize(std::min(kBlock, id_space_ - block * kBlock));
  file_.read(sizeof(Head) + block * kBlock, block_);
  if (!hashes_.empty() && hash64(block_) != hashes_[block])
    throw_error("{}: damaged: the ids from place {} on are not those that were written", name(),
                block * kBlock / id_bytes_);
  checked_[block] = true;
  block_at_ = block;
}

void TokenFile::read_bytes(size_t at, std::span<std::byte> out) const {
  const std::lock_guard lock(mutex_);
  while (!out.empty()) {
    const size_t block = at / kBlock, in_block = at % kBlock;
    const std::span<std::byte> part = out.first(std::min(out.size(), kBlock - in_block));
    if (!checked_[block]) load_block(block);
    if (block == block_at_)
      std::copy_n(block_.begin() + static_cast<ptrdiff_t>(in_block), part.size(), part.begin());
    else
      file_.read(sizeof(Head) + at, part);
    at += part.size();
    out = out.subspan(part.size());
  }
}

void TokenFile::read(int64_t first, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  REFRAIN_CHECK(first >= 0 && count <= ids_ && first <= ids_ - count);
  // The ids as they stand in the file, at the end of where they go: each is read before its place
  // is written to.
  const std::span<std::byte> bytes = std::as_writable_bytes(out);
  const std::span<std::byte> raw = bytes.last(out.size() * id_bytes_);
  read_bytes(static_cast<size_t>(first) * id_bytes_, raw);
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* from = raw.data() + i * id_bytes_;
    const uint32_t id = id_bytes_ == 2 ? load<uint16_t>(from) : load<uint32_t>(from);
    if (id >= id_limit(header_))
      throw_error("{}: id {} at place {}, expected less than {}", name(), id, first + i,
                  id_limit(header_));
    out[static_cast<size_t>(i)] = static_cast<int32_t>(id);
  }
}

uint64_t TokenFile::fingerprint() const {
  if (!hashes_.empty()) return fingerprint_;
  // Version 1 has none: it is made of the bytes.
  uint64_t hash = 0;
  std::vector<std::byte> piece;
  for (size_t at = 0; at < file_.size(); at += piece.size()) {
    piece.resize(std::min(kBlock, file_.size() - at));
    file_.read(at, piece);
    hash = hash64(piece, hash);
  }
  return hash;
}

TokenFileWriter::TokenFileWriter(const std::string& path, const TokenFileHeader& header)
    : file_(path), header_(header), id_bytes_(bytes_of_id(header)) {
  REFRAIN_CHECK(header.vocab_size > 0 && header.vocab_size <= kMaxVocab);
  file_.write(bytes_of(head_of(header)));
}

void TokenFileWriter::add(std::span<const int32_t> ids) {
  for (const int32_t id : ids) {
    REFRAIN_CHECK(id >= 0 && static_cast<uint64_t>(id) < id_limit(header_));
    const std::span<const std::byte> bytes = bytes_of(id).first(id_bytes_);
    block_.insert(block_.end(), bytes.begin(), bytes.end());
    if (block_.size() == kBlock) write_block();
  }
  ids_ += ids.size();
}

void TokenFileWriter::write_block() {
  hashes_.push_back(hash64(block_));
  file_.write(block_);
  block_.clear();
}

void TokenFileWriter::commit(int64_t text_bytes, const std::function<void()>& before) {
  block_.resize(padded(block_.size()));
  if (!block_.empty()) write_block();
  file_.write(std::as_bytes(std::span(hashes_)));
  boundaries_.push_back(ids_);
  file_.write(std::as_bytes(std::span(boundaries_)));
  Tail tail{ids_, boundaries_.size(), static_cast<uint64_t>(text_bytes), 0, {}};
  std::copy(kEnd.begin(), kEnd.end(), tail.magic);
  uint64_t hash = 0;
  const std::span<const uint64_t> all(boundaries_);
  for (size_t i = 0; i < all.size(); i += kPiece)
    hash = hash_of_boundaries(hash, all.subspan(i, std::min(kPiece, all.size() - i)));
  tail.fingerprint = fingerprint_of(head_of(header_), hashes_, hash, tail);
  file_.write(bytes_of(tail));
  file_.settle();
  if (before) before();
  file_.commit();
}

}  // namespace refrain::data

#include "refrain/data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "refrain/base/error.h"

namespace refrain::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are mapped as they are");

constexpr std::string_view kMagic = "RFTOKENS", kEnd = "RFTOKEND";
constexpr uint32_t kVersion = 1;
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
  uint64_t ids, boundaries, text_bytes;
  char magic[8];
};
static_assert(sizeof(Tail) == 32);

// Ids are below this.
uint64_t id_limit(const TokenFileHeader& header) {
  return header.vocab_size + (header.task == TokenTask::kProbe ? 1 : 0);
}

uint32_t bytes_of_id(const TokenFileHeader& header) { return id_limit(header) <= 65536 ? 2 : 4; }

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

}  // namespace

TokenFile::TokenFile(const std::string& path) : file_(path) {
  const auto bytes = file_.bytes();
  if (bytes.size() < sizeof(Head) + sizeof(Tail))
    throw_error("{}: not a token file: {} bytes, expected at least {}", path, bytes.size(),
                sizeof(Head) + sizeof(Tail));
  const auto head = load<Head>(bytes.data());
  const auto tail = load<Tail>(bytes.data() + bytes.size() - sizeof(Tail));
  if (kMagic != std::string_view(head.magic, 8))
    throw_error("{}: not a token file: it does not start with {}", path, kMagic);
  if (head.version != kVersion)
    throw_error("{}: token file version {}, expected {}", path, head.version, kVersion);
  if (kEnd != std::string_view(tail.magic, 8))
    throw_error("{}: cut short: it does not end with {}", path, kEnd);
  if (head.task > 2) throw_error("{}: task {}, expected 0 to 2", path, head.task);
  if (head.vocab_size == 0 || head.vocab_size > kMaxVocab)
    throw_error("{}: a vocabulary of {} tokens, expected 1 to {}", path, head.vocab_size,
                kMaxVocab);
  header_ = {static_cast<TokenTask>(head.task), head.vocab_size, head.fingerprint};
  if (head.id_bytes != bytes_of_id(header_))
    throw_error("{}: {} bytes an id, expected {} for a vocabulary of {} tokens", path,
                head.id_bytes, bytes_of_id(header_), head.vocab_size);
  const uint64_t room = bytes.size() - sizeof(Head) - sizeof(Tail);
  if (tail.ids > room / head.id_bytes || tail.boundaries > room / 8 ||
      padded(tail.ids * head.id_bytes) + tail.boundaries * 8 != room)
    throw_error("{}: {} ids and {} boundaries do not fit a file of {} bytes", path, tail.ids,
                tail.boundaries, bytes.size());
  if (tail.text_bytes > uint64_t{1} << 62)
    throw_error("{}: {} bytes of text, expected fewer", path, tail.text_bytes);
  // n documents have n + 1 boundaries, n pairs 2 n + 1.
  const bool pairs = header_.task != TokenTask::kLm;
  if (tail.boundaries < 2 || (pairs && tail.boundaries % 2 == 0))
    throw_error("{}: {} boundaries, expected {}", path, tail.boundaries,
                pairs ? "an odd number from 3 on" : "at least 2");

  id_bytes_ = head.id_bytes;
  ids_ = static_cast<int64_t>(tail.ids);
  boundaries_ = static_cast<int64_t>(tail.boundaries);
  text_bytes_ = static_cast<int64_t>(tail.text_bytes);
  boundary_data_ = bytes.data() + sizeof(Head) + padded(tail.ids * head.id_bytes);
  uint64_t before = 0, length = 0;
  for (int64_t i = 0; i < boundaries_; ++i) {
    const auto at = load<uint64_t>(boundary_data_ + 8 * i);
    if (i == 0 ? at != 0 : at <= before || at > tail.ids)
      throw_error("{}: boundary {} is {} after {} of {} ids, expected them to ascend", path, i, at,
                  before, tail.ids);
    if (header_.task == TokenTask::kProbe && i > 0 && i % 2 == 0 && at - before != length)
      throw_error("{}: boundary {}: {} targets of {} ids, expected as many", path, i, at - before,
                  length);
    length = at - before;
    before = at;
  }
  if (before != tail.ids)
    throw_error("{}: the last boundary is {}, expected {} ids", path, before, tail.ids);
  file_.release();
}

bool TokenFile::is_one(const std::string& path) {
  // Pipes cannot be token files, and peeking at one would take bytes from it.
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) return false;
  const io::MappedFile file(path);
  return file.bytes().size() >= kMagic.size() &&
         std::memcmp(file.bytes().data(), kMagic.data(), kMagic.size()) == 0;
}

int64_t TokenFile::boundary(int64_t i) const {
  REFRAIN_CHECK(i >= 0 && i < boundaries_);
  return load<int64_t>(boundary_data_ + 8 * i);
}

void TokenFile::read(int64_t first, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  REFRAIN_CHECK(first >= 0 && count <= ids_ && first <= ids_ - count);
  const std::byte* from = file_.bytes().data() + sizeof(Head) + first * id_bytes_;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t id =
        id_bytes_ == 2 ? load<uint16_t>(from + 2 * i) : load<uint32_t>(from + 4 * i);
    if (id >= id_limit(header_))
      throw_error("{}: id {} at place {}, expected less than {}", path(), id, first + i,
                  id_limit(header_));
    out[static_cast<size_t>(i)] = static_cast<int32_t>(id);
  }
  file_.release();
}

TokenFileWriter::TokenFileWriter(const std::string& path, const TokenFileHeader& header)
    : file_(path), header_(header), id_bytes_(bytes_of_id(header)) {
  REFRAIN_CHECK(header.vocab_size > 0 && header.vocab_size <= kMaxVocab);
  Head head{};
  std::copy(kMagic.begin(), kMagic.end(), head.magic);
  head.version = kVersion;
  head.task = static_cast<uint32_t>(header.task);
  head.id_bytes = id_bytes_;
  head.vocab_size = header.vocab_size;
  head.fingerprint = header.fingerprint;
  file_.write(bytes_of(head));
}

void TokenFileWriter::add(std::span<const int32_t> ids) {
  for (const int32_t id : ids) {
    REFRAIN_CHECK(id >= 0 && static_cast<uint64_t>(id) < id_limit(header_));
    file_.write(bytes_of(id).first(id_bytes_));
  }
  ids_ += ids.size();
}

void TokenFileWriter::commit(int64_t text_bytes) {
  const std::string zeros(padded(ids_ * id_bytes_) - ids_ * id_bytes_, '\0');
  file_.write(zeros);
  boundaries_.push_back(ids_);
  file_.write(std::as_bytes(std::span(boundaries_)));
  Tail tail{ids_, boundaries_.size(), static_cast<uint64_t>(text_bytes), {}};
  std::copy(kEnd.begin(), kEnd.end(), tail.magic);
  file_.write(bytes_of(tail));
  file_.commit();
}

}  // namespace refrain::data

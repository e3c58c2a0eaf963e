#include "refrain/io/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/hash.h"
#include "refrain/io/descriptor.h"
#include "refrain/io/input_file.h"

namespace refrain::io {
namespace fs = std::filesystem;
namespace {

constexpr size_t kBuffer = size_t{1} << 17;
constexpr std::string_view kTemporary = ".tmp-", kOld = ".old-";
constexpr mode_t kModeOfFiles = 0777, kModeOfFolders = 07777;

// The folder and the name in it. "a/b/" is "b" in "a".
struct Place {
  std::string folder, name;
};

std::string without_last_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

Place place_of(const std::string& given) {
  const std::string path = without_last_slashes(given);
  const size_t slash = path.rfind('/');
  Place place;
  place.folder = slash == path.npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  place.name = slash == path.npos ? path : path.substr(slash + 1);
  if (place.name.empty() || place.name == "." || place.name == "..")
    throw_error("\"{}\": not a name that can be written", path);
  return place;
}

// ".<name><kind><process>" beside `path`, and further names in case an earlier process with this
// number crashed and left one.
std::string hidden_name(const std::string& path, std::string_view kind, int attempt) {
  const Place place = place_of(path);
  std::string hidden = fmt::format("{}/.{}{}{}", place.folder, place.name, kind, getpid());
  if (attempt > 0) hidden += fmt::format("-{}", attempt);
  return hidden;
}

// What hidden_name() was made from, or nothing if it is no name of that kind.
std::string visible_name(const std::string& hidden, std::string_view kind) {
  const size_t at = hidden.rfind(kind);
  if (hidden[0] != '.' || at == hidden.npos || at < 2) return {};
  const std::string_view suffix = std::string_view(hidden).substr(at + kind.size());
  if (suffix.empty() || suffix.find_first_not_of("0123456789-") != suffix.npos) return {};
  return hidden.substr(1, at - 1);
}

void sync_path(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  // Some file systems have nothing to sync for a folder and say so with EINVAL.
  if (fsync(file.fd()) != 0 && errno != EINVAL) throw_system_error("make durable", path);
}

bool is_of_proc(const std::string& link) {
  constexpr decltype(statfs::f_type) kProc = 0x9fa0;
  struct statfs system;
  return statfs(place_of(link).folder.c_str(), &system) == 0 && system.f_type == kProc;
}

bool is_link(const std::string& path) {
  struct stat status;
  return lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

bool is_mount_point(const std::string& path) {
  struct statx status;
  if (statx(AT_FDCWD, path.c_str(), 0, STATX_BASIC_STATS, &status) != 0) return false;
  return (status.stx_attributes & status.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0;
}

// `to` gets the mode of what it is to replace and, as far as this process may, the owner.
void hand_on(const struct stat& from, int to) {
  const mode_t mode = from.st_mode & (S_ISDIR(from.st_mode) ? kModeOfFolders : kModeOfFiles);
  struct stat now;
  if (fstat(to, &now) == 0 && (now.st_uid != from.st_uid || now.st_gid != from.st_gid))
    (void)!fchown(to, from.st_uid, from.st_gid);
  (void)!fchmod(to, mode);
}

void hand_on_all(const std::string& old, const std::string& fresh) {
  const auto one = [](const std::string& from, const std::string& to) {
    struct stat before, after;
    if (lstat(from.c_str(), &before) != 0 || lstat(to.c_str(), &after) != 0) return;
    const bool alike = (before.st_mode & S_IFMT) == (after.st_mode & S_IFMT);
    if (!alike || (!S_ISREG(before.st_mode) && !S_ISDIR(before.st_mode))) return;
    hand_on(before, Descriptor(to, O_RDONLY | O_NOFOLLOW).fd());
  };
  std::vector<std::string> names = {""};
  std::error_code failed;
  for (fs::recursive_directory_iterator entry(fresh, failed), end; !failed && entry != end;
       entry.increment(failed))
    names.push_back("/" + entry->path().lexically_relative(fresh).string());
  // What is in a folder before the folder, whose mode may close it.
  for (auto name = names.rbegin(); name != names.rend(); ++name) one(old + *name, fresh + *name);
}

void erase(const std::string& path) {
  std::error_code failed;
  fs::remove_all(path, failed);
  if (failed) throw_error("cannot remove {}: {}", path, failed.message());
}

// Calls f(path) for the directory and all that is in it, as far as it can be read.
template <class F>
void each_in(const std::string& directory, const F& f) {
  f(directory);
  std::error_code failed;
  for (fs::recursive_directory_iterator entry(directory, failed), end; !failed && entry != end;
       entry.increment(failed))
    f(entry->path().string());
}

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(fs::symlink_status(path, ignored));
}

// What was replaced or left behind has no protection to keep; whether it could be removed.
bool erase_own(const std::string& path) {
  std::error_code failed;
  if (is_folder(path))
    each_in(path, [&](const std::string& at) {
      std::error_code ignored;
      if (is_folder(at)) fs::permissions(at, fs::perms::owner_all, fs::perm_options::add, ignored);
    });
  fs::remove_all(path, failed);
  return !failed;
}

std::string read_all(const Descriptor& file, const std::string& path, size_t max_bytes) {
  std::string text;
  max_bytes = std::min(max_bytes, text.max_size() - 1);
  size_t got = 1;
  while (got > 0) {
    const size_t size = text.size();
    text.resize(std::min(size + std::max(size, kBuffer), max_bytes + 1));
    got = file.read(text.data() + size, text.size() - size);
    text.resize(size + got);
    if (text.size() > max_bytes) throw_error("{}: longer than {} bytes", path, max_bytes);
  }
  return text;
}

// f(a piece), 256 KiB at a time.
template <class F>
void each_piece(const InputFile& file, const F& f) {
  constexpr size_t kPiece = size_t{1} << 18;
  std::vector<std::byte> piece;
  for (size_t at = 0; at < file.size(); at += piece.size()) {
    piece.resize(std::min(kPiece, file.size() - at));
    file.read(at, piece);
    f(std::span<const std::byte>(piece));
  }
}

void rename_path(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    throw_system_error(fmt::format("rename {} to", from), to);
}

}  // namespace

std::string read_file(const std::string& path, size_t max_bytes) {
  size_t size = 0;
  const Descriptor file = open_regular(path, &size);
  if (size > max_bytes) throw_error("{}: longer than {} bytes", path, max_bytes);
  return read_all(file, path, max_bytes);
}

std::string read_stream(const std::string& path, size_t max_bytes) {
  return read_all(Descriptor(path, O_RDONLY), path, max_bytes);
}

bool exists(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) throw_system_error("look for", path);
  return false;
}

std::string follow_links(const std::string& path) {
  constexpr int kMostLinks = 40;  // as the kernel has it
  std::string at = without_last_slashes(path);
  for (int links = 0; is_link(at) && !is_of_proc(at); ++links) {
    std::string to(PATH_MAX, '\0');
    const ssize_t size = readlink(at.c_str(), to.data(), to.size());
    if (links == kMostLinks) errno = ELOOP;
    if (size < 0 || links == kMostLinks) throw_system_error("follow", path);
    to = without_last_slashes(to.substr(0, static_cast<size_t>(size)));
    at = to[0] == '/' ? to : place_of(at).folder + "/" + to;
  }
  return at;
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), target_(follow_links(path_)) {
  struct stat status;
  const bool replaces = stat(target_.c_str(), &status) == 0;
  if (replaces && (!S_ISREG(status.st_mode) || is_link(target_))) {
    fd_ = Descriptor(path_, O_WRONLY | (S_ISREG(status.st_mode) ? O_APPEND : 0)).release();
    return;
  }
  // Never readable by more than it will be.
  const mode_t mode = replaces ? status.st_mode & kModeOfFiles : 0666;
  for (int attempt = 0; fd_ < 0; ++attempt) {
    temporary_ = hidden_name(target_, kTemporary, attempt);
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd_ < 0 && errno != EEXIST) throw_system_error("write", path_);
  }
  if (replaces) hand_on(status, fd_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void AtomicFile::fail() {
  const int reason = errno;
  close(std::exchange(fd_, -1));
  if (!temporary_.empty()) unlink(temporary_.c_str());
  errno = reason;
  throw_system_error("write", path_);
}

void AtomicFile::put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(fd_, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail();
    text.remove_prefix(static_cast<size_t>(put));
  }
}

void AtomicFile::write(std::string_view text) {
  REFRAIN_CHECK(fd_ >= 0);
  if (buffer_.size() + text.size() >= kBuffer) {
    put(buffer_);
    buffer_.clear();
  }
  if (text.size() >= kBuffer)
    put(text);
  else
    buffer_ += text;
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

void AtomicFile::settle() {
  REFRAIN_CHECK(fd_ >= 0);
  put(buffer_);
  buffer_.clear();
  if (!temporary_.empty() && fsync(fd_) != 0) fail();
}

void AtomicFile::commit() {
  settle();
  if (!temporary_.empty() && std::rename(temporary_.c_str(), target_.c_str()) != 0) fail();
  if (close(std::exchange(fd_, -1)) != 0) throw_system_error("write", path_);
  if (!temporary_.empty()) sync_path(place_of(target_).folder);
}

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void append_file(const std::string& path, std::string_view text) {
  // Without O_NONBLOCK the opening of a pipe waits for who reads it.
  constexpr int kFlags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK;
  const Descriptor file(open(path.c_str(), kFlags, 0666), path);
  struct stat before;
  const bool is_open = file.fd() >= 0 && fstat(file.fd(), &before) == 0;
  if (is_open ? S_ISFIFO(before.st_mode) : errno == ENXIO)
    throw_error("{}: expected a regular file, found a pipe", path);
  if (!is_open) throw_system_error("write", path);
  while (!text.empty()) {
    const ssize_t put = ::write(file.fd(), text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      const int reason = errno;
      (void)!ftruncate(file.fd(), before.st_size);
      errno = reason;
      throw_system_error("write", path);
    }
    text.remove_prefix(static_cast<size_t>(put));
  }
}

void copy_file(const std::string& from, const std::string& to) {
  const InputFile content(from);
  AtomicFile copy(to);
  const bool shared =
      !copy.temporary_.empty() && ioctl(copy.fd_, FICLONE, Descriptor(from, O_RDONLY).fd()) == 0;
  if (!shared) each_piece(content, [&](std::span<const std::byte> piece) { copy.write(piece); });
  copy.commit();
}

uint64_t hash_file(const std::string& path) {
  uint64_t hash = 0;
  each_piece(InputFile(path),
             [&](std::span<const std::byte> piece) { hash = hash64(piece, hash); });
  return hash;
}

void move_new(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  if (errno == EEXIST || exists(to)) throw_error("{}: is in the way of {}", to, from);
  rename_path(from, to);  // a file system that has no such renaming
}

AtomicDirectory::AtomicDirectory(std::string path)
    : path_(std::move(path)), target_(follow_links(path_)) {
  std::error_code ignored;
  if (exists(target_) && !fs::is_directory(target_, ignored))
    throw_error("{}: expected a directory or nothing", path_);
  if (is_mount_point(target_))
    throw_error("{}: is a mount point, which cannot be replaced; expected a directory in it",
                path_);
  for (int attempt = 0;; ++attempt) {
    temporary_ = hidden_name(target_, kTemporary, attempt);
    if (mkdir(temporary_.c_str(), 0777) == 0) return;
    if (errno != EEXIST) throw_system_error("write", path_);
  }
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  REFRAIN_CHECK(!committed_);
  if (exists(target_)) hand_on_all(target_, temporary_);
  std::error_code failed;
  for (fs::recursive_directory_iterator entry(temporary_, failed), end; !failed && entry != end;
       entry.increment(failed))
    if (entry->is_regular_file(failed) || entry->is_directory(failed)) sync_path(entry->path());
  if (failed) throw_error("cannot write {}: {}", path_, failed.message());
  sync_path(temporary_);

  std::string old;
  if (exists(target_)) {
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
      committed_ = true;
      sync_path(place_of(target_).folder);
      erase_own(temporary_);
      return;
    }
    // A file system that cannot exchange names.
    for (int attempt = 0; old.empty() || exists(old); ++attempt)
      old = hidden_name(target_, kOld, attempt);
    rename_path(target_, old);
  }
  try {
    rename_path(temporary_, target_);
  } catch (const Error&) {
    if (!old.empty()) rename_path(old, target_);
    throw;
  }
  committed_ = true;
  sync_path(place_of(target_).folder);
  if (!old.empty()) erase_own(old);
}

void AtomicDirectory::remove_stale(const std::string& parent, const Notes& notes) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator entry(parent, failed), end; !failed && entry != end;
       entry.increment(failed))
    names.push_back(entry->path().filename());
  if (failed) throw_error("cannot read {}: {}", parent, failed.message());
  const auto remove = [&](const std::string& path) {
    if (!erase_own(path))
      add_note(notes, "{}: left behind by a crash, and cannot be removed", path);
  };
  for (const std::string& name : names) {
    const std::string path = fmt::format("{}/{}", parent, name);
    if (const std::string of = visible_name(name, kOld); !of.empty()) {
      const std::string replaced = fmt::format("{}/{}", parent, of);
      if (exists(replaced))
        remove(path);
      else
        rename_path(path, replaced);
    } else if (!visible_name(name, kTemporary).empty()) {
      remove(path);
    }
  }
  sync_path(parent);
}

void make_directories(const std::string& path) {
  std::error_code failed;
  fs::create_directories(follow_links(path), failed);
  if (failed) throw_error("cannot make the directory {}: {}", path, failed.message());
}

void remove_all(const std::string& path) {
  if (!is_folder(path)) return erase(path);
  const auto size = [](const std::string& directory) {
    int64_t n = 0;
    each_in(directory, [&](const std::string&) { ++n; });
    return n;
  };
  each_in(path, [&](const std::string& at) {
    if (is_folder(at) && access(at.c_str(), W_OK | X_OK) != 0) throw_system_error("remove", at);
  });
  const int64_t before = size(path);
  std::string hidden;
  for (int attempt = 0; hidden.empty() || exists(hidden); ++attempt)
    hidden = hidden_name(path, kTemporary, attempt);
  rename_path(path, hidden);
  try {
    erase(hidden);
  } catch (const Error&) {
    if (size(hidden) != before) throw;
    rename_path(hidden, path);
    throw_error("cannot remove {}: nothing in it can be removed", path);
  }
}

}  // namespace refrain::io

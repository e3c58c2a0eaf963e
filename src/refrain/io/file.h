// Reading whole files, and writing files so that a crash at any time leaves the old content or the
// new, never a part. (To read at any place: input_file.h.) Every failure is an Error that names the
// path and the system's reason.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "refrain/base/notes.h"

namespace refrain::io {

// The content of a regular file; an Error if it is longer than `max_bytes`. Anything else of that
// name (a pipe without a writer, a device) is refused without waiting for it.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);
// The same for any input that a user names, including "/dev/stdin" and pipes of the shell. It may
// wait for them.
std::string read_stream(const std::string& path, size_t max_bytes = size_t{1} << 30);

bool exists(const std::string& path);

// If the last part of `path` is a symbolic link, the path that it leads to, which need not exist. A
// link of /proc is not followed, since its target may have no name.
std::string follow_links(const std::string& path);

// A file that is written beside its final name, as ".<name>.tmp-<process>". commit() makes it
// durable (fsync, rename, fsync of the folder). Without commit() nothing remains, and the final
// name keeps its old content. settle() does everything except the rename, so that errors come
// before anything is replaced. A symbolic link is followed. The new file gets the mode and the
// owner of the old one. A device, a pipe or an open file (/dev/stdout) cannot be replaced; it is
// written in place.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // After an Error nothing more can be written.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void settle();
  void commit();

 private:
  std::string path_, target_, temporary_;  // temporary_ is empty when written in place
  int fd_ = -1;                            // -1 once committed or failed
  std::string buffer_;
  void put(std::string_view text);
  [[noreturn]] void fail();
  friend void copy_file(const std::string& from, const std::string& to);
};

void write_file(const std::string& path, std::string_view text);  // AtomicFile in one call

// Adds to the end of a file, or creates it. If the disk is full the file stays as it was. A pipe is
// refused without waiting for a reader.
void append_file(const std::string& path, std::string_view text);

// Copies the content of the regular file `from` to `to`, as AtomicFile writes it. File systems that
// can, share the blocks (reflinks); a later change of one file does not change the other.
void copy_file(const std::string& from, const std::string& to);

// A hash of a regular file's content: hash64 (base/hash.h) of each 256 KiB, with the hash of
// everything before it as its seed.
uint64_t hash_file(const std::string& path);

// Renames `from` to `to`. If `to` exists: an Error.
void move_new(const std::string& from, const std::string& to);

// A directory that is filled beside its final name. Write files into path(). commit() then makes it
// durable and gives it its final name, where it replaces a directory of that name:
//   1. fsync of every file and folder in ".<name>.tmp-<process>"
//   2. if there is a <name>, the two exchange names in one step; otherwise rename to <name>
//   3. fsync of the folder that contains both
//   4. remove the old one, even if it is write-protected
// On a file system that cannot exchange names, step 2 first renames the old one to
// ".<name>.old-<process>". A crash at that moment leaves no <name> but a complete old directory;
// remove_stale() restores it.
//
// A symbolic link is followed. Files and folders get the modes and owners of those that they
// replace. A mount point cannot be replaced: an Error before anything is written.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::string path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::string& path() const { return temporary_; }  // where to write until commit()
  void commit();

  // Removes from `parent` what earlier crashes left: temporary files and directories of
  // AtomicDirectory and AtomicFile, and directories whose replacement did not finish. Only the one
  // process that writes into `parent` may call this, while it writes nothing there. What cannot be
  // removed does no harm: a note.
  static void remove_stale(const std::string& parent, const Notes& notes = {});

 private:
  std::string path_, target_, temporary_;
  bool committed_ = false;
};

void make_directories(const std::string& path);  // also where a symbolic link leads to nothing yet
// Removes a file or a directory. A directory first gets a temporary name, so that a part of it can
// never be mistaken for the whole. remove_stale() removes what a crash leaves. A write-protected
// directory, or one in which nothing could be removed, keeps its name: an Error. A symbolic link is
// removed, and its target stays.
void remove_all(const std::string& path);

}  // namespace refrain::io

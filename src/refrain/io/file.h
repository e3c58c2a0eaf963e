// Files as the rest of the program sees them: read whole (and at any place: input_file.h); written
// so that a crash at any instant leaves either the old content or the new, never a part. Every
// failure is an Error that names the path and the reason the system gave.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "refrain/base/notes.h"

namespace refrain::io {

// The whole of a regular file; an Error if it is longer than `max_bytes`. What else may bear the
// name (a pipe that nobody writes to, a device) is refused without waiting for it.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);
// Likewise whatever a user names, "/dev/stdin" and pipes from the shell too; it may wait for them.
std::string read_stream(const std::string& path, size_t max_bytes = size_t{1} << 30);

bool exists(const std::string& path);

// Where `path` leads when its last part is a symbolic link: to what is there, or is to be there. A
// link of /proc stays: what it stands for may have no name.
std::string follow_links(const std::string& path);

// A file being written beside its final name, as ".<name>.tmp-<process>". commit() makes it durable
// (fsync, rename, fsync of the folder); without it nothing is left behind and the final name keeps
// what it had; settle() does all of it but the rename, so that what can fail has failed before
// anything is replaced. A symbolic link is followed, and what is replaced hands on its mode and its
// owner. A device, a pipe or an open file (/dev/stdout) cannot be replaced: it is written in place.
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

// Adds to the end of a file, or makes it. On a full disk the file stays as it was. A pipe is
// refused without waiting for who reads it.
void append_file(const std::string& path, std::string_view text);

// `to` gets the content of the regular file `from`, as AtomicFile writes it; on file systems that
// can, both share what neither changes (reflinks), and a change of one never is one of the other.
void copy_file(const std::string& from, const std::string& to);

// A hash of a regular file's content: of each 256 KiB, with that of what is before as its seed
// (hash64, base/hash.h).
uint64_t hash_file(const std::string& path);

// Gives `from` the name `to`, which nothing may have: an Error.
void move_new(const std::string& from, const std::string& to);

// A directory being filled beside its final name: write files into path(), then commit() makes it
// durable and gives it its final name, where it replaces a directory of that name:
//   1. fsync of every file and folder in ".<name>.tmp-<process>"
//   2. if there is a <name>, the two exchange names in one step; otherwise rename to <name>
//   3. fsync of the folder both are in
//   4. remove the old one, also one that is write-protected
// On a file system that cannot exchange names, step 2 renames the old one to
// ".<name>.old-<process>" first. A crash just then leaves no <name> but a complete old one, which
// remove_stale() puts back.
//
// A symbolic link is followed, and what is replaced hands on the modes and owners of the files and
// folders of the same names. A mount point cannot be replaced: an Error before anything is written.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::string path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::string& path() const { return temporary_; }  // where to write until commit()
  void commit();

  // Clears `parent` of what earlier crashes left there: the temporaries of AtomicDirectory and
  // AtomicFile, and directories whose replacement did not finish. For the one process that writes
  // into `parent`, while it writes nothing there. What cannot be removed is in nobody's way: a
  // note.
  static void remove_stale(const std::string& parent, const Notes& notes = {});

 private:
  std::string path_, target_, temporary_;
  bool committed_ = false;
};

void make_directories(const std::string& path);  // also where a symbolic link leads to nothing yet
// A directory goes whole: it is renamed to a temporary name before it is taken apart, so that no
// part of it can be taken for the whole. What a crash leaves is remove_stale()'s. One that is
// write-protected, or in which nothing could be removed, keeps its name: an Error. Of a symbolic
// link the link goes, and what it leads to stays.
void remove_all(const std::string& path);

}  // namespace refrain::io

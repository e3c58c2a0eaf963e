// Inputs that can be read only once (standard input, a pipe), copied so that they can be read
// again.
#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "refrain/io/descriptor.h"
#include "refrain/io/text.h"

namespace refrain::io {

// What can be read only once: "-", a pipe, a device, a socket.
bool is_stream(const std::string& input);

class StreamCopies {
 public:
  // Copies, once each, those of the inputs that are streams. The copies are files in `directory`
  // without names: they are gone when this is, and when the process ends, however it does.
  StreamCopies(std::span<const std::string> inputs, const std::string& directory);

  bool has(const std::string& input) const { return copies_.contains(input); }
  // The input from its start: its copy, if there are copies and it has one.
  static TextReader open(const std::string& input, const StreamCopies* copies);

 private:
  std::map<std::string, std::unique_ptr<Descriptor>> copies_;
};

}  // namespace refrain::io

// Copies of inputs that can be read only once (standard input, a pipe), so that they can be read
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

// Whether an input can be read only once: "-", a pipe, a device, a socket.
bool is_stream(const std::string& input);

class StreamCopies {
 public:
  // Copies those of the inputs that are streams, each once. The copies are files without names in
  // `directory`. They disappear with this object, and when the process ends in any way.
  StreamCopies(std::span<const std::string> inputs, const std::string& directory);

  bool has(const std::string& input) const { return copies_.contains(input); }
  // Opens the input from its start: its copy, if there is one.
  static TextReader open(const std::string& input, const StreamCopies* copies);

 private:
  std::map<std::string, std::unique_ptr<Descriptor>> copies_;
};

}  // namespace refrain::io

// Lines that a user types or a file has, and Ctrl-C at a terminal.
#pragma once
#include <string>

namespace refrain::cli {

// Reads standard input. One at a time; as long as it lives and the input is a terminal, Ctrl-C does
// not end the program.
class ChatInput {
 public:
  ChatInput();
  ~ChatInput();
  ChatInput(const ChatInput&) = delete;
  ChatInput& operator=(const ChatInput&) = delete;

  bool is_terminal() const { return is_terminal_; }

  enum class Event { kLine, kEnd, kInterrupt };
  // The next line without its end. An Error if it is longer than kLongestText.
  Event next(std::string& line);

  // Whether Ctrl-C was pressed since this or next() was called last. Lines that were typed before
  // are gone then.
  bool interrupted();

 private:
  bool is_terminal_, at_end_ = false;
  std::string buffer_;  // read, and not yet given
};

}  // namespace refrain::cli

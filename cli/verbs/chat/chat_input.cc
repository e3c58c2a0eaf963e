#include "cli/verbs/chat/chat_input.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

#include "cli/inputs.h"
#include "refrain/base/error.h"

namespace refrain::cli {
namespace {

// Any thread may get the signal, and whoever waits for a line must wake up: so it goes through a
// pipe.
int wake_pipe[2] = {-1, -1};
struct sigaction action_before;

void on_interrupt(int) {
  const int saved = errno;
  const char byte = 0;
  [[maybe_unused]] const auto written = write(wake_pipe[1], &byte, 1);
  errno = saved;
}

[[noreturn]] void input_failed() {
  throw_error("cannot read standard input: {}", std::generic_category().message(errno));
}

}  // namespace

ChatInput::ChatInput() : is_terminal_(isatty(STDIN_FILENO) == 1) {
  if (!is_terminal_) return;
  if (pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
    throw_error("cannot make a pipe: {}", std::generic_category().message(errno));
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, nullptr, &action_before);
  // What the parent ignores stays ignored.
  if (action_before.sa_handler != SIG_IGN) sigaction(SIGINT, &action, nullptr);
}

ChatInput::~ChatInput() {
  if (!is_terminal_) return;
  sigaction(SIGINT, &action_before, nullptr);
  for (int& end : wake_pipe) close(std::exchange(end, -1));
}

bool ChatInput::interrupted() {
  char bytes[64];
  if (!is_terminal_ || read(wake_pipe[0], bytes, sizeof(bytes)) <= 0) return false;
  buffer_.clear();  // as the terminal forgets what was typed and not yet read
  return true;
}

ChatInput::Event ChatInput::next(std::string& line) {
  size_t searched = 0;
  while (true) {
    if (const size_t end = buffer_.find('\n', searched); end != buffer_.npos || at_end_) {
      if (end == buffer_.npos && buffer_.empty()) return Event::kEnd;
      line = buffer_.substr(0, end);
      buffer_.erase(0, end == buffer_.npos ? end : end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return Event::kLine;
    }
    searched = buffer_.size();
    if (searched > kLongestText)
      throw_error("standard input: a line of more than {} bytes", kLongestText);
    if (is_terminal_) {
      pollfd ends[] = {{wake_pipe[0], POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
      if (poll(ends, 2, -1) < 0 && errno != EINTR) input_failed();
      if (interrupted()) return Event::kInterrupt;
      if (ends[1].revents == 0) continue;
    }
    char bytes[1 << 16];
    const ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) input_failed();
    if (n == 0) at_end_ = true;
    buffer_.append(bytes, static_cast<size_t>(n));
  }
}

}  // namespace refrain::cli

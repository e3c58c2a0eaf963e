// Threads that parallel loops run on (docs/decisions/0006-thread-pool.md).
//
//   refrain::ThreadPool pool;                  // one thread per core
//   refrain::ThreadPool::Scope scope(pool);    // from here on, loops of this thread run on it
//
// A pool belongs to whoever made it; the process has none. A thread that drives a model puts a pool
// in scope. Without one it computes alone, with the same bits. Engines that are driven from several
// threads have one pool each, or share one: if a loop finds its pool busy with another thread's
// loop, it runs on its own thread. A process that was forked between two loops makes threads of its
// own.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>

#include "refrain/base/notes.h"

namespace refrain {

class ThreadPool {
 public:
  // 0 = one thread per core that the process may use. The thread that starts a loop is one of them;
  // the first loop that is worth sharing makes the others. If the system makes fewer threads (a
  // limit of processes or of memory), `notes` gets a line and loops run on those.
  explicit ThreadPool(int threads = 0, Notes notes = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // While it exists, loops of the thread that made it run on `pool`. Scopes nest.
  class Scope {
   public:
    explicit Scope(ThreadPool& pool);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    ThreadPool* outer_;
  };

 private:
  friend struct LoopAccess;
  class Workers;

  // A forked process has the pool of its parent, without the threads.
  void leave_to_parent();

  int size_;
  Notes notes_;
  uint32_t forks_;    // before its threads were made
  std::mutex mutex_;  // held by the thread whose loop runs here
  std::unique_ptr<Workers> workers_;
};

}  // namespace refrain

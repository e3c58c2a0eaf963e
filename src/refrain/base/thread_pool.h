// Threads that parallel loops run on (docs/decisions/0006-thread-pool.md).
//
//   refrain::ThreadPool pool;                  // one thread a core
//   refrain::ThreadPool::Scope scope(pool);    // from here on, loops of this thread run on it
//
// A pool belongs to whoever made it; there is none of the process. A thread that drives a model
// puts the pool it is to run on in scope; without one it computes alone, to the same bits. Engines
// that are driven from several threads have a pool each, or share one: a loop that finds its pool
// at work for another thread runs on its own thread meanwhile.
#pragma once
#include <memory>
#include <mutex>

#include "refrain/base/notes.h"

namespace refrain {

class ThreadPool {
 public:
  // 0 = one thread per core the process may run on. The thread that starts a loop is one of them;
  // the others are made by the first loop that is worth sharing. Where the system makes fewer than
  // asked for (a limit of processes, of memory), `notes` hears of it and loops run on those.
  explicit ThreadPool(int threads = 0, Notes notes = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // While it lives, loops of the thread that made it run on `pool`. Scopes nest.
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

  int size_;
  Notes notes_;
  std::mutex mutex_;  // held by the thread whose loop runs here
  std::unique_ptr<Workers> workers_;
};

}  // namespace refrain

#include "support/threads.h"

#include <optional>

#include "refrain/base/thread_pool.h"

namespace refrain {
namespace {

struct Threads {
  explicit Threads(int n) : pool(n), scope(pool) {}
  ThreadPool pool;
  ThreadPool::Scope scope;
};

std::optional<Threads> now(0);

}  // namespace

void set_threads(int n) {
  now.reset();
  now.emplace(n);
}

}  // namespace refrain

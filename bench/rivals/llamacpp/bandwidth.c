// How fast threads read memory together, in bytes a second: a line of output.
//
// usage: bandwidth THREADS MIB REPEATS
//
// Each thread sums a share of its own of MIB mebibytes, as 1, 2, 4 or 8 streams. The figure is the
// best of the four medians over the repeats. The thread that reads the clock is one of them: another
// one might be woken late, when part of the work is done.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { kLanes = 32, kMost = 64, kMostStreams = 8, kHugePage = 1 << 21 };

struct Share {
  const uint64_t* begin;
  size_t count;  // a multiple of kMostStreams * kLanes
  int streams;
  uint64_t sum;
};

static pthread_barrier_t barrier;

static inline __attribute__((always_inline)) uint64_t sum_streams(const uint64_t* x, size_t count,
                                                                  int streams) {
  uint64_t lanes[kLanes] = {0};
  const size_t each = count / (size_t)streams;
  for (size_t i = 0; i < each; i += kLanes)
    for (int s = 0; s < streams; ++s)
      for (int l = 0; l < kLanes; ++l) lanes[l] += x[(size_t)s * each + i + (size_t)l];
  uint64_t sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += lanes[l];
  return sum;
}

static void sum_share(struct Share* share) {
  // Numbers that the compiler knows.
  share->sum = share->streams == 1   ? sum_streams(share->begin, share->count, 1)
               : share->streams == 2 ? sum_streams(share->begin, share->count, 2)
               : share->streams == 4 ? sum_streams(share->begin, share->count, 4)
                                     : sum_streams(share->begin, share->count, kMostStreams);
}

static void* read_share(void* argument) {
  pthread_barrier_wait(&barrier);
  sum_share(argument);
  pthread_barrier_wait(&barrier);
  return NULL;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

// Bytes a second, the median; 0 when a thread did not read what is there.
static double rate(const uint64_t* x, size_t count, int threads, int streams, int repeats) {
  double seconds[kMost];
  for (int r = 0; r < repeats; ++r) {
    pthread_t ids[kMost];
    struct Share shares[kMost];
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int t = 0; t < threads; ++t) {
      shares[t] = (struct Share){x + (size_t)t * count, count, streams, 0};
      if (t > 0 && pthread_create(&ids[t], NULL, read_share, &shares[t]) != 0) return 0;
    }
    const double start = now();
    pthread_barrier_wait(&barrier);
    sum_share(&shares[0]);
    pthread_barrier_wait(&barrier);
    seconds[r] = now() - start;
    for (int t = 1; t < threads; ++t) pthread_join(ids[t], NULL);
    pthread_barrier_destroy(&barrier);
    for (int t = 0; t < threads; ++t)
      if (shares[t].sum != 3 * count) return 0;
  }
  qsort(seconds, (size_t)repeats, sizeof *seconds, ascending);
  return (double)threads * (double)count * sizeof *x / seconds[repeats / 2];
}

int main(int argc, char** argv) {
  const int threads = argc == 4 ? atoi(argv[1]) : 0, mib = argc == 4 ? atoi(argv[2]) : 0;
  const int repeats = argc == 4 ? atoi(argv[3]) : 0;
  if (threads < 1 || threads > kMost || mib < 1 || repeats < 1 || repeats > kMost) {
    fprintf(stderr, "usage: bandwidth THREADS MIB REPEATS\n");
    return 2;
  }
  const size_t all = ((size_t)mib << 20) / sizeof(uint64_t);
  const size_t unit = kMostStreams * kLanes, count = all / (size_t)threads / unit * unit;
  uint64_t* x = aligned_alloc(kHugePage, (all * sizeof *x + kHugePage - 1) / kHugePage * kHugePage);
  if (!x || count == 0) {
    fprintf(stderr, "bandwidth: no memory of %d MiB for %d threads\n", mib, threads);
    return 1;
  }
  madvise(x, all * sizeof *x, MADV_HUGEPAGE);  // where there are any
  for (size_t i = 0; i < all; ++i) x[i] = 3;
  double best = 0;
  for (int streams = 1; streams <= kMostStreams; streams *= 2) {
    const double found = rate(x, count, threads, streams, repeats);
    if (found == 0) {
      fprintf(stderr, "bandwidth: the sums are not those of what was read\n");
      return 1;
    }
    if (found > best) best = found;
  }
  printf("%.0f\n", best);
  return 0;
}

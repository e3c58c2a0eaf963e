// How fast threads read memory together, in bytes a second: a line of output.
//
// usage: bandwidth THREADS MIB REPEATS
//
// Each thread sums a share of its own of MIB mebibytes, as one stream or as four. The figure is the
// better of the two medians over the repeats.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kLanes = 32, kMost = 64 };

struct Share {
  const uint64_t* begin;
  size_t count;  // a multiple of 4 * kLanes
  int streams;
  uint64_t sum;
};

static pthread_barrier_t barrier;

static uint64_t sum_streams(const uint64_t* x, size_t count, int streams) {
  uint64_t lanes[kLanes] = {0};
  const size_t each = count / (size_t)streams;
  for (size_t i = 0; i < each; i += kLanes)
    for (int s = 0; s < streams; ++s)
      for (int l = 0; l < kLanes; ++l) lanes[l] += x[(size_t)s * each + i + (size_t)l];
  uint64_t sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += lanes[l];
  return sum;
}

static void* read_share(void* argument) {
  struct Share* share = argument;
  pthread_barrier_wait(&barrier);
  share->sum = share->streams == 1 ? sum_streams(share->begin, share->count, 1)
                                   : sum_streams(share->begin, share->count, 4);
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
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    for (int t = 0; t < threads; ++t) {
      shares[t] = (struct Share){x + (size_t)t * count, count, streams, 0};
      if (pthread_create(&ids[t], NULL, read_share, &shares[t]) != 0) return 0;
    }
    pthread_barrier_wait(&barrier);
    const double start = now();
    pthread_barrier_wait(&barrier);
    seconds[r] = now() - start;
    for (int t = 0; t < threads; ++t) pthread_join(ids[t], NULL);
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
  const size_t count = all / (size_t)threads / (4 * kLanes) * (4 * kLanes);
  uint64_t* x = aligned_alloc(4096, (size_t)mib << 20);
  if (!x || count == 0) {
    fprintf(stderr, "bandwidth: no memory of %d MiB for %d threads\n", mib, threads);
    return 1;
  }
  for (size_t i = 0; i < all; ++i) x[i] = 3;
  const double one = rate(x, count, threads, 1, repeats);
  const double four = rate(x, count, threads, 4, repeats);
  if (one == 0 || four == 0) {
    fprintf(stderr, "bandwidth: the sums are not those of what was read\n");
    return 1;
  }
  printf("%.0f\n", one > four ? one : four);
  return 0;
}

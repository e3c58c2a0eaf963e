// The reports of `refrain bench report NAME`: the tables of a line of work, on its shapes, with the
// figures that were published beside ours. Each is in a file of its own.
#pragma once
#include <span>

#include "bench/checks/planted.h"
#include "bench/checks/timing.h"
#include "bench/reports/tables.h"
#include "bench/sections/setup.h"

namespace refrain::bench {

struct ReportSetup {
  // The shapes of the publication; smaller ones, in under a minute; the smallest that tests use.
  enum class Size { kPublished, kQuick, kSmallest };
  Size size = Size::kPublished;
  Repetitions repetitions{1, 3};
  Planted planted{};  // by tests

  int64_t by_size(int64_t published, int64_t quick, int64_t smallest) const {
    return size == Size::kPublished ? published : size == Size::kQuick ? quick : smallest;
  }
  // For a GenerationRun.
  Setup generating(int64_t new_tokens) const {
    Setup setup{};
    setup.repetitions = repetitions;
    setup.new_tokens = new_tokens;
    setup.planted = planted;
    return setup;
  }
};

void report_gated_rnn(const ReportSetup&, Tables&);      // simple_rnn, two bare cells
void report_attention_rnn(const ReportSetup&, Tables&);  // beside a cache of keys and values
void report_decoder(const ReportSetup&, Tables&);        // attention in an RNN autoencoder
void report_transformer(const ReportSetup&, Tables&);
void report_mm_rec(const ReportSetup&, Tables&);

struct ReportKind {
  const char* name;
  const char* about;
  void (*run)(const ReportSetup&, Tables&);
};
std::span<const ReportKind> report_kinds();

}  // namespace refrain::bench

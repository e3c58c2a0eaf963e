// The sections of `refrain bench`, each in a file of its own: they add rows to the report.
#pragma once
#include "bench/checks/report.h"
#include "bench/sections/setup.h"

namespace refrain::bench {

Ceilings measure_ceilings(const Setup&, Report&);

void time_products(const Setup&, Report&);       // the linear maps of two transformers
void time_attention(const Setup&, Report&);      // blockwise beside materialised scores
void time_attention_rnn(const Setup&, Report&);  // errors of its forms, and its state
void time_activations(const Setup&, Report&);    // accurate beside fast
void time_kernels(const Setup&, Report&);        // what memory limits
void time_mixers(const Setup&, Report&);         // layers by themselves
void time_training(const Setup&, Report&);       // optimiser steps
void time_generation(const Setup&, Report&);
void time_switches(const Setup&, Report&);  // what each optimisation is worth

// Times the setup's transformer, and says what this machine is good at; "" if a check failed.
std::string summarise(const Setup&, Report&);

}  // namespace refrain::bench

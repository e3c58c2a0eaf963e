// The verbs, each from its own file.
#pragma once
#include "cli/command.h"

namespace refrain::cli {

Verb train_verb();
Verb tokenizer_train_verb();
Verb tokenizer_encode_verb();
Verb tokenizer_decode_verb();
Verb sample_calendar_verb();
Verb sample_recall_verb();
Verb sample_multi_query_recall_verb();
Verb sample_induction_verb();
Verb sample_copy_verb();
Verb sample_selective_copy_verb();
Verb sample_recall_after_gap_verb();
Verb sample_forecast_verb();
Verb prepare_verb();
Verb eval_verb();
Verb generate_verb();
Verb chat_verb();
Verb translate_verb();
Verb reconstruct_verb();
Verb score_verb();
Verb verify_verb();
Verb logits_verb();
Verb convert_verb();
Verb quantize_verb();
Verb fuse_verb();
Verb info_verb();
Verb bench_verb();
Verb plan_verb();

}  // namespace refrain::cli

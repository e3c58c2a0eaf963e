// The whole public interface: train models, load and save them, generate with them, and add mixers.
//
// The headers below are for use from outside. Other installed headers are there because these
// include them, and may change in any version.
#pragma once
#include "refrain/base/error.h"          // refrain::Error, which everything throws
#include "refrain/base/setting_map.h"    // settings as text
#include "refrain/base/thread_pool.h"    // the threads that loops run on
#include "refrain/data/batches.h"        // sequences of a token file as batches
#include "refrain/data/dataset.h"        // token files
#include "refrain/formats/checkpoint.h"  // model directories
#include "refrain/generate/beam.h"       // translations
#include "refrain/generate/conversation.h"
#include "refrain/generate/engine.h"     // requests that come and go
#include "refrain/generate/generator.h"  // prompts in, tokens out
#include "refrain/generate/state_file.h"
#include "refrain/layers/linear.h"     // what mixers are made of
#include "refrain/mixers/registry.h"   // the mixers there are; register_mixer
#include "refrain/model/form_check.h"  // do the forms of a model agree?
#include "refrain/model/language_model.h"
#include "refrain/model/parameters/parameter_store.h"  // weights, and what is trained of them
#include "refrain/model/workspace.h"                   // memory for a step
#include "refrain/text/chat/chat_template.h"           // conversations as texts
#include "refrain/text/source.h"                       // texts, pairs, objects
#include "refrain/text/tokenizer.h"                    // tokenizer.json, and training tokenizers
#include "refrain/train/language_model_task.h"
#include "refrain/train/optimizer.h"  // AdamW
#include "refrain/train/plan.h"       // a step within a budget of memory
#include "refrain/train/run_directory.h"
#include "refrain/train/trainer.h"  // whole runs, of any task

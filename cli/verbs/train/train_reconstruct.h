// `train --task reconstruct`: what it has that other tasks have not.
#pragma once
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/plan/plan_report.h"
#include "cli/training_run.h"
#include "refrain/autoencoder/config.h"
#include "refrain/autoencoder/curriculum.h"

namespace refrain::cli {

struct ReconstructSettings {
  std::string init, embeddings = "random", preset;
  int64_t embedding_width = 0;
  Curriculum curriculum;
  AutoencoderConfig model;

  template <class V>
  void visit(V&& v) {
    v("init", init, "");  // FineTuning's too, which has the help
    v("embeddings", embeddings,
      "reconstruct: a file of vectors in GloVe's text format, random (fixed) or learned");
    v("embedding_width", embedding_width,
      "reconstruct: numbers of a vector; 0 = the file's, or 300");
    v("preset", preset,
      "reconstruct: speed (4 heads), balanced (6) or quality (8, probabilities kept whole), each "
      "of an eighth of the width, where heads are not given");
    curriculum.visit([&](const char* name, auto& field, const char* help) {
      v(name, field, ("reconstruct: " + std::string(help)).c_str());
    });
    model.visit([&](const char* name, auto& field, const char* help) {
      v(("autoencoder." + std::string(name)).c_str(), field, help);
    });
  }

  // An Error for what has no meaning: settings of other tasks with this one, and these with others.
  void check(const CommandLine&, const TrainConfig&, bool is_task, bool goes_on);

 private:
  // The settings of the model to start from.
  void take_initial(const CommandLine&);
};

struct ReconstructData {
  std::vector<std::string> train, valid;
  double valid_split;
};

// What its training takes, and what less of it costs. Nothing is trained or written.
int plan_reconstruct(const ReconstructSettings&, const TrainConfig&, const ReconstructData&,
                     const PlanRequest&);
int train_reconstruct(const ReconstructSettings&, const TrainingRun&, const ReconstructData&);

}  // namespace refrain::cli

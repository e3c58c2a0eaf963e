#include "cli/verbs/train/train_reconstruct.h"

#include <set>
#include <tuple>

#include "cli/effect.h"
#include "cli/output.h"
#include "cli/run_data.h"
#include "cli/verbs/reconstruct.h"
#include "refrain/autoencoder/autoencoder.h"
#include "refrain/autoencoder/plan.h"
#include "refrain/autoencoder/task.h"
#include "refrain/base/hash.h"
#include "refrain/base/process.h"
#include "refrain/io/file.h"
#include "refrain/text/source.h"

namespace refrain::cli {
namespace {

constexpr int64_t kUsualWidth = 300;

// Settings of `train` that the task shares with the others.
const std::set<std::string>& shared_settings() {
  static const std::set<std::string> names = {
      "task", "data", "valid", "valid_split", "out", "resume", "stop_after", "max_steps",
      "batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
      "warmup_steps", "min_learning_rate", "weight_decay", "decay_all", "adam_beta1", "adam_beta2",
      "adam_epsilon", "max_grad_norm", "clip_mode", "eval_steps", "save_steps", "save_total_limit",
      "logging_steps", "patience", "seed", "threads", "memory", "verbose", "save_minutes",
      "dropout", "compute_type", "gradient_checkpointing", "optimizer", "momentum", "lr_decay",
      // of `plan`
      "budgets", "svg", "json", "evaluation"};
  return names;
}

uint64_t fingerprint_of_file(const std::string& path) {
  const std::string bytes = io::read_file(path);
  return hash64(std::as_bytes(std::span(bytes)));
}

// What a trained model's weights leave open.
bool may_differ(std::string_view setting) {
  static const std::set<std::string_view> names = {"loss", "position_codes", "window", "stride",
                                                   "flash"};
  return names.contains(setting);
}

Embeddings make_words(const ReconstructSettings& settings, uint64_t seed,
                      const std::vector<Words>& train, const std::vector<Words>& valid) {
  if (!settings.init.empty()) return Embeddings::load(settings.init);
  if (settings.embeddings == "learned") return {vocabulary_of(train), 0, {}, "the words"};
  std::vector<Words> all = train;
  all.insert(all.end(), valid.begin(), valid.end());
  const Words words = vocabulary_of(all);
  if (settings.embeddings == "random")
    return random_embeddings(
        words, settings.embedding_width > 0 ? settings.embedding_width : kUsualWidth, seed);
  return read_embeddings(settings.embeddings, words, settings.embedding_width);
}

// Documents to learn from, and those to evaluate.
struct Texts {
  std::vector<Words> train, valid;
};

Texts read_texts(const ReconstructData& data) {
  Texts texts{read_documents(data.train), {}};
  if (!data.valid.empty()) texts.valid = read_documents(data.valid);
  return texts;
}

void hold_out(Texts& texts, const ReconstructData& data, const Stages& stages) {
  if (data.valid.empty())
    std::tie(texts.train, texts.valid) = split_documents(std::move(texts.train), data.valid_split,
                                                         static_cast<size_t>(stages.shortest));
  if (texts.train.empty())
    throw_error(
        "--data: expected documents to learn from besides the {} held out, found none (documents "
        "have two blank lines between them, and one that is cut has --min-window {} words or more "
        "on both sides; --valid-split 0 holds none out)",
        texts.valid.size(), stages.shortest);
}

AutoencoderConfig config_for(const ReconstructSettings& settings, const Embeddings& words) {
  AutoencoderConfig config = settings.model;
  const bool learned = settings.embeddings == "learned";
  config.vocab_size = learned ? words.size() : 0;
  config.width = !learned                       ? words.width()
                 : settings.embedding_width > 0 ? settings.embedding_width
                                                : kUsualWidth;
  return config;
}

Documents visible_part(const std::vector<Words>& documents, const Embeddings& words,
                       const char* name) {
  return documents.empty() ? Documents{} : visible_documents(documents, words, name);
}
const char* valid_name(const ReconstructData& data) {
  return data.valid.empty() ? "held out" : "--valid";
}

}  // namespace

void ReconstructSettings::take_initial(const CommandLine& line) {
  for (const char* name : {"embeddings", "embedding_width", "preset"})
    refuse_given(line, name, fmt::format("expected it or --init, found --init {} too", init));
  if (!Autoencoder::is_model(init))
    throw_error("--init: expected a directory with a sequence autoencoder, found {}", init);
  const AutoencoderConfig its = Autoencoder::read_config(init);
  SettingMap recorded;
  recorded.put("", its);
  model.visit([&](const char* name, auto& field, const char*) {
    const std::string& value = recorded.values().at(name);
    const std::string setting = "autoencoder." + std::string(name);
    if (line.given(setting) && may_differ(name)) return;
    if (line.given(setting) && SettingMap::text(field) != value)
      throw_error("{}: expected {}, as --init {} has it, found {}", flag_of(setting), value, init,
                  SettingMap::text(field));
    SettingMap::parse(setting, value, field);
  });
  embeddings = its.vocab_size > 0 ? "learned" : "random";
  embedding_width = its.width;
}

void ReconstructSettings::check(const CommandLine& line, const TrainConfig& training, bool is_task,
                                bool goes_on) {
  std::set<std::string> own;
  visit([&](const char* name, auto&, const char*) { own.insert(name); });
  for (const Setting& setting : line.settings()) {
    if (!line.changed(setting.name)) continue;
    if (setting.name == "init") continue;  // any task's
    if (!is_task && own.contains(setting.name))
      throw_error("{}: has a meaning with --task reconstruct only", flag_of(setting.name));
    if (is_task && !own.contains(setting.name) && !shared_settings().contains(setting.name))
      throw_error("{}: has no meaning with --task reconstruct", flag_of(setting.name));
  }
  if (!is_task) return;
  if (embedding_width < 0 || embedding_width > 1 << 16)
    throw_error("--embedding-width: expected 0 to {}, found {}", 1 << 16, embedding_width);
  if (const auto given = parse_checkpointing(training.gradient_checkpointing)) {
    Recompute able{.checkpoint_interval = given->checkpoint_interval};
    for (const std::string& part : given->parts)
      if (part == Recompute::kProbabilities) able.parts.push_back(part);
    if (*given != able)
      throw_error(
          "--gradient-checkpointing: expected off, auto, or a list of a number of words "
          "and {} with --task reconstruct, found '{}'",
          Recompute::kProbabilities, training.gradient_checkpointing);
  }
  // What a run recorded has that of its first model, and its preset's heads, in it.
  if (!init.empty() && !goes_on) take_initial(line);
  if (!preset.empty() && !goes_on) {
    const int64_t heads = preset == "speed"      ? 4
                          : preset == "balanced" ? 6
                          : preset == "quality"  ? 8
                                                 : 0;
    if (heads == 0)
      throw_error("--preset: expected speed, balanced or quality, found {}", io::quote(preset));
    const bool given = line.given("autoencoder.heads") || line.given("autoencoder.head_dim");
    if (!given && model.hidden % 8 != 0)
      throw_error("--preset: expected an --autoencoder.hidden that 8 divides, found {}",
                  model.hidden);
    if (!given) {
      model.heads = heads;
      model.head_dim = model.hidden / 8;
    }
    if (!line.given("autoencoder.flash")) model.flash = preset != "quality";
  }
  const auto refuse = [&](std::initializer_list<const char*> names, const char* decoders) {
    for (const char* name : names)
      refuse_given(line, name,
                   fmt::format("expected {} as --autoencoder.decoder, found {}", decoders,
                               io::quote(model.decoder)));
  };
  if (model.decoder == "plain")
    refuse({"preset", "autoencoder.flash", "autoencoder.window"},
           "cross_attention or self_attention");
  if (model.decoder == "plain" || model.decoder == "self_attention")
    refuse({"autoencoder.position_codes", "autoencoder.stride"}, "cross_attention");
  AutoencoderConfig early = model;
  early.width = 1;
  early.check();
  Stages{curriculum};
}

int plan_reconstruct(const ReconstructSettings& settings, const TrainConfig& training,
                     const ReconstructData& data, const PlanRequest& request) {
  Texts texts = read_texts(data);
  const Stages stages(settings.curriculum);
  hold_out(texts, data, stages);
  WordAutoencoder model{
      nullptr, make_words(settings, static_cast<uint64_t>(training.seed), texts.train, texts.valid),
      stages.longest(), stages.shortest};
  // Held here, as `train` holds them: they are counted.
  const Documents seen = visible_documents(texts.train, model.words, "--data");
  const Documents held_out = visible_part(texts.valid, model.words, valid_name(data));
  settle_memory();
  Room room{.process = resident_bytes(), .taken = peak_memory_bytes()};
  model.model = std::make_unique<Autoencoder>(config_for(settings, model.words));
  model.model->parameters().allocate_gradients();
  const bool evaluates = request.evaluation && !held_out.empty();
  report_reconstruction_plans(
      request, training,
      {.within =
           [&](size_t budget, const char* flag) {
             room.budget = budget;
             room.flag = flag;
             return plan_reconstruction(model, training, stages, evaluates, room);
           },
       .frontier =
           [&] {
             return reconstruction_frontier(model, training, stages, evaluates, room.process);
           },
       .parameters = model.model->parameters().count()});
  return 0;
}

int train_reconstruct(const ReconstructSettings& settings, const TrainingRun& run,
                      const ReconstructData& data) {
  const RunDirectory& directory = run.directory;
  Texts texts = read_texts(data);
  const std::vector<Words>&train = texts.train, &valid = texts.valid;
  std::vector<RunData> parts = {{"train", text::name_of(data.train), fingerprint_of(train)}};
  if (!data.valid.empty())
    parts.push_back({"valid", text::name_of(data.valid), fingerprint_of(valid)});
  // A run that has saved weights needs its first ones no more.
  const bool begins = directory.checkpoints().empty();
  if (begins && !settings.init.empty())
    parts.push_back({"init", settings.init + "/model.safetensors",
                     fingerprint_of_file(settings.init + "/model.safetensors")});
  check_run_data(directory, run.goes_on, parts);
  const bool has_words = io::exists(directory.file("vocab.txt"));
  const Stages stages(settings.curriculum);
  hold_out(texts, data, stages);
  const auto seed = static_cast<uint64_t>(run.training.seed);
  WordAutoencoder model{
      nullptr,
      has_words ? Embeddings::load(directory.path()) : make_words(settings, seed, train, valid), 0,
      0};
  model.window = stages.longest();
  model.min_window = stages.shortest;
  const AutoencoderConfig config = config_for(settings, model.words);
  Documents seen = visible_documents(train, model.words, "--data");
  Documents held_out = visible_part(valid, model.words, valid_name(data));
  const Plan plan = plan_by(run.training, [&](const Room& room) {
    model.model = std::make_unique<Autoencoder>(config);
    model.model->parameters().allocate_gradients();
    return plan_reconstruction(model, run.training, stages, !held_out.empty(), room);
  });
  model.model->parameters().initialize(seed);
  if (begins && !settings.init.empty()) model.model->load_weights(settings.init);
  if (!has_words) model.write_files(directory.place());
  ReconstructionTask task(model, std::move(seen), std::move(held_out), run.training,
                          settings.curriculum, plan);
  return train_task(run, task, plan, [&] {
    note(fmt::format("{} words of {} numbers; {} documents to learn from, {} held out",
                     model.words.size(), config.width, train.size(), valid.size()));
    if (!settings.init.empty()) note(fmt::format("weights and words of {}", settings.init));
  });
}

}  // namespace refrain::cli

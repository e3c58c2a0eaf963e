// Trains a model: from text files to a model directory.
#include <algorithm>
#include <set>

#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/plan/plan_report.h"
#include "cli/run_data.h"
#include "cli/targets.h"
#include "cli/training_run.h"
#include "cli/verbs.h"
#include "cli/verbs/train/fine_tuning.h"
#include "cli/verbs/train/recorded_settings.h"
#include "cli/verbs/train/train_reconstruct.h"
#include "refrain/base/bytes.h"
#include "refrain/base/process.h"
#include "refrain/io/file.h"
#include "refrain/kernels/matmul/compute_types.h"
#include "refrain/train/language_model_task.h"

namespace refrain::cli {
namespace {

struct Train {
  text::SourceFiles source{.inputs = {}, .source_tag = "", .target_tag = ""};
  std::vector<std::string> valid;
  double valid_split = 0.1;
  std::string tokenizer = "char", out, resume, mixer;
  double character_coverage = 0;
  int64_t stop_after = 0;
  bool skip_long = false;
  ModelConfig model;
  Initialisation initialisation;
  TrainConfig training;
  SettingMap mixers;
  FineTuning fine_tuning;
  ReconstructSettings reconstruct;

  template <class V>
  void visit(V&& v) {
    v("task", source.task,
      "lm (running text), chat (conversations, completions or texts, with --init), translate "
      "(pairs), probe (ids, see sample) or reconstruct (windows of words, by a sequence "
      "autoencoder)");
    v("data", source.inputs,
      "lm and reconstruct: files of text; chat: .jsonl, or a folder with train.jsonl and "
      "valid.jsonl; translate: source lines and target lines, or one .tsv, "
      ".jsonl or .json; probe: one .jsonl; or a prepared token file");
    v("valid", valid, "the same, to evaluate on");
    v("valid_split", valid_split,
      "share of the data, from its end, to evaluate on without --valid");
    v("out", out, how("run directory to make"));
    v("resume", resume,
      how("a run directory to go on with, under its recorded settings; or auto: go on with --out "
          "if it "
          "holds a run"));
    v("stop_after", stop_after,
      how("save and stop after so many steps of the run, its schedule untouched; 0 = do not"));
    v("tokenizer", tokenizer,
      "char, bpe:N, byte-bpe:N or word:N (words between white space) to train one, or a directory "
      "with one");
    v("character_coverage", character_coverage, kCoverageHelp);
    v("source_tag", source.source_tag,
      "translate: the token before a source text; empty = by the files' names: <en> of train.en");
    v("target_tag", source.target_tag,
      "translate: the token before its translation; empty = by the files' names: <ja> of train.ja");
    v("both_directions", source.both_directions,
      "translate: learn every pair the other way round as well, with the tags swapped");
    v("tags", source.tags,
      "translate: more tags for the tokenizer that is trained: those of .jsonl pairs that have "
      "their own source_tag and target_tag");
    v("skip_long", skip_long,
      "leave out pairs and probes longer than context or max_tokens, instead of stopping there");
    v("mixer", mixer, "the mixer of every block, instead of a pattern");
    fine_tuning.visit(v);
    model.visit(v);
    initialisation.visit(v);
    visit_mixers(v, mixers);
    training.visit(v);
    reconstruct.visit(v);
  }

  io::Json settings() {
    io::Json json = io::Json::object();
    visit([&](const char* name, auto& field, const char*) { json[name] = field; });
    json["resume"] = "";  // how this process was begun and ends, not what the run is
    json["stop_after"] = 0;
    return json;
  }

  // Takes the recorded settings for all that was not given now.
  void restore(const CommandLine& line, const std::string& run) {
    const std::string where = run + "/training_args.json";
    const io::Json recorded = by_present_names(RunDirectory::read_settings(run), where);
    check_names(line, recorded, where);
    visit([&](const char* name, auto& field, auto help) {
      constexpr bool may = std::is_same_v<decltype(help), How>;
      const io::Json* value = io::find(recorded, name);
      if (!value || std::string_view(name) == "stop_after") return;
      auto before = field;
      try {
        before = recorded_value<std::decay_t<decltype(field)>>(name, *value);
      } catch (const std::exception&) {
        throw_error("{}: {}: found {}, which is not a value of this setting", where, name,
                    io::describe(*value));
      }
      // A file that has all keys says nothing by a default which the run found another value for;
      // what may change it does say.
      const bool given = line.given(name) || (may && !line.find(name).file.empty());
      bool is_open = std::string_view(name) == "vocab_size" && field == decltype(before){};
      if constexpr (std::is_same_v<std::decay_t<decltype(field)>, std::string>)
        is_open = std::string_view(name) == "compute_type" && field == "auto";
      if (given && !may && field != before && !is_open)
        throw_error("{}: is {} in {} and cannot change in a run that goes on", flag_of(name),
                    io::to_line(*value), run);
      if (!given || !may) field = before;
    });
    check_total_batch(recorded, run);
  }

  // Former versions recorded a mixer's settings as text.
  template <class T>
  static T recorded_value(const std::string& name, const io::Json& value) {
    if constexpr (std::is_arithmetic_v<T>) {
      if (T number{}; value.is_string() && name.find('.') != name.npos) {
        SettingMap::parse(name, value.get<std::string>(), number);
        return number;
      }
    }
    return value.get<T>();
  }

  // A setting that was lost would become its default: it is to be said again. What the run has no
  // part in may be missing, all of it: a mixer or a task that is newer than the run, or settings
  // that came together.
  void check_names(const CommandLine& line, const io::Json& recorded, const std::string& where) {
    std::vector<std::string> all;
    visit([&](const char* name, auto&, const char*) { all.emplace_back(name); });
    for (const auto& [name, unused] : recorded.items()) {
      if (std::ranges::count(all, name) > 0 || is_retired(name)) continue;
      const std::string near = nearest_name(name, all);
      throw_error("{}: unknown setting {}{}", where, io::quote(name),
                  near.empty() ? "" : "; did you mean " + io::quote(near) + "?");
    }
    const auto text = [&](const char* name) {
      const io::Json* value = io::find(recorded, name);
      return value && value->is_string() ? value->get<std::string>() : "";
    };
    const std::string stack = " " + text("mixer") + " " + text("pattern") + " ";
    std::set<std::string> of_task;
    if (text("task") != "reconstruct")
      reconstruct.visit([&](const char* name, auto&, const char*) { of_task.insert(name); });
    const auto is_foreign = [&](const std::string& name) {
      if (of_task.contains(name)) return true;
      const std::string kind = name.substr(0, name.find('.'));
      return kind != name && kind != "autoencoder" && stack.find(kind) == stack.npos &&
             std::ranges::none_of(recorded.items(), [&](const auto& item) {
               return item.key().starts_with(kind + ".");
             });
    };
    for (const std::string& name : all) {
      const bool of_process = name == "resume" || name == "stop_after" || name == "out";
      if (of_process || recorded.contains(name) || line.given(name) || is_foreign(name) ||
          came_later(name, recorded))
        continue;
      throw_error(
          "{}: expected the setting {}, found none; if it was lost, or the run is of a version "
          "without it, say it: {} (a model trained by its default: {})",
          where, name, flag_of(name), fmt::join(line.find(name).by_default, " "));
    }
  }

  // Sequences of a step, or tokens: how they are split may change.
  void check_total_batch(const io::Json& recorded, const std::string& run) const {
    TrainConfig begun = training;
    begun.visit([&](const std::string& name, auto& field, const char*) {
      using Field = std::decay_t<decltype(field)>;
      if constexpr (std::is_same_v<Field, int64_t>)
        if (const io::Json* value = io::find(recorded, name)) field = value->get<Field>();
    });
    const auto total = [](const TrainConfig& c) {
      return c.gradient_accumulation_steps * (c.max_tokens > 0 ? c.max_tokens : c.batch_size);
    };
    const bool by_tokens = begun.max_tokens > 0;
    if (by_tokens == (training.max_tokens > 0) && total(begun) == total(training)) return;
    throw_error(
        "{} x --gradient-accumulation-steps: is {} x {} = {} {} a step in {} and cannot change in "
        "a run that goes on, found {} x {} = {} {} (another split of the same total may be)",
        by_tokens ? "--max-tokens" : "--batch-size",
        by_tokens ? begun.max_tokens : begun.batch_size, begun.gradient_accumulation_steps,
        total(begun), by_tokens ? "tokens" : "sequences", run,
        training.max_tokens > 0 ? training.max_tokens : training.batch_size,
        training.gradient_accumulation_steps, total(training),
        training.max_tokens > 0 ? "tokens" : "sequences");
  }

  // The run that is to go on, or "".
  std::string run_to_resume(const CommandLine& line) const {
    if (resume == "auto") {
      line.require({"out"});
      return RunDirectory::is_run(out) ? out : "";
    }
    if (!resume.empty() && !out.empty() && out != resume) line.exclude("resume", "out");
    return resume;
  }

  RunDirectory new_run() const {
    try {
      return RunDirectory::create(out, false, note);
    } catch (const Error& error) {
      const bool is_run = RunDirectory::is_run(out);
      throw_error("{}; {}name another --out", error.what(),
                  is_run ? "go on with it by --resume, or " : "");
    }
  }

  int run(const CommandLine& line) {
    const std::string old = run_to_resume(line);
    std::optional<RunDirectory> directory;
    if (!old.empty()) {
      directory = RunDirectory::open(old, note);
      restore(line, old);
    } else {
      line.require({"data", "out"});
    }
    check(line, directory.has_value());
    training.compute_type = kernels::name_of(training.matmul_type());  // what auto is here
    if (old.empty()) directory = new_run();
    return train(line, *directory, !old.empty());
  }

  // What a run that goes on has recorded is what would run.
  io::Json dump(const CommandLine& line) {
    const std::string old = run_to_resume(line), how = resume;
    io::Json json = line.to_json();
    if (old.empty()) {
      check(line, false);
      return json;
    }
    if (!RunDirectory::is_run(old))
      throw_error("{}: expected a run directory with training_args.json, found none", old);
    restore(line, old);
    check(line, true);
    visit([&](const char* name, auto& field, const char*) { json[name] = field; });
    json["resume"] = how;
    json["out"] = old;
    return json;
  }

  bool is_reconstruction() const { return source.task == "reconstruct"; }
  bool is_chat() const { return source.task == "chat"; }

  void check(const CommandLine& line, bool goes_on) {
    line.expect_utf8();
    if (fine_tuning.starts_from_model() && !goes_on && !is_reconstruction())
      fine_tuning.take_model(line, model, mixers, tokenizer);
    check_tokenizer_spec(tokenizer);
    if (!mixer.empty()) {
      if (model.pattern != mixer) line.exclude("mixer", "pattern");
      model.pattern = mixer;
    }
    if (!valid.empty()) line.exclude("valid", "valid_split");
    if (!is_reconstruction()) check_task(source.task);
    training.packs = is_chat() && fine_tuning.packing;
    if (is_chat()) FineTuning::take_folder(source.inputs, valid);
    if (!(valid_split >= 0 && valid_split < 1))
      throw_error("--valid-split: expected 0 or more and below 1, found {}", valid_split);
    if (stop_after < 0) throw_error("--stop-after: expected 0 or more, found {}", stop_after);
    training.check();
    if (!is_reconstruction()) fine_tuning.check(line, training);
    reconstruct.check(line, training, is_reconstruction(), goes_on);
    if (valid.empty() && valid_split == 0)
      for (const char* name : {"patience", "eval_steps"})
        refuse_given(line, name, "expected --valid or --valid-split with it, found neither");
    if (is_reconstruction()) return check_training_effect(line, training);
    check_task_effect(line, source.task);
    check_coverage(line, tokenizer, character_coverage);
    if (!is_tokenizer_spec(tokenizer))
      refuse_given(line, "tags",
                   fmt::format("expected a --tokenizer to train, found {}", io::quote(tokenizer)));
    check_stack(line, model, training, mixers,
                source.task);  // mistakes are told before any work is done
    initialisation.scheme(model.bare());
  }

  // The token file of `inputs` in the run directory; a prepared one is used where it is.
  data::DataSet tokens(const RunDirectory& directory, const std::vector<std::string>& inputs,
                       const std::string& name, const text::Tokenizer& made) const {
    if (inputs.size() == 1 && inputs[0] != "-" && data::DataSet::is_token_file(inputs[0]))
      return checked(data::DataSet::open(inputs[0]), made);
    const std::string path = directory.place() + "/data/" + name + ".tokens";
    // Damage to the run's own copy is nothing that the user's file has.
    if (io::exists(path)) return checked(data::DataSet::open(path), made);
    io::make_directories(directory.place() + "/data");
    text::SourceFiles files = source;
    files.inputs = inputs;
    const data::Prepared done = data::write_token_file(files, made, path);
    if (name == "train") note_run_together(done);
    if (done.blank > 0) note(fmt::format("{}: {} left out for having no text", name, done.blank));
    return checked(data::DataSet::open(path, text::name_of(inputs)), made);
  }
  void note_size(const char* part, const data::DataSet& set) const {
    note(fmt::format("{}: {}, {}", part, count_of(set.tokens(), "tokens"),
                     count_of(set.sequences(), sequences_of(source.task))));
  }
  data::DataSet checked(data::DataSet set, const text::Tokenizer& made) const {
    set.check_tokenizer(made);
    if (set.task() != source.task)
      throw_error("{}: expected a token file for {}, found one for {}", set.name(), source.task,
                  set.task());
    return set;
  }

  void check_pairs(const data::DataSet& train_set, const std::optional<data::DataSet>& valid_set,
                   int64_t context) const {
    text::SourceFiles files = source;
    check_lengths(train_set, files, optimiser_batch(training, context), skip_long);
    files.inputs = valid;
    if (valid_set) check_lengths(*valid_set, files, {.context = context}, skip_long);
  }

  // Those of the model to start from have priority.
  SpecialTokens special_tokens(const RunDirectory& directory, bool goes_on,
                               const text::Tokenizer& made) const {
    SpecialTokens special{made.bos(), made.eos(), made.pad()};
    if (!fine_tuning.starts_from_model()) return special;
    const SpecialTokens its =
        read_model_config(goes_on ? directory.path() : fine_tuning.init).special;
    if (its.bos >= 0) special.bos = its.bos;
    if (its.eos >= 0) special.eos = its.eos, special.more_eos = its.more_eos;
    if (its.pad >= 0) special.pad = its.pad;
    return special;
  }

  void take_vocabulary(const text::Tokenizer& made) {
    if (model.vocab_size == 0) model.vocab_size = made.vocab_size();
    if (model.vocab_size < made.vocab_size())
      throw_error("--vocab-size: expected at least the tokenizer's {}, found {}", made.vocab_size(),
                  model.vocab_size);
  }

  int train(const CommandLine& line, const RunDirectory& directory, bool goes_on) {
    if (is_reconstruction())
      return train_reconstruct(reconstruct,
                               {line, directory, goes_on, stop_after, training, settings()},
                               {source.inputs, valid, valid_split});
    const auto of_tags = settle_tags(source);
    const bool has_tokenizer = io::exists(directory.file("tokenizer.json"));
    const text::Tokenizer made = has_tokenizer
                                     ? load_tokenizer(directory.path())
                                     : make_tokenizer(tokenizer, source, character_coverage);
    take_vocabulary(made);
    LanguageModel network(with_settings(model, mixers), LanguageModel::Memory::kLater);
    const SpecialTokens special = special_tokens(directory, goes_on, made);
    if (goes_on &&
        io::read_json(directory.file("config.json")) != to_json({network.config(), special}))
      throw_error("{}: is not the model that the settings in training_args.json make",
                  directory.file("config.json"));
    const std::string from = goes_on ? directory.path() : fine_tuning.init;
    const TextFiles files = from.empty() ? TextFiles() : TextFiles::read(from);
    std::optional<text::ChatFormat> chat;
    if (is_chat()) source.chat = &chat.emplace(fine_tuning.chat_format(from));
    data::DataSet train_set = tokens(directory, source.inputs, "train", made);
    std::optional<data::DataSet> valid_set;
    if (!valid.empty()) valid_set = tokens(directory, valid, "valid", made);
    std::vector<RunData> parts = {{"train", train_set.name(), train_set.fingerprint()}};
    if (valid_set) parts.push_back({"valid", valid_set->name(), valid_set->fingerprint()});
    const bool reads_model = fine_tuning.has_adapters() || directory.checkpoints().empty();
    if (fine_tuning.starts_from_model() && reads_model)
      parts.push_back({"init", fine_tuning.init, fingerprint_of_model(fine_tuning.init)});
    check_run_data(directory, goes_on, parts);
    if (!goes_on) check_pairs(train_set, valid_set, network.config().context);
    if (of_tags) note(*of_tags);
    fine_tuning.freeze_parameters(network);
    const std::unique_ptr<Lora> lora = fine_tuning.make_adapters(network);
    source.copies.reset();
    const data::TaskDescription description =
        data::describe_task(train_set, made, {source.source_tag, source.target_tag});
    const auto write_model_files = [&](const std::string& path) {
      save_config(path, network, special);
      made.save(path);
      if (fine_tuning.starts_from_model()) files.write(path);
      data::write_task(path, description);
      if (lora) save_adapter_config(path, fine_tuning.lora_config(), *lora, network);
    };
    if (!has_tokenizer) write_model_files(directory.place());
    if (!valid_set && valid_split > 0) {
      auto parts = train_set.split(valid_split);
      train_set = std::move(parts.first);
      valid_set = std::move(parts.second);
    }
    if (!goes_on) {
      note_size("train", train_set);
      if (valid_set) note_size("valid", *valid_set);
    }
    const Plan plan = plan_by(training, [&](const Room& room) {
      const Planner planner(network, training, valid_set.has_value(), room.process, room.taken);
      return room.budget > 0 ? planner.within(room.budget, room.flag) : planner.unbounded();
    });
    const auto seed = static_cast<uint64_t>(training.seed);
    if (fine_tuning.starts_from_model()) {
      fine_tuning.load(network, !directory.checkpoints().empty(), seed);
    } else {
      network.parameters().allocate();
      network.initialise(seed, initialisation);
    }
    network.allocate_gradients();
    LanguageModelTask task(network, train_set, valid_set, training, plan, write_model_files);
    return train_task(
        {line, directory, goes_on, stop_after, training, settings()}, task, plan, [&] {
          if (train_set.has_pairs() && training.max_tokens > 0)
            note(fmt::format("padding efficiency {:.1f} % ({} batches), {} skipped",
                             100 * task.batches().padding_efficiency(),
                             task.batches().batches_in_epoch(), task.batches().skipped()));
        });
  }
};

// The settings of `train`, of which nothing is trained and nothing written.
struct PlanOfTraining : Train {
  PlanRequest request;

  template <class V>
  void visit(V&& v) {
    request.visit(v);
    Train::visit(v);
  }

  void check(const CommandLine& line) {
    refuse_given(line, "resume", "expected --config with the run's training_args.json instead");
    resume.clear();
    if (is_reconstruction()) line.require({"data"});
    Train::check(line, false);
    request.check();
  }

  int run(const CommandLine& line) {
    check(line);
    check_target("--svg", request.svg, source.inputs);
    if (is_reconstruction())
      return plan_reconstruct(reconstruct, training, {source.inputs, valid, valid_split}, request);
    // Held here, as `train` holds it: it is counted.
    std::optional<text::Tokenizer> made;
    const auto of_tags = settle_tags(source);
    if (!source.inputs.empty())
      made = make_tokenizer(tokenizer, source, character_coverage);
    else if (!is_tokenizer_spec(tokenizer))
      made = load_tokenizer(tokenizer);
    source.copies.reset();
    if (of_tags) note(*of_tags);
    if (made) take_vocabulary(*made);
    if (model.vocab_size < 1)
      throw_error(
          "--vocab-size: expected the tokenizer's number of tokens, or --data or --tokenizer that "
          "tell it, found {}",
          model.vocab_size);
    LanguageModel network(with_settings(model, mixers), LanguageModel::Memory::kLater);
    fine_tuning.freeze_parameters(network);
    const std::unique_ptr<Lora> lora = fine_tuning.make_adapters(network);
    settle_memory();
    const bool evaluates = request.evaluation && (!valid.empty() || valid_split > 0);
    const Planner planner(network, training, evaluates, resident_bytes(),
                          made ? peak_memory_bytes() : 0);
    report_plans(request, training, network, planner);
    return 0;
  }
};

}  // namespace

Verb plan_verb() {
  return make_verb<PlanOfTraining>(
      "plan", "tell what memory training takes, and what less of it costs",
      "(--vocab-size N | --data FILE...) [settings as of train] [--budgets 1G 2G] [--svg FILE]",
      "Takes the flags and --config files of train. Trains nothing and writes nothing. With "
      "--data\n"
      "it makes the tokenizer that train would make. Memory is that of the whole process. Seconds\n"
      "are predicted from a measurement of a second or two on this machine, which is kept for the\n"
      "next time. refrain train --memory AMOUNT uses the fastest of these plans that fits.\n"
      "With --task reconstruct, which reads its --data, times are relative: 1 is the whole batch\n"
      "with nothing recomputed.");
}

Verb train_verb() {
  return make_verb<Train>(
      "train", "train a model on text", "--data FILE... --out DIR",
      "A run directory is a model directory (use it with generate, translate, eval) with the "
      "run's\n"
      "checkpoints, settings, metrics.jsonl, and best/, the model of the best evaluation.\n"
      "Ctrl-C (SIGINT, SIGTERM, SIGHUP) finishes the step, saves, and exits 128 + the signal's\n"
      "number. --resume DIR continues the run. The final weights are the same to the bit whether "
      "a\n"
      "run was stopped or not. They are also the same with any --threads, any split of\n"
      "batch-size x gradient-accumulation-steps, any --gradient-checkpointing and any --memory.\n"
      "If other programs use the cores, pass --threads 1.");
}

}  // namespace refrain::cli

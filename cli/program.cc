// The program: finds the verb that the words name, runs it, and says how it ended.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <new>

#include "cli/command.h"
#include "cli/help.h"
#include "cli/output.h"
#include "refrain/base/parallel.h"
#include "refrain/base/process.h"
#include "refrain/base/thread_pool.h"
#include "refrain/io/json.h"
#include "refrain/kernels/isa.h"

namespace refrain::cli {
namespace {

constexpr int kMistake = 2, kBug = 3;
constexpr int kOutputClosed = 141;  // what shells say of programs that SIGPIPE ends

// Every verb has these.
struct CommonSettings {
  int64_t threads = 0;
  bool verbose = false;

  template <class V>
  void visit(V&& v) {
    v("threads", threads, "threads to compute with; 0 = one per core");
    v("verbose", verbose, "tell the settings, the time and the memory on standard error");
  }
};
// The verb that the first words name, which are taken off `arguments`.
const Verb& find_verb(const std::vector<Verb>& verbs, std::span<const std::string>& arguments) {
  const auto search = [&](const std::string& name) {
    return std::find_if(verbs.begin(), verbs.end(),
                        [&](const Verb& verb) { return verb.name == name; });
  };
  std::string name = arguments[0];
  const std::string group = name + " ";
  size_t words = 1;
  std::vector<std::string> names;
  for (const Verb& verb : verbs) {
    const size_t space = verb.name.find(' ');
    if (verb.name.starts_with(group)) words = 2;
    if (space == std::string::npos || names.empty() || names.back() != verb.name.substr(0, space))
      names.push_back(verb.name.substr(0, space));
  }
  if (words == 2) {
    std::string known;
    names.clear();
    for (const Verb& verb : verbs) {
      if (!verb.name.starts_with(group)) continue;
      names.push_back(verb.name.substr(group.size()));
      known += (known.empty() ? "" : ", ") + names.back();
    }
    if (arguments.size() == 1 || arguments[1].starts_with('-'))
      throw_error("{}: expected one of {}", name, known);
    name = group + arguments[1];
    if (search(name) == verbs.end())
      throw_error("{}: expected one of {}, found '{}'{}", arguments[0], known, arguments[1],
                  did_you_mean(nearest_name(arguments[1], names)));
  } else if (search(name) == verbs.end()) {
    throw_error("unknown verb '{}'{}; see refrain --help", name,
                did_you_mean(nearest_name(name, names)));
  }
  arguments = arguments.subspan(words);
  return *search(name);
}

int run_verb(const Verb& verb, std::span<const std::string> arguments) {
  Verb with_common = verb;
  CommonSettings common;
  common.visit([&](const char* name, auto& value, const char* help) {
    with_common.settings.push_back(detail::declare(name, value, help));
  });
  CommandLine line(with_common.settings);
  std::vector<std::string> all(arguments.begin(), arguments.end());
  if (!verb.words.empty() && !all.empty() && !all[0].starts_with('-'))
    all.insert(all.begin(), flag_of(verb.words));
  line.parse(all);
  if (line.wants_help()) {
    print(help_of(with_common));
    return 0;
  }
  const auto with_files = [&](const auto& f) {
    try {
      return f();
    } catch (const Error& error) {
      throw Error(line.with_file(error.what()));
    }
  };
  common.visit(
      [&](const char* name, auto& value, const char*) { detail::assign(line.find(name), value); });
  if (common.threads < 0 || common.threads > 1024)
    throw_error("--threads: expected 0 to 1024, found {}", common.threads);
  if (line.wants_dump()) {
    const io::Json settings = with_files([&] {
      if (verb.check) verb.check(line);
      return verb.dump ? verb.dump(line) : line.to_json();
    });
    print(io::to_text(settings));
    return 0;
  }
  ThreadPool pool(static_cast<int>(common.threads), note);
  const ThreadPool::Scope scope(pool);
  if (common.verbose) note(io::to_line(line.to_json()));
  const auto start = std::chrono::steady_clock::now();
  const int status = with_files([&] { return verb.run(line); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (common.verbose)
    note(fmt::format("{:.2f} s, {} threads, at most {:.1f} MiB resident", seconds.count(),
                     threads(), static_cast<double>(peak_memory_bytes()) / (1 << 20)));
  return status;
}

int run(const std::vector<Verb>& verbs, std::span<const std::string> arguments, std::string& name) {
  if (arguments.empty()) throw_error("expected a verb; see refrain --help");
  const std::string& first = arguments[0];
  const bool group_help =
      arguments.size() == 2 && (arguments[1] == "--help" || arguments[1] == "-h") &&
      std::any_of(verbs.begin(), verbs.end(),
                  [&](const Verb& verb) { return verb.name.starts_with(first + " "); });
  if (first == "--version") {
    print("refrain " REFRAIN_VERSION "\n");
  } else if (first == "--help" || first == "-h") {
    print(help_of(verbs, ""));
  } else if (group_help) {
    print(help_of(verbs, first + " "));
  } else {
    if (first.starts_with('-'))
      throw_error("expected a verb, found '{}'; see refrain --help", first);
    const Verb& verb = find_verb(verbs, arguments);
    name = " " + verb.name;
    return run_verb(verb, arguments);
  }
  return 0;
}

// REFRAIN_ISA names the most that may be used.
void limit_instructions() {
  const char* name = std::getenv("REFRAIN_ISA");
  if (!name) return;
  const auto isa = kernels::isa_named(name);
  if (!isa) throw_error("REFRAIN_ISA: expected {}, found '{}'", kernels::isa_names(), name);
  kernels::limit_isa(*isa);
}

}  // namespace

int run_program(const std::vector<Verb>& verbs, std::span<const std::string> arguments) {
  std::string name;
  const auto failed = [&](const std::string& what, int status) {
    note(fmt::format("refrain{}: {}", name, what));
    return status;
  };
  try {
    limit_instructions();
    const int status = run(verbs, arguments, name);
    flush_output();
    return status;
  } catch (const OutputClosed&) {
    return kOutputClosed;
  } catch (const Error& error) {
    return failed(error.what(), kMistake);
  } catch (const std::bad_alloc&) {
    return failed("out of memory", kMistake);
  } catch (const std::exception& error) {
    return failed(std::string("internal error: ") + error.what(), kBug);
  }
}

}  // namespace refrain::cli

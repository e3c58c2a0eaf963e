#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>

namespace refrain::cli {
namespace {

using Kind = Setting::Kind;

// Words on lines of at most 100 columns, all but the first indented.
std::string wrapped(std::string_view text, size_t column, size_t indent) {
  constexpr size_t kColumns = 100;
  std::string out;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    if (column + 1 + end > kColumns && column > indent) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (!out.empty()) {
      out += ' ';
      ++column;
    }
    out += text.substr(0, end);
    column += end;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out + "\n";
}

std::string help_line(const std::string& short_flag, const std::string& flag,
                      const std::string& help) {
  constexpr size_t kIndent = 36;
  std::string line = fmt::format("  {:<2}{} {}", short_flag, short_flag.empty() ? " " : ",", flag);
  if (line.size() + 2 > kIndent)
    line += "\n" + std::string(kIndent, ' ');
  else
    line.resize(kIndent, ' ');
  return line + wrapped(help, kIndent, kIndent);
}

std::string help_line(const Setting& s) {
  constexpr std::string_view kValue[] = {"", " N", " X", " TEXT", " TEXT..."};
  std::string by_default, flag = flag_of(s.name);
  for (const std::string& v : s.values) by_default += (by_default.empty() ? "" : " ") + v;
  if (s.kind == Kind::kSwitch && by_default == "true") flag.replace(0, 2, "--[no-]");
  const bool tell = !by_default.empty() && by_default != "false";
  return help_line(short_flag_of(s.name), flag + std::string(kValue[static_cast<int>(s.kind)]),
                   s.help + (tell ? " [" + by_default + "]" : ""));
}

}  // namespace

const std::vector<std::pair<char, std::string_view>>& short_flags() {
  static const std::vector<std::pair<char, std::string_view>> all = {
      {'m', "model"}, {'p', "prompt"}, {'n', "max_new_tokens"}, {'c', "context"},
      {'s', "seed"},  {'o', "out"},    {'t', "threads"},        {'h', "help"}};
  return all;
}

std::string short_flag_of(std::string_view name) {
  for (const auto& [letter, of] : short_flags())
    if (of == name) return fmt::format("-{}", letter);
  return "";
}

std::string help_of(const Verb& verb) {
  std::string text = fmt::format("refrain {}: {}\n\nusage: refrain {} {} [flags]\n", verb.name,
                                 verb.summary, verb.name, verb.usage);
  if (!verb.details.empty()) text += "\n" + verb.details + "\n";
  text += "\n";
  for (const Setting& setting : verb.settings) text += help_line(setting);
  text += help_line("", "--config FILE",
                    "settings from a JSON or TOML file, or - for standard input, keys as the "
                    "flags'; the command line wins");
  text += help_line("", "--dump-config", "print the settings that would run as JSON, and stop");
  return text + help_line("-h", "--help", "print this, and stop");
}

std::string help_of(const std::vector<Verb>& verbs, const std::string& prefix) {
  std::string text = prefix.empty() ? "refrain: trains and runs sequence models on CPUs\n\n"
                                      "usage: refrain VERB [flags]\n\n"
                                    : fmt::format("usage: refrain {}VERB [flags]\n\n", prefix);
  for (const Verb& verb : verbs)
    if (verb.name.starts_with(prefix))
      text += fmt::format("  {:<18} {}\n", verb.name, verb.summary);
  text += "\nrefrain VERB --help lists a verb's flags with their defaults.\n";
  if (prefix.empty()) text += "refrain --version prints the version.\n";
  return text;
}

std::string did_you_mean(const std::string& near) {
  return near.empty() ? "" : "; did you mean '" + near + "'?";
}

}  // namespace refrain::cli

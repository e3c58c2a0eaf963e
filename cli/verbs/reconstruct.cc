// Shows what a sequence autoencoder makes of text: original beside reconstruction, and where its
// attention looked.
#include "cli/verbs/reconstruct.h"

#include <algorithm>
#include <cmath>

#include "cli/finite.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/verbs.h"
#include "refrain/base/utf8.h"
#include "refrain/io/file.h"
#include "refrain/io/gguf/gguf.h"

namespace refrain::cli {
namespace {

// Columns that text takes, as a terminal shows most scripts.
size_t columns_of(std::string_view text) {
  size_t n = 0;
  for (; !text.empty(); ++n) text.remove_prefix(decode_utf8(text).bytes);
  return n;
}

std::string padded(const std::string& word, size_t columns) {
  const size_t has = columns_of(word);
  return word + std::string(has < columns ? columns - has : 0, ' ');
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

// A square for every pair of a word made (a row) and a word read (a column), the darker the more of
// it was read.
std::string attention_svg(const std::vector<std::string>& read,
                          const std::vector<std::string>& made,
                          const std::vector<std::vector<float>>& map) {
  constexpr int kCell = 16, kMargin = 120;
  const int width = kMargin + kCell * static_cast<int>(read.size()) + 10;
  const int height = kMargin + kCell * static_cast<int>(made.size()) + 10;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{0}\" height=\"{1}\" "
      "fill=\"#ffffff\"/>\n",
      width, height);
  const auto place = [&](size_t i) { return kMargin + kCell * static_cast<int>(i); };
  for (size_t j = 0; j < read.size(); ++j)
    svg += fmt::format("<text transform=\"translate({},{}) rotate(-60)\">{}</text>\n",
                       place(j) + kCell / 2, kMargin - 6, escaped(read[j]));
  for (size_t i = 0; i < made.size(); ++i) {
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", kMargin - 6,
                       place(i) + kCell - 4, escaped(made[i]));
    for (size_t j = 0; j < read.size(); ++j)
      svg += fmt::format(
          "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#1f4e8c\" "
          "fill-opacity=\"{:.3f}\"><title>{} reads {}: {:.3f}</title></rect>\n",
          place(j), place(i), kCell - 1, kCell - 1, map[i][j], escaped(made[i]), escaped(read[j]),
          map[i][j]);
  }
  return svg + "</svg>\n";
}

// A number that is none may be read by nobody, or be lost in a comparison.
void expect_finite_model(const std::string& name, const WordAutoencoder& loaded) {
  const auto all_of = [&](std::string_view what, ConstTensor t) {
    expect_finite(name, what, std::span<const float>(t.data, static_cast<size_t>(t.size())));
  };
  loaded.model->parameters().visit(
      [&](const ParamSpec& spec, Param& param) { all_of(spec.name, param.w); });
  all_of("vectors of words", loaded.table());
}

struct Reconstruct {
  std::string model, input = "-", attention_map;
  int64_t max_windows = 0;
  bool json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, "model directory");
    v("input", input, "text to reconstruct; - is standard input");
    v("attention_map", attention_map,
      "file to write with a picture (SVG) of what the first window's words have read");
    v("max_windows", max_windows, "windows to show; 0 = all");
    v("json", json, "print JSON, a line for every window");
  }

  void check(const CommandLine&) const {
    if (max_windows < 0) throw_error("--max-windows: expected 0 or more, found {}", max_windows);
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    check(line);
    check_target("--attention-map", attention_map, {model, input});
    require_model_directory(model);
    if (io::is_gguf(model) || (io::exists(model + "/config.json") && !Autoencoder::is_model(model)))
      throw_error(
          "{}: expected a sequence autoencoder (train --task reconstruct), found a language model "
          "(refrain generate and translate continue text with it, refrain eval scores it)",
          model);
    const WordAutoencoder loaded = WordAutoencoder::load(model);
    expect_finite_model(model, loaded);
    if (!attention_map.empty() && !loaded.model->config().reads_encoder())
      throw_error("--attention-map: expected a model with cross attention, found the decoder {}",
                  io::quote(loaded.model->config().decoder));
    const Documents documents = visible_documents({input}, loaded.words);
    std::vector<std::span<const int32_t>> windows;
    int64_t longest = 0;
    for (const auto& document : documents) {
      longest = std::max(longest, std::ssize(document));
      for (const auto& one : cut_windows(document, loaded.window, loaded.min_window))
        windows.push_back(one);
    }
    if (windows.empty())
      throw_error("{}: expected windows of at least {} words that have vectors, found {}", input,
                  loaded.min_window, longest);
    if (max_windows > 0 && std::ssize(windows) > max_windows)
      windows.resize(static_cast<size_t>(max_windows));
    show(loaded, windows);
    return 0;
  }

  void show(const WordAutoencoder& loaded,
            const std::vector<std::span<const int32_t>>& windows) const {
    Workspace workspace;
    std::vector<std::vector<float>> map;
    const int64_t E = loaded.model->config().width;
    const std::vector<float> made =
        reconstruct_windows(loaded, windows, workspace, attention_map.empty() ? nullptr : &map);
    expect_finite(model, "reconstruction", std::span<const float>(made));
    const auto rows = static_cast<int64_t>(made.size()) / E;
    const ConstTensor y(made.data(), {rows, E});
    const std::vector<int32_t> nearest = nearest_words(y, loaded.table(), workspace);
    int64_t row = 0;
    for (size_t i = 0; i < windows.size(); ++i) {
      const auto n = std::ssize(windows[i]);
      std::vector<std::string> original, reconstruction;
      std::vector<float> x, losses(windows[i].size()), cosines(windows[i].size());
      for (int64_t t = 0; t < n; ++t) {
        const int32_t id = windows[i][static_cast<size_t>(t)];
        original.push_back(loaded.words.word(id));
        reconstruction.push_back(loaded.words.word(nearest[static_cast<size_t>(row + t)]));
        const float* vector = loaded.table().row(id);
        x.insert(x.end(), vector, vector + E);
      }
      loaded.model->score(y.slice(row, n), {x.data(), {n, E}}, {losses.data(), {n}},
                          {cosines.data(), {n}});
      expect_finite(model, "cosine", std::span<const float>(cosines));
      print(json ? as_json(original, reconstruction, cosines)
                 : as_table(i, original, reconstruction, cosines));
      if (i == 0 && !attention_map.empty())
        io::write_file(attention_map, attention_svg(original, reconstruction, map));
      row += n;
    }
  }

  static double mean(const std::vector<float>& values) {
    double sum = 0;
    for (const float v : values) sum += static_cast<double>(v);
    return sum / static_cast<double>(values.size());
  }

  static std::string as_json(const std::vector<std::string>& original,
                             const std::vector<std::string>& reconstruction,
                             const std::vector<float>& cosines) {
    return io::to_line({{"original", original},
                        {"reconstruction", reconstruction},
                        {"cosine", cosines},
                        {"mean_cosine", mean(cosines)}}) +
           "\n";
  }

  static std::string as_table(size_t window, const std::vector<std::string>& original,
                              const std::vector<std::string>& reconstruction,
                              const std::vector<float>& cosines) {
    constexpr size_t kWidest = 30;
    size_t columns = std::string_view("reconstruction").size(), right = 0;
    for (const auto* words : {&original, &reconstruction})
      for (const std::string& word : *words)
        columns = std::clamp(columns_of(word), columns, std::max(columns, kWidest));
    std::string lines;
    for (size_t t = 0; t < original.size(); ++t) {
      right += original[t] == reconstruction[t];
      lines += fmt::format("  {}  {}  {:>6.3f}\n", padded(original[t], columns),
                           padded(reconstruction[t], columns), cosines[t]);
    }
    return fmt::format("window {}: {} words, mean cosine {:.4f}, {} recovered\n", window + 1,
                       original.size(), mean(cosines), right) +
           fmt::format("  {}  {}  cosine\n", padded("original", columns),
                       padded("reconstruction", columns)) +
           lines + "\n";
  }
};

}  // namespace

Documents visible_documents(const std::vector<Words>& documents, const Embeddings& words,
                            const std::string& name) {
  Documents all;
  int64_t found = 0, hidden = 0;
  for (const Words& document : documents) {
    all.push_back(words.visible(document));
    found += std::ssize(all.back());
    hidden += std::ssize(document) - std::ssize(all.back());
  }
  if (found == 0)
    throw_error("{}: expected words that have vectors, found none ({} are hidden)", name, hidden);
  if (hidden > 0)
    note(fmt::format("{}: {} of {} words have no vector: hidden", name, hidden, found + hidden));
  return all;
}

Documents visible_documents(const std::vector<std::string>& files, const Embeddings& words) {
  return visible_documents(read_documents(files), words, fmt::format("{}", fmt::join(files, ", ")));
}

io::Json reconstruction_scores(const std::string& model, const std::vector<std::string>& data) {
  const WordAutoencoder loaded = WordAutoencoder::load(model);
  expect_finite_model(model, loaded);
  Workspace workspace;
  const ReconstructionScores scores =
      score_reconstruction(loaded, visible_documents(data, loaded.words), workspace);
  expect_finite(model, "loss", scores.loss);
  return {{"task", "reconstruct"},
          {"loss", scores.loss},
          {"cosine", scores.cosine},
          {"recovery", scores.recovery},
          {"tokens", scores.words},
          {"windows", scores.windows},
          {"tokens_per_second", static_cast<double>(scores.words) / scores.seconds}};
}

std::string reconstruction_text(const io::Json& scores) {
  const auto number = [&](const char* key) { return scores.at(key).get<double>(); };
  return fmt::format(
      "loss            {:.4f}\nmean cosine     {:.4f}\nrecovery        {:.2f} %\n"
      "tokens          {} in {} windows ({:.0f} a second)\n",
      number("loss"), number("cosine"), 100 * number("recovery"),
      scores.at("tokens").get<int64_t>(), scores.at("windows").get<int64_t>(),
      number("tokens_per_second"));
}

Verb reconstruct_verb() {
  return make_verb<Reconstruct>(
      "reconstruct", "show what a sequence autoencoder makes of text", "-m DIR [--input FILE]",
      "Text is cut into windows as in training (train --task reconstruct); what stands beside a\n"
      "word is the one whose vector is nearest to the decoder's output, which has been given\n"
      "nothing but its own outputs.");
}

}  // namespace refrain::cli

#include "cli/verbs/similarity.h"

#include <fmt/ranges.h>

namespace refrain::cli {
namespace {

constexpr const char* kVersion = "|version:refrain-" REFRAIN_VERSION;

std::string tokenization(const SimilaritySettings& settings, std::string_view target_tag) {
  if (!settings.bleu_tokenize.empty()) return settings.bleu_tokenize;
  return target_tag == "<ja>" || target_tag == "<zh>" ? "char" : "13a";
}

}  // namespace

Similarity::Similarity(const SimilaritySettings& settings, std::string_view target_tag)
    : bleu_(tokenization(settings, target_tag)), chrf_(settings.chrf_word_order) {}

void Similarity::add(std::string_view hypothesis, std::string_view reference) {
  bleu_.add(hypothesis, reference);
  chrf_.add(hypothesis, reference);
}

void Similarity::put(io::Json& scores) const {
  scores["bleu"] = {{"score", bleu_.score()},
                    {"precisions", bleu_.precisions()},
                    {"brevity_penalty", bleu_.brevity_penalty()},
                    {"hypothesis_tokens", bleu_.hypothesis_tokens()},
                    {"reference_tokens", bleu_.reference_tokens()},
                    {"signature", bleu_.signature() + kVersion}};
  scores["chrf"] = {{"name", chrf_.name()},
                    {"score", chrf_.score()},
                    {"signature", chrf_.signature() + kVersion}};
}

std::string Similarity::as_text(const io::Json& scores) {
  const io::Json &bleu = scores.at("bleu"), &chrf = scores.at("chrf");
  const auto hypothesis = bleu.at("hypothesis_tokens").get<int64_t>();
  const auto reference = bleu.at("reference_tokens").get<int64_t>();
  const double ratio =
      reference > 0 ? static_cast<double>(hypothesis) / static_cast<double>(reference) : 0;
  const auto precisions = bleu.at("precisions").get<std::vector<double>>();
  return fmt::format(
      "BLEU            {:.2f}  {:.1f} (BP = {:.3f} ratio = {:.3f} hyp_len = {} ref_len = {})\n"
      "                {}\n"
      "{:<15} {:.2f}\n"
      "                {}\n",
      bleu.at("score").get<double>(), fmt::join(precisions, "/"),
      bleu.at("brevity_penalty").get<double>(), ratio, hypothesis, reference,
      bleu.at("signature").get<std::string>(), chrf.at("name").get<std::string>(),
      chrf.at("score").get<double>(), chrf.at("signature").get<std::string>());
}

}  // namespace refrain::cli

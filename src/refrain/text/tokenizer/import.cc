// Vocabularies of other programs.
#include <algorithm>
#include <cmath>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/file.h"
#include "refrain/io/text.h"
#include "refrain/text/tokenizer/impl.h"

namespace refrain::text {
namespace {

constexpr size_t kSpecialPieces = 3, kBytePieces = 256;

std::string mark_spaces(std::string_view piece) {
  std::string marked;
  for (const char c : piece) {
    if (c == ' ') {
      marked += kSpaceMark;
    } else {
      marked += c;
    }
  }
  return marked;
}

}  // namespace

io::Json bos_template(const std::string& bos, int32_t id) {
  const auto text = [](const char* name, int type) {
    return io::Json{{"Sequence", {{"id", name}, {"type_id", type}}}};
  };
  const auto start = [&](int type) {
    return io::Json{{"SpecialToken", {{"id", bos}, {"type_id", type}}}};
  };
  io::Json tokens = io::Json::object();
  tokens[bos] = {{"id", bos}, {"ids", io::Json::array({id})}, {"tokens", io::Json::array({bos})}};
  return {{"type", "TemplateProcessing"},
          {"single", io::Json::array({start(0), text("A", 0)})},
          {"pair", io::Json::array({start(0), text("A", 0), start(1), text("B", 1)})},
          {"special_tokens", std::move(tokens)}};
}

std::vector<Merge> merges_by_score(const std::vector<std::string>& tokens,
                                   std::vector<int32_t> pieces, std::span<const float> scores) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], static_cast<int32_t>(i));
  std::ranges::stable_sort(pieces, std::ranges::greater(),
                           [&](int32_t id) { return scores[static_cast<size_t>(id)]; });
  std::vector<Merge> merges;
  for (const int32_t id : pieces) {
    const std::string_view whole = tokens[static_cast<size_t>(id)];
    for (size_t cut = 1; cut < whole.size(); ++cut) {
      const auto left = ids.find(whole.substr(0, cut)), right = ids.find(whole.substr(cut));
      if (left != ids.end() && right != ids.end())
        merges.push_back({left->second, right->second, id});
    }
  }
  return merges;
}

Tokenizer Tokenizer::from_gpt2(const std::string& vocab_json, const std::string& merges) {
  using io::Json;
  Json pairs = Json::array();
  io::TextReader reader(merges);
  for (std::string line; reader.line(line);) {
    if (line.empty() || (reader.line_number() == 1 && line.starts_with("#version"))) continue;
    pairs.push_back(line);
  }
  Json vocabulary = io::read_json(vocab_json, io::kMaxJsonBytes);
  Json added = Json::array();
  if (const Json* end = io::find(vocabulary, "<|endoftext|>"))
    added.push_back({{"id", *end}, {"content", "<|endoftext|>"}, {"special", true}});
  const Json root = {{"added_tokens", std::move(added)},
                     {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                     {"model", {{"vocab", std::move(vocabulary)}, {"merges", std::move(pairs)}}}};
  return Tokenizer(std::make_unique<Impl>(read_vocabulary(root, vocab_json + ", " + merges)));
}

Tokenizer Tokenizer::from_scored_pieces(std::vector<std::string> pieces,
                                        std::vector<float> scores) {
  if (pieces.size() != scores.size())
    throw_error("tokenizer: {} pieces with {} scores", pieces.size(), scores.size());
  if (pieces.size() < kSpecialPieces + kBytePieces)
    throw_error("tokenizer: {} pieces, expected at least {} (special tokens and bytes)",
                pieces.size(), kSpecialPieces + kBytePieces);
  Vocabulary v;
  v.kind = Kind::kLlama;
  v.tokens = {std::string(kUnknown), "<s>", "</s>"};
  v.unk = 0;
  v.fuse_unk = true;
  for (int32_t id = 0; id < static_cast<int32_t>(kSpecialPieces); ++id)
    v.added.push_back({id, true, false});
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i >= kSpecialPieces) {
      const size_t byte = i - kSpecialPieces;
      if (byte < kBytePieces && pieces[i] != llama_byte_token(static_cast<uint8_t>(byte)))
        throw_error("tokenizer: piece {}: expected {}, found {}", i,
                    llama_byte_token(static_cast<uint8_t>(byte)), io::quote(pieces[i]));
      if (pieces[i].empty() || find_invalid_utf8(pieces[i]) || !std::isfinite(scores[i]))
        throw_error("tokenizer: piece {}: expected UTF-8 text and a finite score, found {} and {}",
                    i, io::quote(pieces[i]), scores[i]);
      if (pieces[i].size() > kLongestPiece)
        throw_error("tokenizer: piece {}: expected at most {} bytes, found {}", i, kLongestPiece,
                    pieces[i].size());
      v.tokens.push_back(mark_spaces(pieces[i]));
    }
    const auto [known, added] = ids.emplace(v.tokens[i], static_cast<int32_t>(i));
    if (!added)
      throw_error("tokenizer: pieces {} and {} are the same: {}", known->second, i,
                  io::quote(pieces[i]));
  }
  // All places where a piece may be cut are tried, which is why none is longer than kLongestPiece.
  std::vector<int32_t> merged;
  for (size_t i = kSpecialPieces + kBytePieces; i < pieces.size(); ++i)
    merged.push_back(static_cast<int32_t>(i));
  v.merges = merges_by_score(v.tokens, std::move(merged), scores);
  v.model_tokens = static_cast<int32_t>(v.tokens.size());
  v.template_before = {1};
  v.post_processor = bos_template("<s>", 1);
  return Tokenizer(std::make_unique<Impl>(std::move(v)));
}

}  // namespace refrain::text

// Writes tokenizer.json (docs/formats.md).
#include <utility>

#include "refrain/io/file.h"
#include "refrain/text/tokenizer/impl.h"

namespace refrain::text {
namespace {

using io::Json;

Json sequence(const char* key, Json members) {
  return {{"type", "Sequence"}, {key, std::move(members)}};
}

Json replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

Json byte_level(bool prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

// The file's normalizer, pre_tokenizer and decoder.
void write_kind(const Vocabulary& v, Json& root) {
  Json& normalizer = root["normalizer"];
  Json& splitter = root["pre_tokenizer"];
  root["post_processor"] = v.post_processor;
  Json& decoder = root["decoder"];
  switch (v.kind) {
    case Kind::kChar:
      decoder = {{"type", "Fuse"}};
      break;
    case Kind::kBpe:
      splitter = {{"type", "WhitespaceSplit"}};
      decoder = {{"type", "BPEDecoder"}, {"suffix", kEndOfWord}};
      break;
    case Kind::kWord:
      splitter = {{"type", v.split_punctuation ? "Whitespace" : "WhitespaceSplit"}};
      break;
    case Kind::kByteBpe:
      if (!v.normalizer.empty()) normalizer = v.normalizer_json;
      splitter = v.pre_tokenizer.empty() ? byte_level(v.prefix_space, v.split_words)
                                         : v.pre_tokenizer_json;
      decoder = byte_level(true, true);
      break;
    case Kind::kLlama: {
      if (v.metaspace) {
        const char* scheme = v.prefix == Vocabulary::Prefix::kAlways  ? "always"
                             : v.prefix == Vocabulary::Prefix::kFirst ? "first"
                                                                      : "never";
        splitter = {{"type", "Metaspace"},
                    {"replacement", kSpaceMark},
                    {"prepend_scheme", scheme},
                    {"split", v.split_marks}};
      } else {
        Json members = Json::array();
        if (v.prefix == Vocabulary::Prefix::kAlways)
          members.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
        members.push_back(replace(" ", kSpaceMark));
        normalizer = sequence("normalizers", std::move(members));
      }
      Json members =
          Json::array({replace(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
      if (v.strip_prefix)
        members.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
      decoder = sequence("decoders", std::move(members));
      break;
    }
  }
}

Json write_model(const Vocabulary& v) {
  Json vocab = Json::object();
  Json::object_t::Container& members = vocab.get_ref<Json::object_t&>();
  for (int32_t id = 0; id < v.model_tokens; ++id)
    members.emplace_back(v.tokens[static_cast<size_t>(id)], id);
  Json merges = Json::array();
  for (const Merge& merge : v.merges)
    merges.push_back(Json::array(
        {v.tokens[static_cast<size_t>(merge.left)], v.tokens[static_cast<size_t>(merge.right)]}));
  const auto text_or_null = [](bool present, std::string_view text) {
    return present ? Json(text) : Json();
  };
  const bool has_unk = v.unk != kNoToken;
  if (v.kind == Kind::kWord) {
    Json model = {{"type", "WordLevel"}, {"vocab", std::move(vocab)}};
    // The package wants a text there.
    model["unk_token"] = has_unk ? v.tokens[static_cast<size_t>(v.unk)] : std::string();
    return model;
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", text_or_null(has_unk, has_unk ? v.tokens[static_cast<size_t>(v.unk)] : "")},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", text_or_null(v.kind == Kind::kBpe, kEndOfWord)},
          {"fuse_unk", v.fuse_unk},
          {"byte_fallback", v.kind == Kind::kLlama},
          {"ignore_merges", v.ignore_merges},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

}  // namespace

std::string Tokenizer::to_json() const {
  const Vocabulary& v = impl_->vocabulary;
  Json root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  Json& added = root["added_tokens"] = Json::array();
  for (const AddedToken& token : v.added)
    added.push_back({{"id", token.id},
                     {"content", v.tokens[static_cast<size_t>(token.id)]},
                     {"single_word", token.single_word},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  write_kind(v, root);
  root["model"] = write_model(v);
  return io::to_text(root);
}

void Tokenizer::save(const std::string& directory) const {
  io::write_file(directory + "/tokenizer.json", to_json());
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, int32_t id) {
    if (id != kNoToken) config[key] = token(id);
  };
  name("unk_token", unk());
  name("bos_token", bos());
  name("eos_token", eos());
  name("pad_token", pad());
  io::write_file(directory + "/tokenizer_config.json", io::to_text(config));
}

}  // namespace refrain::text

// Reads tokenizer.json (docs/formats.md). What is read is checked whole, and whatever this
// tokenizer would not do as the file says is refused by name.
#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <set>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/io/file.h"
#include "refrain/io/json_part.h"
#include "refrain/text/tokenizer/impl.h"

namespace refrain::text {
namespace {

using io::Json;
using io::Part;
using io::quote;
using Ids = std::unordered_map<std::string_view, int32_t>;

constexpr int64_t kMaxTokens = int64_t{1} << 24;

// A Sequence's members (their list is `key`) and theirs; anything else is itself.
std::vector<Part> flatten(const Part& part, std::string_view key) {
  if (!part.json) return {};
  if (part.text("type") != "Sequence") return {part};
  part.only({"type", key});
  std::vector<Part> parts;
  for (const Json& member : part.list(key))
    for (Part& inner : flatten({&member, part.where}, key)) parts.push_back(std::move(inner));
  return parts;
}

// True if the parts have these types, in this order.
bool are(const std::vector<Part>& parts, std::initializer_list<std::string_view> types) {
  return std::equal(
      parts.begin(), parts.end(), types.begin(), types.end(),
      [](const Part& part, std::string_view type) { return part.text("type") == type; });
}

class Reader {
 public:
  Reader(const Json& root, const std::string& name) : top_{&root, name}, model_(top_.at("model")) {}

  Vocabulary read(const Notes& notes) {
    // What the model is comes before any setting: another type has other settings.
    if (!top_.json->is_object()) top_.only({});
    if (!model_.json || !model_.json->is_object()) model_.only({});
    const std::string type = model_.text("type", "BPE");
    if (type != "BPE" && type != "WordLevel")
      throw_error("{}: type: expected \"BPE\" or \"WordLevel\", found {}", model_.where,
                  quote(type));
    top_.only({"version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
               "decoder", "model", "truncation", "padding"});
    // What `transformers` writes there is about batches of texts, not about a text's tokens.
    for (const char* key : {"truncation", "padding"})
      if (top_.at(key).json)
        add_note(notes, "{}: {} is left aside: texts are encoded whole, and nothing is added",
                 top_.where, key);
    if (const std::string version = top_.text("version", "1.0"); version != "1.0")
      throw_error("{}: version: expected \"1.0\", found {}", top_.where, quote(version));
    if (type == "WordLevel") return read_words();
    model_.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                 "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (io::get_number(*model_.json, "dropout", model_.where, 0) != 0)
      throw_error("{}: dropout is not supported", model_.where);
    if (!model_.text("continuing_subword_prefix", "").empty())
      throw_error("{}: continuing_subword_prefix is not supported", model_.where);
    read_tokens();
    read_merges();
    read_added();
    read_kind();
    read_post_processor();
    return std::move(v_);
  }

 private:
  Vocabulary read_words() {
    model_.only({"type", "vocab", "unk_token"});
    v_.kind = Kind::kWord;
    read_tokens();
    read_added();
    const std::vector<Part> splitters = flatten(top_.at("pre_tokenizer"), "pretokenizers");
    v_.split_punctuation = are(splitters, {"Whitespace"});
    if (!v_.split_punctuation && !are(splitters, {"WhitespaceSplit"}))
      top_.at("pre_tokenizer").refuse("WhitespaceSplit or Whitespace with a WordLevel model");
    splitters[0].only({"type"});
    for (const char* key : {"normalizer", "decoder"})
      if (top_.at(key).json) top_.at(key).refuse("none with a WordLevel model");
    read_post_processor();
    return std::move(v_);
  }

  void read_tokens() {
    const Part vocab = model_.at("vocab");
    if (!vocab.json || !vocab.json->is_object()) vocab.refuse("an object of tokens and their ids");
    const auto n = static_cast<int64_t>(vocab.json->size());
    if (n == 0 || n > kMaxTokens)
      throw_error("{}: expected 1 to {} tokens, found {}", vocab.where, kMaxTokens, n);
    v_.tokens.resize(static_cast<size_t>(n));
    v_.model_tokens = static_cast<int32_t>(n);
    std::vector<const std::string*> taken(static_cast<size_t>(n));
    for (const auto& [token, value] : vocab.json->get_ref<const Json::object_t&>()) {
      const int64_t id = value.is_number_integer() ? value.get<int64_t>() : -1;
      if (id < 0 || id >= n)
        throw_error("{}: token {}: expected an id of 0 to {} (one for each token), found {}",
                    vocab.where, quote(token), n - 1, quote(io::to_line(value)));
      const auto at = static_cast<size_t>(id);
      if (taken[at])
        throw_error("{}: tokens {} and {} have the same id {}", vocab.where, quote(*taken[at]),
                    quote(token), id);
      taken[at] = &token;
      v_.tokens[at] = token;
      ids_.emplace(token, static_cast<int32_t>(id));
    }
    const bool is_usual = v_.kind == Kind::kWord && ids_.contains(kUnknown);
    if (const std::string unk = model_.text("unk_token", is_usual ? std::string(kUnknown) : "");
        !unk.empty()) {
      const auto found = ids_.find(unk);
      if (found == ids_.end())
        throw_error("{}: unk_token: {} is not in the vocabulary", model_.where, quote(unk));
      v_.unk = found->second;
    }
    if (v_.kind != Kind::kWord) v_.fuse_unk = model_.flag("fuse_unk", false);
  }

  void read_merges() {
    const Json::array_t& list = model_.list("merges");
    for (size_t i = 0; i < list.size(); ++i) {
      const Json& merge = list[i];
      const auto where = [&] { return fmt::format("{}: merges: number {}", model_.where, i); };
      std::string_view left, right;
      if (merge.is_string()) {
        left = right = merge.get_ref<const std::string&>();
        const size_t space = left.find(' ');
        left = left.substr(0, space);
        right = space < right.size() ? right.substr(space + 1) : "";
        if (left.empty() || right.empty() || right.find(' ') != right.npos)
          throw_error("{}: expected two tokens with a space between them, found {}", where(),
                      quote(io::to_line(merge)));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        left = merge[0].get_ref<const std::string&>();
        right = merge[1].get_ref<const std::string&>();
      } else {
        throw_error("{}: expected \"a b\" or [\"a\", \"b\"], found {}", where(),
                    quote(io::to_line(merge)));
      }
      const auto id_of = [&](std::string_view token) {
        const auto found = ids_.find(token);
        if (found == ids_.end())
          throw_error("{}: token {} is not in the vocabulary", where(), quote(token));
        return found->second;
      };
      const std::string merged = std::string(left) + std::string(right);
      v_.merges.push_back({id_of(left), id_of(right), id_of(merged)});
    }
  }

  void read_added() {
    if (!top_.at("added_tokens").json) return;
    std::set<int32_t> seen;
    size_t bytes = 0;
    for (const Json& json : top_.list("added_tokens")) {
      const Part part{&json, top_.at("added_tokens").where};
      part.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      const std::string content = part.text("content");
      if (content.empty()) throw_error("{}: a token has no text", part.where);
      if ((bytes += content.size()) > AddedTokenFinder::kMaxBytes)
        throw_error("{}: expected at most {} bytes of tokens together, found more", part.where,
                    AddedTokenFinder::kMaxBytes);
      const auto known = ids_.find(content);
      const auto next = static_cast<int32_t>(v_.tokens.size());
      const int32_t expected = known == ids_.end() ? next : known->second;
      const int64_t id = io::get_int(json, "id", part.where, 0, kMaxTokens);
      if (id != expected)
        throw_error("{}: token {}: expected the id {}, found {}", part.where, quote(content),
                    expected, id);
      if (!seen.insert(expected).second)
        throw_error("{}: token {} twice", part.where, quote(content));
      if (known == ids_.end()) {
        v_.tokens.push_back(content);
        ids_.emplace(json.at("content").get_ref<const std::string&>(), expected);
      }
      const bool special = part.flag("special", false);
      v_.added.push_back({.id = expected,
                          .special = special,
                          .normalized = part.flag("normalized", !special),
                          .single_word = part.flag("single_word", false),
                          .lstrip = part.flag("lstrip", false),
                          .rstrip = part.flag("rstrip", false)});
    }
  }

  void read_kind() {
    const std::vector<Part> splitters = flatten(top_.at("pre_tokenizer"), "pretokenizers");
    const std::vector<Part> normalizers = flatten(top_.at("normalizer"), "normalizers");
    const std::vector<Part> decoders = flatten(top_.at("decoder"), "decoders");
    const bool byte_fallback = model_.flag("byte_fallback", false);
    std::string_view suffix;
    if (!splitters.empty() && splitters.back().text("type") == "ByteLevel") {
      v_.kind = Kind::kByteBpe;
      read_byte_level(splitters, normalizers, decoders);
    } else if (are(splitters, {"WhitespaceSplit"})) {
      v_.kind = Kind::kBpe;
      suffix = kEndOfWord;
      read_spaced(splitters[0], decoders);
    } else if (byte_fallback) {
      v_.kind = Kind::kLlama;
      read_llama(splitters, normalizers, decoders);
    } else if (splitters.empty() && v_.merges.empty()) {
      v_.kind = Kind::kChar;
      if (!decoders.empty() && !are(decoders, {"Fuse"})) top_.at("decoder").refuse("Fuse");
    } else {
      top_.at("pre_tokenizer")
          .refuse("ByteLevel or WhitespaceSplit (or a model with byte_fallback)");
    }
    if (v_.kind != Kind::kLlama && v_.kind != Kind::kByteBpe && !normalizers.empty())
      top_.at("normalizer").refuse("none");
    if (v_.kind != Kind::kLlama && byte_fallback)
      throw_error("{}: byte_fallback: expected false with this pre_tokenizer", model_.where);
    if (const std::string found = model_.text("end_of_word_suffix", ""); found != suffix)
      throw_error("{}: end_of_word_suffix: expected {} with this pre_tokenizer, found {}",
                  model_.where, quote(suffix), quote(found));
    v_.ignore_merges = model_.flag("ignore_merges", false);
    if (v_.ignore_merges && v_.kind != Kind::kByteBpe)
      throw_error("{}: ignore_merges: expected false with this pre_tokenizer", model_.where);
  }

  void read_byte_level(const std::vector<Part>& splitters, const std::vector<Part>& normalizers,
                       const std::vector<Part>& decoders) {
    for (size_t i = 0; i + 1 < splitters.size(); ++i) v_.pre_tokenizer.add(splitters[i]);
    const Part& last = splitters.back();
    last.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    v_.prefix_space = last.flag("add_prefix_space");
    v_.split_words = last.flag("use_regex", true);
    v_.pre_tokenizer_json = *top_.at("pre_tokenizer").json;
    for (const Part& part : normalizers) v_.normalizer.add(part);
    if (!normalizers.empty()) v_.normalizer_json = *top_.at("normalizer").json;
    std::string changed;
    for (const AddedToken& token : v_.added) {
      const std::string& content = v_.tokens[static_cast<size_t>(token.id)];
      if (token.normalized && v_.normalizer.apply(content, changed).empty())
        throw_error("{}: added_tokens: token {}: the normalizer leaves nothing of it", top_.where,
                    quote(content));
    }
    if (!decoders.empty() && !are(decoders, {"ByteLevel"})) top_.at("decoder").refuse("ByteLevel");
  }

  void read_spaced(const Part& splitter, const std::vector<Part>& decoders) {
    splitter.only({"type"});
    if (!decoders.empty() &&
        !(are(decoders, {"BPEDecoder"}) && decoders[0].text("suffix") == kEndOfWord))
      top_.at("decoder").refuse("BPEDecoder with the suffix \"</w>\"");
    for (const std::string& token : v_.tokens)
      if (token.find(kEndOfWord) < token.size() - std::min(token.size(), kEndOfWord.size()))
        throw_error("{}: vocab: token {}: \"</w>\" before its end is not supported", model_.where,
                    quote(token));
  }

  void read_llama(const std::vector<Part>& splitters, const std::vector<Part>& normalizers,
                  const std::vector<Part>& decoders) {
    for (int byte = 0; byte < 256; ++byte) {
      const std::string token = llama_byte_token(static_cast<uint8_t>(byte));
      const auto found = ids_.find(token);
      if (found == ids_.end() || found->second >= v_.model_tokens)
        throw_error("{}: byte_fallback needs the token {} in the vocabulary", model_.where, token);
    }
    if (are(splitters, {"Metaspace"}) && normalizers.empty()) {
      read_metaspace(splitters[0]);
    } else if (splitters.empty()) {
      const bool prefix = are(normalizers, {"Prepend", "Replace"});
      if (!(prefix || are(normalizers, {"Replace"})) ||
          !replaces(normalizers.back(), " ", kSpaceMark) ||
          (prefix && normalizers[0].text("prepend") != kSpaceMark))
        top_.at("normalizer")
            .refuse("Replace \" \" by \"\u2581\", with or without Prepend \"\u2581\" before it");
      v_.prefix = prefix ? Vocabulary::Prefix::kAlways : Vocabulary::Prefix::kNever;
    } else {
      top_.at("pre_tokenizer").refuse("Metaspace without a normalizer, or none");
    }
    v_.strip_prefix = decoders.empty()
                          ? v_.prefix != Vocabulary::Prefix::kNever
                          : are(decoders, {"Replace", "ByteFallback", "Fuse", "Strip"});
    const bool strips_one_space = [&] {
      if (!v_.strip_prefix || decoders.empty()) return true;
      const Part& strip = decoders.back();
      return strip.text("content") == " " &&
             io::get_int(*strip.json, "start", strip.where, 0, INT32_MAX) == 1 &&
             io::get_int(*strip.json, "stop", strip.where, 0, INT32_MAX) == 0;
    }();
    if (!decoders.empty() &&
        (!(v_.strip_prefix || are(decoders, {"Replace", "ByteFallback", "Fuse"})) ||
         !replaces(decoders[0], kSpaceMark, " ") || !strips_one_space))
      top_.at("decoder").refuse(
          "Replace \"\u2581\" by \" \", ByteFallback, Fuse, and Strip of one "
          "space at the start or none");
  }

  void read_metaspace(const Part& part) {
    part.only({"type", "replacement", "prepend_scheme", "split", "add_prefix_space"});
    if (part.text("replacement") != kSpaceMark) part.refuse("the replacement \"\u2581\"");
    const std::string scheme = part.text("prepend_scheme", "always");
    v_.metaspace = true;
    v_.split_marks = part.flag("split", true);
    if (scheme == "always") {
      v_.prefix = Vocabulary::Prefix::kAlways;
    } else if (scheme == "first") {
      v_.prefix = Vocabulary::Prefix::kFirst;
    } else if (scheme == "never") {
      v_.prefix = Vocabulary::Prefix::kNever;
    } else {
      part.refuse("a prepend_scheme of always, first or never");
    }
    const bool prefix = v_.prefix != Vocabulary::Prefix::kNever;
    if (part.flag("add_prefix_space", prefix) != prefix)
      part.refuse("add_prefix_space and prepend_scheme to agree");
  }

  static bool replaces(const Part& part, std::string_view from, std::string_view to) {
    const Part pattern = part.at("pattern");
    part.only({"type", "pattern", "content"});
    pattern.only({"String"});
    return pattern.text("String") == from && part.text("content") == to;
  }

  // Kept as it is; only the tokens that it puts around a text are looked for.
  void read_post_processor() {
    const Part post = top_.at("post_processor");
    for (const Part& part : flatten(post, "processors")) {
      const std::string type = part.text("type");
      if (type == "ByteLevel") continue;  // about offsets, not ids
      if (type != "TemplateProcessing") part.refuse("TemplateProcessing or ByteLevel");
      read_template(part);
    }
    if (post.json) v_.post_processor = *post.json;
  }

  void read_template(const Part& part) {
    part.only({"type", "single", "pair", "special_tokens"});
    std::vector<int32_t> before, after;
    bool has_text = false;
    for (const Json& piece : part.list("single")) {
      const Part at{&piece, part.where + ": single"};
      at.only({"SpecialToken", "Sequence"});
      if (const Json* token = io::find(piece, "SpecialToken")) {
        (has_text ? after : before).push_back(template_token(part, *token));
      } else if (at.at("Sequence").text("id") != "A" || std::exchange(has_text, true)) {
        at.refuse("the text A once");
      }
    }
    if (!has_text) throw_error("{}: single: expected the text A once, found none", part.where);
    v_.template_before.insert(v_.template_before.begin(), before.begin(), before.end());
    v_.template_after.insert(v_.template_after.end(), after.begin(), after.end());
  }

  int32_t template_token(const Part& part, const Json& token) const {
    const std::string name = io::get_string(token, "id", part.where);
    const Part special = part.at("special_tokens").at(name);
    if (!special.json) throw_error("{}: missing", special.where);
    const Json::array_t& ids = special.list("ids");
    const auto known = ids_.find(name);
    if (ids.size() != 1 || known == ids_.end() || ids[0] != known->second)
      throw_error("{}: ids: expected the id of {} in the vocabulary, found {}", special.where,
                  quote(name), quote(io::to_line(ids)));
    return known->second;
  }

  Part top_, model_;
  Vocabulary v_;
  Ids ids_;  // of what the file says, whose text it views
};

}  // namespace

Vocabulary read_vocabulary(const io::Json& root, const std::string& name, const Notes& notes) {
  return Reader(root, name).read(notes);
}

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& name, const Notes& notes) {
  return Tokenizer(
      std::make_unique<Impl>(read_vocabulary(io::parse_json(text, name), name, notes)));
}

Tokenizer Tokenizer::load(const std::string& path, const Notes& notes) {
  if (io::is_gguf(path)) return from_gguf(io::Gguf(path), notes);
  const std::string file = std::filesystem::is_directory(path) ? path + "/tokenizer.json" : path;
  return from_json(io::read_file(file, io::kMaxJsonBytes), file, notes);
}

}  // namespace refrain::text

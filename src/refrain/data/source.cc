#include "refrain/data/source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"

namespace refrain::data {
namespace {

constexpr size_t kMaxPiece = size_t{1} << 26;  // bytes of text without a place to cut
constexpr char32_t kSpaceMark = 0x2581;        // sentencepiece's space

bool is_space(char32_t code) {
  return code <= ' ' || code == 0x7F || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         code == 0x180E || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_visible(const CodePoint& c) { return c.valid && !is_space(c.code) && c.code != kSpaceMark; }

// Whether text[at] has a visible character, all of it, on either side.
bool stands_between_visible(std::string_view text, size_t at) {
  if (at == 0 || at + 1 == text.size()) return false;
  size_t before = at - 1;
  while (before > 0 && at - before < 4 && (text[before] & 0xC0) == 0x80) --before;
  return is_visible(decode_utf8(text.substr(before, at - before))) &&
         is_visible(decode_utf8(text.substr(at + 1)));
}

// The last place where the text may be cut, 0 when there is none.
size_t last_cut(std::string_view text, Cut cut) {
  if (cut == Cut::kNowhere) return 0;
  for (size_t i = text.size(); i-- > 1;) {
    const char c = text[i];
    const bool here = cut == Cut::kAnywhere
                          ? (c & 0xC0) != 0x80
                          : (c == ' ' || (c == '\n' && cut == Cut::kBeforeSpace)) &&
                                stands_between_visible(text, i);
    if (here) return i;
  }
  return 0;
}

// Whether a space or line end stands behind a visible character.
bool reaches_over_space(std::string_view text) {
  bool after_visible = false;
  while (!text.empty()) {
    const CodePoint c = decode_utf8(text);
    if (after_visible && (c.code == ' ' || c.code == '\n')) return true;
    after_visible = !is_space(c.code);
    text.remove_prefix(c.bytes);
  }
  return false;
}

// Line ends may stand in the text, of which the first line has number `line`.
void check_text(std::string_view text, const std::string& name, int64_t line, bool utf8) {
  const auto line_of = [&](size_t at) {
    return line + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), '\n');
  };
  if (const size_t zero = text.find('\0'); zero != text.npos)
    throw_error("{}: line {}: expected text, found a zero byte", name, line_of(zero));
  if (!utf8) return;
  if (const auto bad = find_invalid_utf8(text))
    throw_error("{}: line {}: expected UTF-8, found byte 0x{:02x}", name, line_of(*bad),
                static_cast<uint8_t>(text[*bad]));
}

bool has_extension(std::string_view path, std::string_view extension) {
  if (path.ends_with(".gz")) path.remove_suffix(3);
  return path.ends_with(extension);
}

std::string where(const io::TextReader& reader) {
  return fmt::format("{}: line {}", reader.name(), reader.line_number());
}

}  // namespace

bool is_blank(std::string_view text) {
  while (!text.empty()) {
    const CodePoint next = decode_utf8(text);
    if (!is_space(next.code)) return false;
    text.remove_prefix(next.bytes);
  }
  return true;
}

TextRules rules_of(const Tokenizer& tokenizer) {
  const bool byte_bpe = tokenizer.kind() == "byte-bpe", llama = tokenizer.kind() == "llama";
  TextRules rules;
  rules.utf8 = !byte_bpe && !llama;
  bool all_characters = tokenizer.kind() == "char";
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_special(id) || id == tokenizer.unk()) continue;
    const std::string text =
        byte_bpe || llama ? tokenizer.decode({&id, 1}) : std::string(tokenizer.token(id));
    all_characters = all_characters && !text.empty() && decode_utf8(text).bytes == text.size();
    if (reaches_over_space(text)) rules.cut = Cut::kNowhere;
  }
  if (rules.cut == Cut::kNowhere) return rules;

  if (all_characters) {
    // Unless a run of unknown characters is one token.
    const std::string unknown = "\U0010FFFF\U0010FFFF";
    rules.cut = tokenizer.encode(unknown).size() == 1 ? Cut::kNowhere : Cut::kAnywhere;
  } else if (byte_bpe && tokenizer.encode("a") == tokenizer.encode(" a")) {
    rules.cut = Cut::kAtSpace;
  } else if (llama) {
    const std::vector<int32_t> ids = tokenizer.encode("a");
    if (!ids.empty() && decode_utf8(tokenizer.token(ids[0])).code == kSpaceMark)
      rules.cut = Cut::kAtSpace;
  }
  return rules;
}

DocumentReader::DocumentReader(std::vector<std::string> inputs, const TextRules& rules)
    : inputs_(std::move(inputs)), rules_(rules) {
  if (inputs_.empty()) throw_error("no file of text was named");
}

bool DocumentReader::next(std::string& piece, bool& begins) {
  while (true) {
    if (!reader_) {
      if (opened_ == inputs_.size()) return false;
      const std::string& input = inputs_[opened_++];
      reader_.emplace(input);
      jsonl_ = has_extension(input, ".jsonl");
      at_start_ = true;
      ended_ = false;
      line_ = 1;
    }
    if (jsonl_ ? next_object(piece) : next_piece(piece)) {
      begins = at_start_;
      at_start_ = jsonl_;
      text_bytes_ += static_cast<int64_t>(piece.size());
      return true;
    }
    reader_.reset();
  }
}

bool DocumentReader::next_object(std::string& text) {
  std::string line;
  while (reader_->line(line)) {
    text.clear();
    if (!is_blank(line)) {
      const std::string at = where(*reader_);
      const io::Json object = io::parse_json(line, at);
      if (io::find(object, "text"))
        text = io::get_string(object, "text", at);
      else if (io::find(object, "prompt"))
        text = io::get_string(object, "prompt", at) + io::get_string(object, "completion", at);
      else
        throw_error("{}: expected \"text\", or \"prompt\" and \"completion\"", at);
      check_text(text, reader_->name(), reader_->line_number(), rules_.utf8);
    }
    if (!is_blank(text)) return true;
    ++blank_;
  }
  return false;
}

bool DocumentReader::next_piece(std::string& piece) {
  size_t cut = 0;
  while (!ended_ && (cut = last_cut(held_, rules_.cut)) == 0) {
    if (held_.size() >= kMaxPiece)
      throw_error("{}: line {}: {} bytes of text, and no place to cut it for this tokenizer",
                  reader_->name(), line_, kMaxPiece);
    if (reader_->read(piece, rules_.piece))
      held_ += piece;
    else
      ended_ = true;
  }
  piece.assign(held_, 0, ended_ ? held_.npos : cut);
  if (piece.empty()) return false;
  check_text(piece, reader_->name(), line_, rules_.utf8);
  line_ += std::count(piece.begin(), piece.end(), '\n');
  const bool drop_space = !ended_ && rules_.cut == Cut::kAtSpace;
  held_.erase(0, piece.size() + drop_space);
  text_bytes_ += drop_space;
  return true;
}

PairReader::PairReader(const SourceFiles& source, bool utf8)
    : format_(format_of(source.inputs)),
      source_tag_(source.source_tag),
      target_tag_(source.target_tag),
      both_directions_(source.both_directions),
      one_direction_(source.one_direction),
      utf8_(utf8),
      source_(source.inputs[0]) {
  if (format_ == Format::kParallel) target_.emplace(source.inputs[1]);
}

PairReader::Format PairReader::format_of(const std::vector<std::string>& inputs) {
  if (inputs.size() == 1 && has_extension(inputs[0], ".tsv")) return Format::kTsv;
  if (inputs.size() == 1 && has_extension(inputs[0], ".jsonl")) return Format::kJsonl;
  const auto has_pairs = [](const std::string& path) {
    return has_extension(path, ".tsv") || has_extension(path, ".jsonl");
  };
  if (inputs.size() != 2 || std::any_of(inputs.begin(), inputs.end(), has_pairs))
    throw_error(
        "translate: expected a file of source lines and one of target lines, or one .tsv, or one "
        ".jsonl, found {}",
        inputs.empty() ? "none" : fmt::format("{}", fmt::join(inputs, ", ")));
  return Format::kParallel;
}

bool PairReader::next(TextPair& pair) {
  do {
    if (turn_is_due_) {
      pair = std::move(last_);
      pair.turn_round();
    } else if (!next_with_text(pair)) {
      return false;
    } else if (both_directions_) {
      last_ = pair;
    }
    turn_is_due_ = both_directions_ && !turn_is_due_;
  } while (one_direction_ && (pair.source_tag != source_tag_ || pair.target_tag != target_tag_));
  return true;
}

bool PairReader::next_with_text(TextPair& pair) {
  while (next_line(pair)) {
    pair.line = source_.line_number();
    check_text(pair.source, source_.name(), pair.line, utf8_);
    const io::TextReader& of_target = target_ ? *target_ : source_;
    check_text(pair.target, of_target.name(), of_target.line_number(), utf8_);
    if (!is_blank(pair.source) && !is_blank(pair.target)) return true;
    ++blank_;
  }
  return false;
}

bool PairReader::next_line(TextPair& pair) {
  pair.source_tag = source_tag_;
  pair.target_tag = target_tag_;
  if (format_ == Format::kParallel) {
    const bool more = source_.line(pair.source);
    if (target_->line(pair.target) != more) unequal(more);
    return more;
  }
  pair.source.clear();
  pair.target.clear();
  if (!source_.line(line_)) return false;
  if (is_blank(line_)) return true;
  if (format_ == Format::kTsv) {
    if (const auto tabs = std::count(line_.begin(), line_.end(), '\t'); tabs != 1)
      throw_error("{}: expected one tab, found {}", where(source_), tabs);
    const size_t tab = line_.find('\t');
    pair.source.assign(line_, 0, tab);
    pair.target.assign(line_, tab + 1);
  } else {
    const std::string at = where(source_);
    const io::Json object = io::parse_json(line_, at);
    pair.source = io::get_string(object, "prompt", at);
    pair.target = io::get_string(object, "completion", at);
    pair.source_tag = io::get_string(object, "source_tag", at, source_tag_);
    pair.target_tag = io::get_string(object, "target_tag", at, target_tag_);
  }
  return true;
}

void PairReader::unequal(bool source_is_longer) {
  io::TextReader& longer = source_is_longer ? source_ : *target_;
  const io::TextReader& shorter = source_is_longer ? *target_ : source_;
  while (longer.line(line_)) {
  }
  throw_error("{} has {} lines and {} has {}: {} ends after line {}", source_.name(),
              source_.line_number(), target_->name(), target_->line_number(), shorter.name(),
              shorter.line_number());
}

std::vector<std::string> places_of(const SourceFiles& source, std::span<const int64_t> pairs) {
  std::vector<std::string> places;
  const bool from_pipe =
      std::find(source.inputs.begin(), source.inputs.end(), "-") != source.inputs.end();
  if (from_pipe) {
    for (const int64_t pair : pairs) places.push_back(fmt::format("pair {}", pair + 1));
    return places;
  }
  if (source.task == "probe") {  // a sequence a line
    for (const int64_t pair : pairs)
      places.push_back(fmt::format("{}: line {}", source.inputs[0], pair + 1));
    return places;
  }
  PairReader reader(source, false);
  TextPair pair;
  for (int64_t i = 0; places.size() < pairs.size() && reader.next(pair); ++i)
    if (i == pairs[places.size()])
      places.push_back(fmt::format("{}: line {}", reader.name(), pair.line));
  return places;
}

TextSource text_of(const SourceFiles& source, std::string_view tokenizer_kind) {
  // A std::function is copied: hence readers that are shared.
  const bool utf8 = tokenizer_kind != "byte-bpe";
  if (source.task == "translate") {
    SourceFiles once = source;  // the other direction has the same text
    once.both_directions = false;
    return [reader = std::make_shared<PairReader>(once, utf8)](std::string& piece) {
      TextPair pair;
      if (!reader->next(pair)) return false;
      piece = pair.source + "\n" + pair.target + "\n";
      return true;
    };
  }
  const TextRules rules{Cut::kAnywhere, utf8};
  return [reader = std::make_shared<DocumentReader>(source.inputs, rules)](std::string& piece) {
    const bool first = reader->text_bytes() == 0;
    bool begins = false;
    if (!reader->next(piece, begins)) return false;
    if (begins && !first) piece.insert(0, "\n");
    return true;
  };
}

}  // namespace refrain::data

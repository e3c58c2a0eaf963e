#include "refrain/text/source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"
#include "refrain/text/white_space.h"

namespace refrain::text {
namespace {

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

std::string name_of(const std::vector<std::string>& inputs) {
  constexpr size_t kNamed = 3;
  std::string names;
  for (size_t i = 0; i < inputs.size() && i < kNamed; ++i)
    names += (i > 0 ? ", " : "") + (inputs[i] == "-" ? "standard input" : inputs[i]);
  if (inputs.size() > kNamed) names += fmt::format(" and {} more", inputs.size() - kNamed);
  return names;
}

TextRules rules_of(const Tokenizer& tokenizer) {
  const bool any_bytes = tokenizer.kind() == "byte-bpe" || tokenizer.kind() == "llama";
  return {tokenizer.cuts(), !any_bytes};
}

DocumentReader::DocumentReader(SourceFiles source, const TextRules& rules)
    : source_(std::move(source)), rules_(rules) {
  if (source_.inputs.empty()) throw_error("no file of text was named");
}

bool DocumentReader::next(std::string& piece, bool& begins) {
  while (true) {
    if (!pieces_ && !objects_) {
      if (opened_ == source_.inputs.size()) return false;
      const std::string& input = source_.inputs[opened_++];
      if (holds_objects(input))
        objects_.emplace(source_.open(input));
      else
        pieces_.emplace(source_.open(input), rules_.cuts, rules_.piece);
      at_start_ = true;
    }
    if (objects_ ? next_object(piece) : next_piece(piece)) {
      begins = at_start_;
      at_start_ = objects_.has_value();
      text_bytes_ += static_cast<int64_t>(piece.size());
      return true;
    }
    if (objects_) blank_ += objects_->blank();
    pieces_.reset();
    objects_.reset();
  }
}

bool DocumentReader::next_object(std::string& text) {
  text.clear();
  for (io::Json object; objects_->next(object);) {
    const std::string& at = objects_->where();
    if (io::find(object, "text"))
      text = io::get_string(object, "text", at);
    else if (io::find(object, "prompt"))
      text = io::get_string(object, "prompt", at) + io::get_string(object, "completion", at);
    else
      throw_error("{}: expected \"text\", or \"prompt\" and \"completion\"", at);
    check_text(text, objects_->name(), objects_->line(), rules_.utf8);
    if (!is_blank(text)) break;
    text.clear();
    ++blank_;
  }
  return !text.empty();
}

bool DocumentReader::next_piece(std::string& piece) {
  const int64_t dropped = pieces_->dropped();
  if (!pieces_->next(piece)) return false;
  check_text(piece, pieces_->name(), pieces_->line(), rules_.utf8);
  text_bytes_ += pieces_->dropped() - dropped;
  return true;
}

PairReader::PairReader(const SourceFiles& source, bool utf8)
    : format_(format_of(source.inputs)),
      source_tag_(source.source_tag),
      target_tag_(source.target_tag),
      both_directions_(source.both_directions),
      one_direction_(source.one_direction),
      utf8_(utf8) {
  if (format_ == Format::kObjects)
    objects_.emplace(source.open(source.inputs[0]));
  else
    source_.emplace(source.open(source.inputs[0]));
  if (format_ == Format::kParallel) target_.emplace(source.open(source.inputs[1]));
}

PairReader::Format PairReader::format_of(const std::vector<std::string>& inputs) {
  if (inputs.size() == 1 && has_extension(inputs[0], ".tsv")) return Format::kTsv;
  if (inputs.size() == 1 && holds_objects(inputs[0])) return Format::kObjects;
  const auto has_pairs = [](const std::string& path) {
    return has_extension(path, ".tsv") || holds_objects(path);
  };
  if (inputs.size() != 2 || std::any_of(inputs.begin(), inputs.end(), has_pairs))
    throw_error(
        "translate: expected a file of source lines and one of target lines, or one .tsv, .jsonl "
        "or .json, found {}",
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
    check_text(pair.source, name(), pair.line, utf8_);
    check_text(pair.target, target_ ? target_->name() : name(), pair.line, utf8_);
    if (!is_blank(pair.source) && !is_blank(pair.target)) return true;
    ++blank_;
  }
  return false;
}

bool PairReader::next_line(TextPair& pair) {
  pair.source_tag = source_tag_;
  pair.target_tag = target_tag_;
  if (format_ == Format::kObjects) {
    io::Json object;
    if (!objects_->next(object)) return false;
    const std::string& at = objects_->where();
    pair.source = io::get_string(object, "prompt", at);
    pair.target = io::get_string(object, "completion", at);
    pair.source_tag = io::get_string(object, "source_tag", at, source_tag_);
    pair.target_tag = io::get_string(object, "target_tag", at, target_tag_);
    pair.line = objects_->line();
    return true;
  }
  if (format_ == Format::kParallel) {
    const bool more = source_->line(pair.source);
    if (target_->line(pair.target) != more) unequal(more);
    pair.line = source_->line_number();
    return more;
  }
  pair.source.clear();
  pair.target.clear();
  if (!source_->line(line_)) return false;
  pair.line = source_->line_number();
  if (is_blank(line_)) return true;
  if (const auto tabs = std::count(line_.begin(), line_.end(), '\t'); tabs != 1)
    throw_error("{}: expected one tab, found {}", where(*source_), tabs);
  const size_t tab = line_.find('\t');
  pair.source.assign(line_, 0, tab);
  pair.target.assign(line_, tab + 1);
  return true;
}

void PairReader::unequal(bool source_is_longer) {
  io::TextReader& longer = source_is_longer ? *source_ : *target_;
  const io::TextReader& shorter = source_is_longer ? *target_ : *source_;
  while (longer.line(line_)) {
  }
  throw_error("{} has {} lines and {} has {}: {} ends after line {}", source_->name(),
              source_->line_number(), target_->name(), target_->line_number(), shorter.name(),
              shorter.line_number());
}

std::vector<std::string> places_of(const SourceFiles& source, std::span<const int64_t> pairs) {
  std::vector<std::string> places;
  const bool from_pipe =
      std::any_of(source.inputs.begin(), source.inputs.end(), [&](const std::string& input) {
        return io::is_stream(input) && !(source.copies && source.copies->has(input));
      });
  if (from_pipe) {
    for (const int64_t pair : pairs) places.push_back(fmt::format("pair {}", pair + 1));
    return places;
  }
  if (source.task == "probe") {  // a sequence a line
    for (const int64_t pair : pairs)
      places.push_back(fmt::format("{}: line {}", source.inputs[0], pair + 1));
    return places;
  }
  if (source.task == "chat") {  // an object after another
    int64_t i = 0;
    for (const std::string& input : source.inputs) {
      ObjectReader reader(source.open(input));
      for (io::Json object; places.size() < pairs.size() && reader.next(object); ++i)
        if (i == pairs[places.size()]) places.push_back(reader.where());
    }
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
  return
      [reader = std::make_shared<DocumentReader>(source, TextRules{{}, utf8})](std::string& piece) {
        const bool first = reader->text_bytes() == 0;
        bool begins = false;
        if (!reader->next(piece, begins)) return false;
        if (begins && !first) piece.insert(0, "\n");
        return true;
      };
}

}  // namespace refrain::text

#include "refrain/data/dataset.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/random.h"
#include "refrain/data/batch.h"
#include "refrain/data/probes.h"
#include "refrain/io/disk_room.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/text/chat/conversation.h"

namespace refrain::data {
namespace {

// By TokenTask.
constexpr std::array<std::string_view, 4> kTasks = {"lm", "translate", "probe", "chat"};

// Of the kind and of all tokens in their order.
uint64_t fingerprint_of(const text::Tokenizer& tokenizer) {
  uint64_t hash = mix_key(0, tokenizer.kind());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    hash = mix_key(hash, tokenizer.token(id), tokenizer.is_special(id));
  return hash;
}

// Encodes and tells of it, as long as the disk has room for what comes of it.
class Encoder {
 public:
  Encoder(const text::Tokenizer& tokenizer, const std::string& path, const WriteEvents& events)
      : tokenizer_(tokenizer), events_(events) {
    const std::filesystem::path folder =
        std::filesystem::path(io::follow_links(path)).parent_path();
    folder_ = folder.empty() ? "." : folder.string();
  }
  std::vector<int32_t> operator()(std::string_view text) {
    std::vector<int32_t> ids = tokenizer_.encode(text);
    if (events_.on_text) events_.on_text(text, ids);
    look_at_disk(ids.size());
    return ids;
  }
  // Now and then, when so many more ids come.
  void look_at_disk(size_t ids) {
    bytes_ += ids * sizeof(uint16_t);
    if (bytes_ < io::kBetweenLooks) return;
    io::require_disk_room(folder_, "the ids of the text");
    bytes_ = 0;
  }

 private:
  const text::Tokenizer& tokenizer_;
  const WriteEvents& events_;
  std::string folder_;
  size_t bytes_ = 0;  // since the last look at the disk, at least
};

Prepared write_documents(const text::SourceFiles& source, const text::Tokenizer& tokenizer,
                         Encoder& encode, TokenFileWriter& file) {
  text::DocumentReader reader(source, rules_of(tokenizer));
  Prepared done;
  std::string piece;
  bool begins = false, open_document = false;
  while (reader.next(piece, begins)) {
    if (begins) open_document = true;
    const std::vector<int32_t> ids = encode(piece);
    if (ids.empty()) continue;
    if (open_document) {
      if (done.sequences++ > 0 && tokenizer.eos() != text::kNoToken) file.add(tokenizer.eos());
      file.mark_boundary();
      if (tokenizer.adds_bos()) file.add(tokenizer.bos());
      open_document = false;
    }
    file.add(ids);
  }
  done.blank = reader.blank();
  done.run_together =
      done.sequences > 1 && tokenizer.eos() == text::kNoToken && !tokenizer.adds_bos();
  done.text_bytes = reader.text_bytes();
  return done;
}

Prepared write_pairs(const text::SourceFiles& source, const text::Tokenizer& tokenizer,
                     Encoder& encode, TokenFileWriter& file) {
  if (tokenizer.eos() == text::kNoToken)
    throw_error("the tokenizer has no end token; expected \"</s>\" among its special tokens");
  text::PairReader reader(source, rules_of(tokenizer).utf8);
  Prepared done;
  for (text::TextPair pair; reader.next(pair);) {
    const auto tag = [&](const std::string& token) {
      const int32_t id = tokenizer.id_of(token);
      if (id == text::kNoToken)
        throw_error(
            "{}: line {}: the tokenizer has no token {}; expected the tag among its special tokens "
            "(tags adds it to one that is trained)",
            reader.name(), pair.line, io::quote(token));
      return id;
    };
    file.mark_boundary();
    file.add(tag(pair.source_tag));
    file.add(encode(pair.source));
    file.add(tag(pair.target_tag));
    file.mark_boundary();
    file.add(encode(pair.target));
    file.add(tokenizer.eos());
    done.text_bytes += static_cast<int64_t>(pair.target.size());
    ++done.sequences;
  }
  done.blank = reader.blank();
  return done;
}

Prepared write_probe_sequences(const text::SourceFiles& source, const text::Tokenizer& tokenizer,
                               Encoder&, TokenFileWriter& file) {
  if (source.inputs.size() != 1)
    throw_error("probe: expected one file of sequences, found {}",
                source.inputs.empty() ? "none" : fmt::format("{}", fmt::join(source.inputs, ", ")));
  const auto nothing_asked = static_cast<int32_t>(tokenizer.vocab_size());
  ProbeReader reader(source.inputs[0], tokenizer.vocab_size());
  Prepared done;
  for (ProbeSequence sequence; reader.next(sequence); ++done.sequences) {
    std::replace(sequence.target.begin(), sequence.target.end(), kIgnore, nothing_asked);
    file.mark_boundary();
    file.add(sequence.input);
    file.mark_boundary();
    file.add(sequence.target);
  }
  return done;
}

Prepared write_conversations(const text::SourceFiles& source, const text::Tokenizer& tokenizer,
                             Encoder& encoder, TokenFileWriter& file) {
  REFRAIN_CHECK(source.chat);
  const auto nothing = static_cast<int32_t>(tokenizer.vocab_size());
  Prepared done;
  for (const std::string& input : source.inputs) {
    text::ObjectReader reader(source.open(input));
    for (io::Json object; reader.next(object); ++done.sequences) {
      const text::LearnedText made =
          text::encode_conversation(object, reader.where(), *source.chat, tokenizer);
      const std::span<const int32_t> ids(made.ids);
      std::vector<int32_t> targets(ids.begin() + 1, ids.end());
      for (size_t i = 0; i < targets.size(); ++i)
        if (!made.learned[i + 1]) targets[i] = nothing;
      file.mark_boundary();
      file.add(ids.first(targets.size()));
      file.mark_boundary();
      file.add(targets);
      done.text_bytes += made.bytes;
      encoder.look_at_disk(2 * ids.size());
    }
    done.blank += reader.blank();
  }
  return done;
}

}  // namespace

DataSet::DataSet(std::shared_ptr<const TokenFile> file)
    : file_(std::move(file)),
      task_(kTasks[static_cast<size_t>(file_->header().task)]),
      token_count_(file_->ids()) {
  if (has_pairs()) pair_count_ = (file_->boundaries() - 1) / 2;
}

DataSet DataSet::open(const std::string& token_file, const std::string& name) {
  return DataSet(std::make_shared<TokenFile>(token_file, name));
}

int64_t DataSet::vocab_size() const { return static_cast<int64_t>(file_->header().vocab_size); }

int64_t DataSet::sequences() const {
  if (has_pairs()) return pair_count_;
  // The number of boundaries before a place is the number of documents that begin before it.
  const auto begun_before = [&](int64_t place) {
    int64_t low = 0, high = file_->boundaries() - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (file_->boundary(middle) < place)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  return begun_before(first_token_ + token_count_) - begun_before(first_token_ + 1) + 1;
}

std::optional<int64_t> DataSet::text_bytes() const {
  if (token_count_ != file_->ids()) return {};
  return file_->text_bytes();
}

DataSet DataSet::part(int64_t first_item, int64_t items) const {
  DataSet part = *this;
  if (has_pairs()) {
    part.first_pair_ = first_pair_ + first_item;
    part.pair_count_ = items;
    part.first_token_ = file_->boundary(2 * part.first_pair_);
    part.token_count_ = file_->boundary(2 * (part.first_pair_ + items)) - part.first_token_;
  } else {
    part.first_token_ = first_token_ + first_item;
    part.token_count_ = items;
  }
  return part;
}

std::pair<DataSet, DataSet> DataSet::split(double validation_fraction) const {
  if (!(validation_fraction > 0 && validation_fraction < 1))
    throw_error("validation split {}: expected a number between 0 and 1", validation_fraction);
  const int64_t items = has_pairs() ? pair_count_ : token_count_;
  // The small term lets 10 items at 0.9 leave one, though 1 - 0.9 is a little less than 0.1.
  const auto train = static_cast<int64_t>(
      std::floor(static_cast<double>(items) * (1 - validation_fraction) + 1e-6));
  if (train < 1 || train >= items)
    throw_error(
        "{}: a validation split of {} of {} {} leaves one part without any (0 "
        "holds none out)",
        name(), validation_fraction, items, has_pairs() ? "pairs" : "ids");
  return {part(0, train), part(train, items - train)};
}

void DataSet::check_tokenizer(const text::Tokenizer& tokenizer) const {
  if (tokenizer.vocab_size() != vocab_size())
    throw_error("{}: made with a tokenizer of {} tokens, found one of {}", name(), vocab_size(),
                tokenizer.vocab_size());
  if (fingerprint_of(tokenizer) != file_->header().fingerprint)
    throw_error("{}: made with another tokenizer, which had as many tokens ({})", name(),
                vocab_size());
}

void DataSet::read(int64_t first, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  REFRAIN_CHECK(first >= 0 && count <= token_count_ && first <= token_count_ - count);
  file_->read(first_token_ + first, out);
}

DataSet::Pair DataSet::pair(int64_t i) const {
  REFRAIN_CHECK(i >= 0 && i < pair_count_);
  const int64_t at = 2 * (first_pair_ + i);
  return {file_->boundary(at) - first_token_, file_->boundary(at + 1) - first_token_,
          file_->boundary(at + 2) - first_token_};
}

int64_t DataSet::rows(int64_t i) const {
  const Pair at = pair(i);
  return has_targets() ? at.target - at.begin : at.end - at.begin - 1;
}

std::vector<std::pair<int32_t, int32_t>> DataSet::directions() const {
  std::vector<std::pair<int32_t, int32_t>> all;
  if (task_ != "translate") return all;
  for (int64_t i = 0; i < pair_count_; ++i) {
    const Pair at = pair(i);
    int32_t source = 0, target = 0;
    read(at.begin, {&source, 1});
    read(at.target - 1, {&target, 1});
    if (std::find(all.begin(), all.end(), std::pair(source, target)) == all.end())
      all.emplace_back(source, target);
  }
  return all;
}

Prepared write_token_file(const text::SourceFiles& source, const text::Tokenizer& tokenizer,
                          const std::string& path, const WriteEvents& events) {
  const auto known = std::find(kTasks.begin(), kTasks.end(), source.task);
  if (known == kTasks.end())
    throw_error("task \"{}\": expected lm, translate, probe or chat", source.task);
  const auto task = static_cast<TokenTask>(known - kTasks.begin());
  TokenFileWriter file(
      path, {task, static_cast<uint64_t>(tokenizer.vocab_size()), fingerprint_of(tokenizer)});
  const auto write = task == TokenTask::kLm          ? write_documents
                     : task == TokenTask::kTranslate ? write_pairs
                     : task == TokenTask::kChat      ? write_conversations
                                                     : write_probe_sequences;
  Encoder encoder(tokenizer, path, events);
  Prepared done = write(source, tokenizer, encoder, file);
  if (done.sequences == 0) throw_error("{}: no text found", text::name_of(source.inputs));
  done.tokens = file.ids();
  file.commit(done.text_bytes, events.before_commit);
  return done;
}

}  // namespace refrain::data

#include "refrain/autoencoder/embeddings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <set>

#include "refrain/base/error.h"
#include "refrain/base/hash.h"
#include "refrain/base/random.h"
#include "refrain/base/utf8.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"
#include "refrain/io/safetensors.h"
#include "refrain/io/text.h"
#include "refrain/text/source.h"

namespace refrain {
namespace {

constexpr const char* kWords = "/vocab.txt";
constexpr const char* kVectors = "/embeddings.safetensors";
constexpr const char* kTensor = "embeddings";
constexpr int64_t kWidest = 1 << 16;

bool is_letter(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// The numbers of a line behind its word.
void parse_numbers(std::string_view text, const std::string& where, std::vector<float>& to) {
  to.clear();
  while (!text.empty()) {
    const std::string_view field = text.substr(0, text.find(' '));
    float value = 0;
    const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
    if (error != std::errc() || end != field.data() + field.size() || !std::isfinite(value))
      throw_error("{}: expected a number, found {}", where, io::quote(field));
    to.push_back(value);
    text.remove_prefix(std::min(text.size(), field.size() + 1));
  }
}

}  // namespace

Words words_of(std::string_view text) {
  Words words;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (!is_letter(c)) {
      if (static_cast<unsigned char>(c) > ' ' && c != 0x7F) words.emplace_back(1, c);
      ++at;
      continue;
    }
    std::string word;
    const auto is_inside = [&](size_t i) {
      return i < text.size() && (is_letter(text[i]) || (text[i] == '\'' && i + 1 < text.size() &&
                                                        is_letter(text[i + 1])));
    };
    for (; is_inside(at); ++at) word += lower(text[at]);
    words.push_back(std::move(word));
  }
  return words;
}

std::vector<Words> read_documents(std::span<const std::string> paths) {
  std::vector<Words> documents;
  for (const std::string& path : paths) {
    if (text::holds_objects(path)) {
      text::DocumentReader reader({.inputs = {path}}, {});
      std::string text;
      for (bool begins = false; reader.next(text, begins);)
        if (Words words = words_of(text); !words.empty()) documents.push_back(std::move(words));
      continue;
    }
    io::TextReader reader(path);
    Words current;
    const auto end_document = [&] {
      if (!current.empty()) documents.push_back(std::move(current));
      current = {};
    };
    int64_t blank = 0;
    for (std::string line; reader.line(line);) {
      for (std::string_view rest = line; !rest.empty();) {
        const CodePoint next = decode_utf8(rest);
        if (!next.valid)
          throw_error("{}: line {}: expected UTF-8, found other bytes", reader.name(),
                      reader.line_number());
        rest.remove_prefix(next.bytes);
      }
      const Words words = words_of(line);
      blank = words.empty() ? blank + 1 : 0;
      if (blank == 2) end_document();
      current.insert(current.end(), words.begin(), words.end());
    }
    end_document();
  }
  return documents;
}

uint64_t fingerprint_of(std::span<const Words> documents) {
  uint64_t hash = documents.size();
  for (const Words& document : documents) {
    std::string text;
    for (const std::string& word : document) text += word + "\n";
    hash = hash64(std::as_bytes(std::span(text)), hash);
  }
  return hash;
}

std::pair<std::vector<Words>, std::vector<Words>> split_documents(std::vector<Words> all,
                                                                  double share, size_t least) {
  size_t words = 0, taken = 0, first = all.size();
  for (const Words& document : all) words += document.size();
  const auto wanted = static_cast<size_t>(std::ceil(share * static_cast<double>(words) - 1e-6));
  while (first > 1 && taken < wanted) taken += all[--first].size();
  std::vector<Words> last(std::make_move_iterator(all.begin() + static_cast<std::ptrdiff_t>(first)),
                          std::make_move_iterator(all.end()));
  all.resize(first);
  if (taken >= wanted) return {std::move(all), std::move(last)};
  // Of the first document only words are left to take, and not all of them.
  Words& only = all[0];
  const size_t cut = std::max(wanted - taken, last.empty() ? least : 0);
  if (cut + least > only.size()) {
    last.insert(last.begin(), std::move(only));
    return {std::vector<Words>(), std::move(last)};
  }
  const auto at = only.end() - static_cast<std::ptrdiff_t>(cut);
  last.insert(last.begin(),
              Words(std::make_move_iterator(at), std::make_move_iterator(only.end())));
  only.erase(at, only.end());
  return {std::move(all), std::move(last)};
}

Words vocabulary_of(std::span<const Words> documents) {
  std::map<std::string, int64_t> counts;
  for (const Words& document : documents)
    for (const std::string& word : document) ++counts[word];
  Words words;
  for (const auto& [word, count] : counts) words.push_back(word);
  std::stable_sort(words.begin(), words.end(), [&](const std::string& a, const std::string& b) {
    return counts[a] > counts[b];
  });
  return words;
}

Embeddings::Embeddings(Words words, int64_t width, std::vector<float> values,
                       const std::string& name)
    : words_(std::move(words)), width_(width), values_(std::move(values)) {
  REFRAIN_CHECK(values_.empty() || std::ssize(values_) == size() * width_);
  for (size_t i = 0; i < words_.size(); ++i)
    if (!ids_.emplace(words_[i], static_cast<int32_t>(i)).second)
      throw_error("{}: line {}: the word {} was there before", name, i + 1, io::quote(words_[i]));
}

int32_t Embeddings::id_of(std::string_view word) const {
  const auto it = ids_.find(std::string(word));
  return it == ids_.end() ? kNoVector : it->second;
}

std::vector<int32_t> Embeddings::visible(const Words& words) const {
  std::vector<int32_t> ids;
  for (const std::string& word : words)
    if (const int32_t id = id_of(word); id != kNoVector) ids.push_back(id);
  return ids;
}

void Embeddings::save(const std::string& directory) const {
  std::string text;
  for (const std::string& word : words_) text += word + "\n";
  io::write_file(directory + kWords, text);
  if (values_.empty()) return;
  const io::TensorToWrite table{kTensor, {size(), width_}, values_.data()};
  io::write_safetensors(directory + kVectors, {&table, 1}, {});
}

Embeddings Embeddings::load(const std::string& directory) {
  const std::string name = directory + kWords, path = directory + kVectors;
  Words words;
  io::TextReader reader = io::TextReader::of_regular(name);
  for (std::string line; reader.line(line);) words.push_back(line);
  if (words.empty()) throw_error("{}: expected a word on every line, found none", name);
  if (!io::exists(path)) return {std::move(words), 0, {}, name};
  const io::Safetensors file(path);
  const io::TensorInfo* info = file.find(kTensor);
  if (!info || info->shape.size() != 2 || info->shape[0] != std::ssize(words) ||
      info->shape[1] < 1 || info->shape[1] > kWidest || info->dtype != "F32")
    throw_error("{}: expected \"{}\", F32 [{}, width], a row for every word of {}", path, kTensor,
                words.size(), name);
  std::vector<float> values(static_cast<size_t>(info->size()));
  file.read(*info, values);
  return {std::move(words), info->shape[1], std::move(values), name};
}

Embeddings read_embeddings(const std::string& path, const Words& wanted, int64_t width) {
  const std::set<std::string_view> keep(wanted.begin(), wanted.end());
  std::unordered_map<std::string, int64_t> seen;
  Words words;
  std::vector<float> values, numbers;
  io::TextReader reader(path);
  for (std::string line; reader.line(line);) {
    const std::string where = fmt::format("{}: line {}", reader.name(), reader.line_number());
    std::string_view text = line;
    while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
    const size_t space = text.find(' ');
    const std::string word(text.substr(0, space));
    if (word.empty() || space == text.npos)
      throw_error("{}: expected a word and its numbers, found {}", where, io::quote(text));
    parse_numbers(text.substr(space + 1), where, numbers);
    if (width == 0) width = std::ssize(numbers);
    if (std::ssize(numbers) != width)
      throw_error("{}: expected {} numbers behind the word, found {}", where, width,
                  numbers.size());
    const auto [it, is_new] = seen.emplace(word, reader.line_number());
    if (!is_new)
      throw_error("{}: the word {} was on line {} already", where, io::quote(word), it->second);
    if (!keep.contains(word)) continue;
    words.push_back(word);
    values.insert(values.end(), numbers.begin(), numbers.end());
  }
  if (seen.empty()) throw_error("{}: expected a word on every line, found none", reader.name());
  if (words.empty())
    throw_error("{}: expected vectors of words of the data, found none of its {} words",
                reader.name(), wanted.size());
  return {std::move(words), width, std::move(values), path};
}

Embeddings random_embeddings(const Words& words, int64_t width, uint64_t seed) {
  std::vector<float> values;
  values.reserve(words.size() * static_cast<size_t>(width));
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  for (const std::string& word : words) {
    Random random(mix_key(mix_key(seed, "embedding"), word));
    for (int64_t i = 0; i < width; ++i)
      values.push_back(static_cast<float>(scale * random.normal()));
  }
  return {words, width, std::move(values), "the words"};
}

}  // namespace refrain

// A conversation on disk.
//
//   bytes  0  "refrchat"
//          8  u32 version (1), u32 0
//         16  u64 bytes of JSON j, u64 tokens n, u64 bytes of text t, u64 bytes of the state s
//         48  JSON [j]: {"messages": [...], "now": [year, month, day, hour, minute, second, day of
//             the week, day of the year] or null}, as in std::tm
//             i32 tokens [n]
//             the text that they stand for [t], if that is known
//             u64 checksum: mix_key(version, all bytes before it)
//             a state file (generate/state_file.h) [s], none if nothing has been read
//
// Numbers are little-endian.
#include <cstring>

#include "refrain/base/random.h"
#include "refrain/generate/conversation.h"
#include "refrain/generate/state_file.h"
#include "refrain/io/file.h"
#include "refrain/io/input_file.h"

namespace refrain {
namespace {

using io::Json;

struct Header {
  char magic[8];
  uint32_t version, zero;
  uint64_t json_bytes, tokens, text_bytes, state_bytes;
};
static_assert(sizeof(Header) == 48);

constexpr std::string_view kMagic = "refrchat";
constexpr uint32_t kVersion = 1;

constexpr int std::tm::*kTimes[] = {&std::tm::tm_year, &std::tm::tm_mon, &std::tm::tm_mday,
                                    &std::tm::tm_hour, &std::tm::tm_min, &std::tm::tm_sec,
                                    &std::tm::tm_wday, &std::tm::tm_yday};
constexpr int kLeast[] = {-1900, 0, 1, 0, 0, 0, 0, 0}, kMost[] = {8099, 11, 31, 23, 59, 60, 6, 365};

std::optional<std::tm> time_of(const Json& json, const std::string& where) {
  const Json* list = io::find(json, "now");
  if (!list) return {};
  if (!list->is_array() || list->size() != std::size(kTimes))
    throw_error("{}: now: expected {} numbers, found {}", where, std::size(kTimes),
                io::describe(*list));
  std::tm time{};
  for (size_t i = 0; i < std::size(kTimes); ++i) {
    const Json number = {{"now", (*list)[i]}};
    time.*kTimes[i] = static_cast<int>(io::get_int(number, "now", where, kLeast[i], kMost[i]));
  }
  return time;
}

}  // namespace

void Conversation::save(const std::string& path) {
  REFRAIN_CHECK(!turn_);
  Json now = nullptr;
  if (now_)
    for (const auto part : kTimes) now.push_back((*now_).*part);
  const std::string json = io::to_line({{"messages", messages_}, {"now", now}});
  // The last token has not been read, unless an Error came in between.
  const bool has_state = sequence_.state().position() < sequence_.size();
  const std::string state = has_state ? state_to_bytes(with_.model, sequence_) : "";
  Header header{{},
                kVersion,
                0,
                json.size(),
                has_state ? ids_.size() : 0,
                has_state ? text_.size() : 0,
                state.size()};
  kMagic.copy(header.magic, kMagic.size());
  std::string bytes;
  const auto put = [&](const void* from, size_t n) {
    bytes.append(static_cast<const char*>(from), n);
  };
  put(&header, sizeof(header));
  bytes += json;
  put(ids_.data(), header.tokens * sizeof(int32_t));
  bytes.append(text_, 0, header.text_bytes);
  const uint64_t sum = mix_key(kVersion, bytes);
  put(&sum, sizeof(sum));
  io::AtomicFile file(path);
  file.write(bytes);
  file.write(state);
  file.commit();
}

void Conversation::load(const std::string& path) {
  REFRAIN_CHECK(!turn_);
  const io::InputFile file(path);
  std::string content(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(content)));
  const std::string_view bytes = content;
  const auto damaged = [&](const char* what) { throw_error("{}: damaged: {}", path, what); };
  if (!bytes.starts_with(kMagic)) throw_error("{}: not a conversation", path);
  Header header;
  if (bytes.size() < sizeof(header)) damaged("it is too short");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kVersion)
    throw_error("{}: expected version {} of conversations, found {}", path, kVersion,
                header.version);
  size_t left = bytes.size() - sizeof(header), at = sizeof(header);
  const auto part = [&](uint64_t size) {
    if (size > left) damaged("its length is wrong");
    left -= size;
    const auto from = std::exchange(at, at + size);
    return bytes.substr(from, size);
  };
  const std::string_view json_text = part(header.json_bytes);
  if (header.tokens > kMaxTokens) damaged("its number of tokens cannot be");
  const std::string_view id_bytes = part(header.tokens * sizeof(int32_t));
  const std::string_view text = part(header.text_bytes);
  const std::string_view before = bytes.substr(0, at);
  uint64_t sum;
  std::memcpy(&sum, part(sizeof(sum)).data(), sizeof(sum));
  if (sum != mix_key(kVersion, before)) damaged("its checksum is wrong");
  const std::string_view state = part(header.state_bytes);
  if (left > 0) damaged("its length is wrong");

  const Json json = io::parse_json(json_text, path);
  const auto now = time_of(json, path);
  Json messages = io::member(json, "messages", path);
  std::vector<int32_t> ids(header.tokens);
  if (!ids.empty()) std::memcpy(ids.data(), id_bytes.data(), id_bytes.size());
  Sequence sequence(with_.model);
  if (!state.empty()) {
    sequence = state_from_bytes(state, path, with_.model);
    if (sequence.begin() != 0 || sequence.size() != std::ssize(ids) ||
        !std::ranges::equal(sequence.tokens(), std::span(ids).last(sequence.tokens().size())))
      damaged("its tokens are not those of its state");
    for (const int32_t id : ids)
      if (id < 0 || id >= with_.model.config().vocab_size)
        damaged("its tokens are not the model's");
  } else if (!ids.empty() || !text.empty()) {
    damaged("it has tokens and no state");
  }
  try {
    set_messages(std::move(messages));
  } catch (const Error& error) {
    throw_error("{}: {}", path, error.what());
  }
  now_ = now;
  sequence_ = std::move(sequence);
  ids_ = std::move(ids);
  text_ = text;
  mark_.reset();
}

}  // namespace refrain

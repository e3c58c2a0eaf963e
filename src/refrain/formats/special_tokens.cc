#include "refrain/formats/special_tokens.h"

#include <limits>

#include "refrain/base/error.h"

namespace refrain {
namespace {

// An id or a list of them; -1 and null are none.
std::vector<int32_t> get_ids(const io::Json& json, std::string_view key, const std::string& where) {
  const io::Json* value = io::find(json, key);
  std::vector<int32_t> ids;
  if (!value) return ids;
  const io::Json list = value->is_array() ? *value : io::Json::array({*value});
  for (const io::Json& id : list) {
    const io::Json member = {{key, id}};
    ids.push_back(static_cast<int32_t>(
        io::get_int(member, key, where, -1, std::numeric_limits<int32_t>::max())));
  }
  std::erase(ids, -1);
  return ids;
}

}  // namespace

void read_special_tokens(const io::Json& json, const std::string& where, int64_t vocab_size,
                         SpecialTokens& special) {
  for (std::string_view key : kSpecialTokenKeys) {
    const std::vector<int32_t> ids = get_ids(json, key, where);
    for (int32_t id : ids)
      if (id >= vocab_size)
        throw_error("{}: {}: expected an id below vocab_size = {}, found {}", where, key,
                    vocab_size, id);
    if (ids.empty()) continue;
    if (key == "eos_token_id") {
      special.eos = ids[0];
      special.more_eos.assign(ids.begin() + 1, ids.end());
      continue;
    }
    if (ids.size() > 1) throw_error("{}: {}: expected one id, found {}", where, key, ids.size());
    (key == "bos_token_id" ? special.bos : special.pad) = ids[0];
  }
}

void put_special_tokens(const SpecialTokens& special, io::Json& to) {
  const auto one = [](int32_t id) { return id < 0 ? io::Json() : io::Json(id); };
  to["bos_token_id"] = one(special.bos);
  to["eos_token_id"] = one(special.eos);
  if (!special.more_eos.empty()) {
    io::Json& eos = to["eos_token_id"] = io::Json::array({special.eos});
    for (int32_t id : special.more_eos) eos.push_back(id);
  }
  to["pad_token_id"] = one(special.pad);
}

}  // namespace refrain

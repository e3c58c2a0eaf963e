// A saved conversation. The first byte chooses between a model whose state grows and one whose does
// not; fingerprint and checksums are set right, so that what is behind them is reached.
#include "refrain/generate/conversation.h"

#include <cstring>

#include "fuzz/target.h"
#include "fuzz/tiny.h"
#include "refrain/base/random.h"
#include "refrain/generate/state_file.h"

namespace refrain::fuzz {
namespace {

constexpr size_t kHeader = 48, kFingerprint = 16, kSum = 8;

struct Parts {
  explicit Parts(const char* pattern)
      : model(tiny_model(pattern)),
        tokenizer(text::Tokenizer::train(
            [] {
              auto training = text::Tokenizer::parse_spec("char");
              training.special_tokens = {"<b>"};
              return training;
            }(),
            [given = false](std::string& piece) mutable {
              piece = "uaxyz?";
              return !std::exchange(given, true);
            })),
        chat(text::ChatTemplate::parse(
            "{% for m in messages %}{{ m.role[0] ~ m.content }}<b>{% endfor %}a", "chat")) {}

  std::unique_ptr<Conversation> conversation() const {
    std::tm now{};
    now.tm_mday = 1;
    return std::make_unique<Conversation>(ChatModel{*model, tokenizer, chat}, now);
  }

  std::unique_ptr<LanguageModel> model;
  text::Tokenizer tokenizer;
  text::ChatTemplate chat;
};

const Parts& parts_for(unsigned choice) {
  static const Parts parts[] = {Parts("attention"), Parts("gla")};
  return parts[choice % 2];
}

AnswerSettings settings() {
  AnswerSettings made;
  made.request.max_new_tokens = 3;
  made.request.ignore_eos = true;
  return made;
}

io::Json message(const char* text) { return {{"role", "user"}, {"content", text}}; }

std::string written(unsigned choice) {
  const Parts& parts = parts_for(choice);
  const auto conversation = parts.conversation();
  Engine engine(*parts.model, kMaxTokens);
  conversation->ask(engine, message("xy"), settings());
  const std::string path = folder() / "state";
  conversation->save(path);
  return bytes_of(path);
}

// The bytes of the state, and the right sums over both parts.
void mend(std::string& bytes, unsigned choice) {
  if (bytes.size() < kHeader) return;
  uint64_t sizes[4];
  std::memcpy(sizes, bytes.data() + 16, sizeof(sizes));
  for (const uint64_t size : sizes)
    if (size > bytes.size()) return;
  const size_t end = kHeader + sizes[0] + sizes[1] * sizeof(int32_t) + sizes[2];
  if (end + kSum > bytes.size()) return;
  const uint64_t sum = mix_key(1, std::string_view(bytes).substr(0, end));  // of version 1
  std::memcpy(&bytes[end], &sum, kSum);
  const size_t state = end + kSum;
  if (bytes.size() < state + kFingerprint + 2 * kSum) return;
  static const std::string right[] = {written(0), written(1)};
  const std::string& model = right[choice % 2];
  std::memcpy(sizes, model.data() + 16, sizeof(sizes));
  const size_t its_state = model.size() - sizes[3];
  model.copy(&bytes[state + kFingerprint], kSum, its_state + kFingerprint);
  const std::string_view summed(bytes.data() + state, bytes.size() - state - kSum);
  const uint64_t state_sum = mix_key(2, summed);  // of version 2 of states
  std::memcpy(&bytes[bytes.size() - kSum], &state_sum, kSum);
}

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  std::string bytes(rest);
  mend(bytes, choice);
  const Parts& parts = parts_for(choice);
  const auto conversation = parts.conversation();
  conversation->load(put(bytes));
  const std::string path = folder() / "again";
  conversation->save(path);
  const auto again = parts.conversation();
  again->load(path);
  expect(again->messages() == conversation->messages(), "other messages were written");
  Engine engine(*parts.model, kMaxTokens), other(*parts.model, kMaxTokens);
  AnswerSettings long_enough = settings();
  long_enough.request.context = 4096;
  const Answer one = conversation->ask(engine, message("z"), long_enough);
  const Answer two = again->ask(other, message("z"), long_enough);
  expect(one.text == two.text && one.read == two.read, "it goes on otherwise");
}

std::vector<std::string> seeds() { return {'\0' + written(0), '\1' + written(1)}; }

const Register registered({"conversation", run, seeds});

}  // namespace
}  // namespace refrain::fuzz

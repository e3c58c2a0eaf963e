#include "refrain/generate/state_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "generate/tiny_model.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using StateFileTest = OneThread;

// The request in several runs, of so many new tokens each, each from the file of the one before.
GenerationResult interrupted(LanguageModel& model, GenerationRequest request,
                             const std::vector<int64_t>& runs) {
  const TemporaryFolder folder;
  const std::string path = folder / "state";
  GenerationResult all;
  for (int64_t n : runs) {
    Sequence sequence = io::exists(path) ? read_state(path, model) : Sequence(model);
    request.max_new_tokens = n;
    GenerationResult part = Generator(model).generate(request, sequence);
    all.prompt_tokens += part.prompt_tokens;
    all.reason = part.reason;
    all.choices.insert(all.choices.end(), part.choices.begin(), part.choices.end());
    write_state(path, model, sequence);
    request.prompt.clear();
  }
  return all;
}

TEST_F(StateFileTest, GoesOnAsIfThereHadBeenNoPause) {
  for (int64_t kv_heads : {2, 4}) {
    TinyModel model(kv_heads);
    for (int64_t context : {0, 12}) {
      for (double temp : {0.0, 1.0}) {
        GenerationRequest request = request_of(random_tokens(6, 1), 40, temp);
        request.context = context;
        request.sampling.repeat_penalty = 1.2;
        const auto want = told(Generator(model).generate(request));
        for (const std::vector<int64_t>& runs :
             {std::vector<int64_t>{40}, {1, 39}, {0, 0, 40}, {20, 0, 13, 7}, {6, 6, 6, 22}})
          EXPECT_EQ(told(interrupted(model, request, runs)), want) << context << " " << temp;
      }
    }
  }
}

TEST_F(StateFileTest, PatienceGoesOnToo) {
  TinyModel model;
  GenerationRequest request = request_of(random_tokens(6, 1), 40, 1);
  request.sampling.min_confidence = 1;
  request.sampling.patience_tokens = 10;
  EXPECT_EQ(interrupted(model, request, {4, 36}).choices.size(), 10u);
  // Who goes on behind an unsure end starts counting anew.
  EXPECT_EQ(interrupted(model, request, {40, 40}).choices.size(), 20u);
}

TEST_F(StateFileTest, GoesOnWithMoreText) {
  TinyModel model;
  const TemporaryFolder folder;
  const std::string path = folder / "state";
  Generator generator(model);
  GenerationRequest request = request_of(random_tokens(6, 1), 40, 0);
  request.eos = generator.generate(request).choices[5].token;
  Sequence sequence(model);
  const GenerationResult first = generator.generate(request, sequence);
  EXPECT_EQ(first.reason, StopReason::kEndToken);
  write_state(path, model, sequence);

  // The end token is part of the text.
  std::vector<int32_t> text = request.prompt;
  for (const SampledToken& choice : first.choices) text.push_back(choice.token);
  text.push_back(request.eos);
  Sequence loaded = read_state(path, model);
  EXPECT_EQ(std::vector<int32_t>(loaded.tokens().begin(), loaded.tokens().end()), text);
  request.prompt = random_tokens(9, 2);
  const GenerationResult second = generator.generate(request, loaded);
  text.insert(text.end(), request.prompt.begin(), request.prompt.end());
  request.prompt = text;
  const GenerationResult whole = generator.generate(request);
  ASSERT_EQ(second.choices.size(), whole.choices.size());
  for (size_t i = 0; i < whole.choices.size(); ++i) {
    EXPECT_EQ(second.choices[i].token, whole.choices[i].token);
    EXPECT_EQ(second.choices[i].logprob, whole.choices[i].logprob);
  }
}

// The bytes of a state of `model`.
std::string state_of(LanguageModel& model) {
  const TemporaryFolder folder;
  Sequence sequence(model);
  Generator(model).generate(request_of(random_tokens(4, 1), 3, 0), sequence);
  write_state(folder / "state", model, sequence);
  return io::read_file(folder / "state");
}

// What reading these bytes says.
std::string reading(LanguageModel& model, const std::string& bytes) {
  const TemporaryFolder folder;
  const std::string path = folder.put("state", bytes);
  const std::string error = error_of([&] { read_state(path, model); });
  return error.starts_with(path + ": ") ? error.substr(path.size() + 2) : error;
}

void put_number(std::string& bytes, size_t at, uint64_t number) {
  std::memcpy(bytes.data() + at, &number, sizeof(number));
}

std::string with_checksum(std::string bytes) {
  const size_t end = bytes.size() - sizeof(uint64_t);
  put_number(bytes, end, mix_key(2, std::string_view(bytes).substr(0, end)));
  return bytes;
}

TEST_F(StateFileTest, OfAnotherModelIsRefused) {
  TinyModel model;
  const std::string bytes = state_of(model);
  EXPECT_EQ(reading(model, bytes), "(no error)");
  const std::string other = "the state of another model, or of another checkpoint of this one";
  TinyModel grouped(4), trained(2, 2);
  EXPECT_EQ(reading(grouped, bytes), other);
  EXPECT_EQ(reading(trained, bytes), other);
}

TEST_F(StateFileTest, RecordsTheTypeOfTheCache) {
  using kernels::CacheType;
  TinyModel model;
  const GenerationRequest request = request_of(random_tokens(6, 1), 40, 1);
  size_t larger = state_of(model).size();
  for (const CacheType type : {CacheType::kBf16, CacheType::kQ8_0}) {
    model.set_cache_type(type);
    const auto want = told(Generator(model).generate(request));
    for (const std::vector<int64_t>& runs : {std::vector<int64_t>{1, 39}, {20, 0, 13, 7}})
      EXPECT_EQ(told(interrupted(model, request, runs)), want);
    const std::string bytes = state_of(model);
    EXPECT_LT(bytes.size(), larger);
    larger = bytes.size();
    model.set_cache_type(CacheType::kFloat32);
    const std::string found = std::string("found one in ") + kernels::name_of(type);
    EXPECT_EQ(reading(model, bytes),
              "expected a state with a cache in f32, " + found + " (cache_type)");
    std::string odd = bytes;
    odd[12] = 7;
    EXPECT_EQ(reading(model, with_checksum(odd)), "damaged: the type of its cache cannot be");
  }
  EXPECT_EQ(state_of(model)[12], 0);  // a file of float32 is what it was
}

TEST_F(StateFileTest, DamageIsAnError) {
  TinyModel model;
  const std::string bytes = state_of(model);
  EXPECT_EQ(reading(model, ""), "not a state file");
  EXPECT_EQ(reading(model, "refrain"), "not a state file");
  EXPECT_EQ(reading(model, "refrain\n"), "damaged: it is too short");
  for (size_t n = 0; n < bytes.size(); n += n < 80 ? 1 : 61)
    EXPECT_NE(reading(model, bytes.substr(0, n)), "(no error)") << n;
  EXPECT_NE(reading(model, bytes + '\0'), "(no error)");
  for (size_t i = 0; i < bytes.size(); i += i < 80 ? 1 : 61) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    EXPECT_NE(reading(model, changed), "(no error)") << i;
  }
  std::string newer = bytes;
  newer[8] = 3;
  EXPECT_EQ(reading(model, newer), "expected version 2 of state files, found 3");
  const TemporaryFolder folder;
  EXPECT_EQ(error_of([&] { read_state(folder / "none", model); }),
            "cannot open " + folder / "none" + ": No such file or directory");
  EXPECT_EQ(error_of([&] { read_state(folder.path(), model); }),
            folder.path() + ": expected a regular file");
}

TEST_F(StateFileTest, GoesOnAfterWhatWasForgotten) {
  TinyModel model(2, 1, "gla lstm");
  GenerationRequest request = request_of(random_tokens(9000, 1), 40, 1);
  const GenerationResult whole = Generator(model).generate(request);
  const TemporaryFolder folder;
  request.max_new_tokens = 15;
  Sequence first(model);
  Generator(model).generate(request, first);
  EXPECT_GT(first.forgotten(), 0);
  write_state(folder / "state", model, first);
  Sequence second = read_state(folder / "state", model);
  EXPECT_EQ(second.forgotten(), first.forgotten());
  request.prompt.clear();
  request.max_new_tokens = 25;
  const GenerationResult rest = Generator(model).generate(request, second);
  ASSERT_EQ(rest.choices.size(), 25u);
  for (size_t i = 0; i < 25; ++i)
    EXPECT_EQ(rest.choices[i].token, whole.choices[15 + i].token) << i;
}

// Who writes a right checksum may still lie.
TEST_F(StateFileTest, LiesAreErrors) {
  TinyModel model;
  const std::string bytes = state_of(model);
  const auto with = [&](size_t at, uint64_t number) {
    std::string changed = bytes;
    put_number(changed, at, number);
    return reading(model, with_checksum(changed));
  };
  const std::string tokens = "damaged: its numbers of tokens cannot be";
  for (uint64_t n : {uint64_t{0}, uint64_t{6}, uint64_t{1} << 20, uint64_t{1} << 62, ~uint64_t{0}})
    EXPECT_EQ(with(24, n), tokens) << n;
  EXPECT_EQ(with(24, 8), "damaged: its tokens are not the model's");  // a part of the state
  for (uint64_t forgotten : {uint64_t{1}, uint64_t{7}, ~uint64_t{0}})
    EXPECT_NE(with(32, forgotten), "(no error)") << forgotten;
  for (uint64_t begin : {uint64_t{1}, uint64_t{7}, ~uint64_t{0}})
    EXPECT_EQ(with(40, begin), tokens);
  for (uint64_t position : {uint64_t{7}, uint64_t{1} << 61, ~uint64_t{0}})
    EXPECT_EQ(with(48, position), tokens) << position;
  EXPECT_EQ(with(48, 5), "damaged: its length is wrong");
  EXPECT_EQ(with(56, 7), "damaged: its numbers of draws cannot be");
  EXPECT_EQ(with(64, ~uint64_t{0}), "damaged: its numbers of draws cannot be");
  for (uint64_t pair : {uint64_t{20}, uint64_t{0xFFFFFFFF}, uint64_t{20} << 32})
    EXPECT_EQ(with(72, pair), "damaged: its tokens are not the model's");

  // Whatever is read can be used.
  Random random(9);
  int read = 0;
  for (int round = 0; round < 600; ++round) {
    std::string changed = bytes;
    for (uint64_t n = 1 + random.below(3); n > 0; --n) {
      const size_t most = random.below(2) ? 100 : changed.size();
      changed[24 + random.below(most - 24)] = static_cast<char>(random.below(256));
    }
    if (random.below(4) == 0) changed.resize(changed.size() - random.below(changed.size() - 80));
    const TemporaryFolder folder;
    const std::string path = folder.put("state", with_checksum(changed));
    try {
      Sequence sequence = read_state(path, model);
      ++read;
      Generator(model).generate(request_of({1}, 3, 1), sequence);
    } catch (const Error&) {
    }
  }
  EXPECT_GT(read, 50);
}

}  // namespace
}  // namespace refrain

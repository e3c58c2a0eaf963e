// Requests that come and go while others run: each gets what it gets alone.
#include "refrain/generate/engine.h"

#include <map>
#include <set>
#include <thread>

#include "generate/tiny_model.h"
#include "refrain/base/thread_pool.h"
#include "refrain/generate/generator.h"
#include "support/error_of.h"

namespace refrain {
namespace {

class EngineTest : public OneThread {};

void run_all(Engine& engine) {
  while (engine.step()) {
  }
}

std::vector<std::string> alone(const LanguageModel& model, const GenerationRequest& request) {
  return told(Generator(model).generate(request));
}

TEST_F(EngineTest, RequestsComeWhileOthersRun) {
  using kernels::CacheType;
  const std::pair<std::string, CacheType> models[] = {{"attention", CacheType::kFloat32},
                                                      {"gla attention", CacheType::kFloat32},
                                                      {"lstm simple_rnn", CacheType::kFloat32},
                                                      {"attention", CacheType::kBf16},
                                                      {"gla attention", CacheType::kQ8_0}};
  for (const auto& [pattern, type] : models) {
    SCOPED_TRACE(pattern + " " + kernels::name_of(type));
    TinyModel model(2, 1, pattern);
    model.set_cache_type(type);
    Engine engine(model, 4000);
    std::vector<std::pair<RequestId, GenerationRequest>> requests;
    for (uint64_t i = 0; i < 9; ++i) {
      GenerationRequest request = request_of(
          random_tokens(i == 4 ? 700 : 1 + static_cast<int64_t>(17 * i % 90), i), 5 + 3 * i, 1);
      request.context = 800;
      request.logprobs = 2;
      requests.emplace_back(engine.submit(request), request);
      engine.step();
      engine.step();
    }
    run_all(engine);
    EXPECT_EQ(engine.under_way() + engine.waiting(), 0u);
    for (const auto& [id, request] : requests)
      EXPECT_EQ(told(engine.take(id)), alone(model, request)) << id;
  }
}

// On one model: with a pool each, and with one that they share.
TEST_F(EngineTest, SeveralThreadsDriveAnEngineEach) {
  const TinyModel model(2, 1, "gla attention");
  const auto request = [](uint64_t i) {
    return request_of(random_tokens(200 + static_cast<int64_t>(i), i), 20, 1);
  };
  std::vector<std::vector<std::string>> want, got(4);
  for (uint64_t i = 0; i < 4; ++i) want.push_back(alone(model, request(i)));
  ThreadPool shared(2);
  std::vector<std::thread> drivers;
  for (uint64_t i = 0; i < 4; ++i)
    drivers.emplace_back([&, i] {
      ThreadPool own(2);
      const ThreadPool::Scope scope(i < 2 ? shared : own);
      Engine engine(model, 4000);
      const RequestId id = engine.submit(request(i));
      run_all(engine);
      got[i] = told(engine.take(id));
    });
  for (std::thread& driver : drivers) driver.join();
  EXPECT_EQ(got, want);
}

// A prompt of many windows takes none of another's steps: each of them gives a token.
TEST_F(EngineTest, ALongPromptDelaysNobody) {
  const TinyModel model(2, 1, "gla");
  Engine engine(model, kMaxTokens);
  int tokens = 0;
  const auto count = [&](const SampledToken&) {
    ++tokens;
    return std::nullopt;
  };
  const RequestId before = engine.submit(request_of(random_tokens(5000, 2), 1, 0));
  engine.step();
  const RequestId brief = engine.submit(request_of({1}, 12, 0), count);
  engine.step();
  ASSERT_EQ(tokens, 1);
  const RequestId after = engine.submit(request_of(random_tokens(5000, 1), 1, 0));
  for (int step = 2; step <= 9; ++step) {
    engine.step();
    EXPECT_EQ(tokens, step);
    EXPECT_FALSE(engine.ended(before) || engine.ended(after));
  }
  run_all(engine);
  EXPECT_EQ(tokens, 12);
  EXPECT_EQ(engine.take(brief).tokens, 12);
  EXPECT_EQ(engine.take(before).tokens, 1);
  EXPECT_EQ(engine.take(after).tokens, 1);
}

// And where windows are full of others' tokens, a prompt is read nevertheless.
TEST_F(EngineTest, ManyDelayNoPromptForEver) {
  const TinyModel model;
  Engine engine(model, kMaxTokens);
  for (uint64_t i = 0; i < 600; ++i)
    engine.submit(request_of({static_cast<int32_t>(i % 20)}, 9, 0));
  const RequestId prompt = engine.submit(request_of(random_tokens(50, 3), 1, 0));
  engine.step();
  engine.step();
  EXPECT_TRUE(engine.ended(prompt));
  run_all(engine);
  EXPECT_EQ(engine.take(prompt).tokens, 1);
}

TEST_F(EngineTest, Cancelling) {
  const TinyModel model;
  const GenerationRequest request = request_of({1, 2, 3}, 20, 1);
  const std::vector<std::string> whole = alone(model, request);
  Engine engine(model, 30);  // one at a time
  const RequestId first = engine.submit(request), second = engine.submit(request),
                  third = engine.submit(request);
  engine.step();
  engine.step();
  EXPECT_EQ(engine.under_way(), 1u);
  EXPECT_EQ(engine.waiting(), 2u);
  engine.cancel(second);  // before it starts
  EXPECT_TRUE(engine.ended(second));
  EXPECT_EQ(engine.take(second).reason, StopReason::kCancelled);
  engine.cancel(first);  // under way
  engine.cancel(first);
  engine.cancel(99);  // nobody
  run_all(engine);
  const GenerationResult cut = engine.take(first);
  EXPECT_EQ(cut.reason, StopReason::kCancelled);
  EXPECT_EQ(cut.tokens, 2);
  EXPECT_EQ(told(engine.take(third)), whole);
  engine.cancel(third);  // long gone
  EXPECT_EQ(error_of([&] { engine.take(third); }),
            fmt::format("request {}: has not ended, or was taken", third));
  // By another's on_token, in the step that reads the end of its prompt.
  GenerationRequest only_reads = request;
  only_reads.max_new_tokens = 0;
  Engine both(model, 100);
  RequestId reads = 0;
  const RequestId speaks = both.submit(request, [&](const SampledToken&) {
    both.cancel(reads);
    return std::optional<StopReason>();
  });
  reads = both.submit(only_reads);
  run_all(both);
  EXPECT_EQ(both.take(reads).reason, StopReason::kCancelled);
  EXPECT_EQ(told(both.take(speaks)), whole);
  const RequestId dropped = engine.submit(request);
  engine.step();
  engine.drop(dropped);
  EXPECT_FALSE(engine.step());
  EXPECT_FALSE(engine.ended(dropped));
  // By what hears of its tokens.
  RequestId self = 0;
  self = engine.submit(request, [&](const SampledToken&) -> std::optional<StopReason> {
    engine.cancel(self);
    return std::nullopt;
  });
  run_all(engine);
  EXPECT_EQ(engine.take(self).tokens, 1);
}

TEST_F(EngineTest, AnErrorEndsItsRequestAlone) {
  const TinyModel model;
  const GenerationRequest request = request_of({4, 5}, 8, 1);
  Engine engine(model, 1000);
  const RequestId good = engine.submit(request);
  int heard = 0;
  const RequestId bad =
      engine.submit(request, [&](const SampledToken&) -> std::optional<StopReason> {
        if (++heard == 3) throw_error("the reader is gone");
        return std::nullopt;
      });
  const RequestId other = engine.submit(request);
  EXPECT_EQ(error_of([&] { engine.submit(request_of({20}, 1, 0)); }),
            "prompt token: expected 0 to 19, found 20");
  EXPECT_EQ(error_of([&] {
              GenerationRequest never = request;
              never.never = {-1};
              engine.submit(never);
            }),
            "token not to draw: expected 0 to 19, found -1");
  run_all(engine);
  EXPECT_EQ(error_of([&] { engine.take(bad); }), "the reader is gone");
  EXPECT_EQ(heard, 3);
  EXPECT_EQ(told(engine.take(good)), alone(model, request));
  EXPECT_EQ(told(engine.take(other)), alone(model, request));
  EXPECT_EQ(error_of([&] { Engine(model, 0); }), "max_tokens: expected 1 or more, found 0");
}

// A conversation: the same sequence goes on beside others, and is whole after an error.
TEST_F(EngineTest, SequencesGoOn) {
  const TinyModel model(2, 1, "gla attention");
  const GenerationRequest question = request_of({1, 2, 3}, 4, 0), more = request_of({6}, 5, 0);
  Sequence by_itself(model), beside(model);
  Generator generator(model);
  generator.generate(question, by_itself);
  const GenerationResult want = generator.generate(more, by_itself);
  Engine engine(model, 1000);
  engine.submit(request_of({7, 8}, 30, 0));
  engine.submit(question, beside);
  for (int i = 0; i < 6; ++i) engine.step();
  const RequestId again = engine.submit(more, beside);
  run_all(engine);
  EXPECT_EQ(told(engine.take(again)), told(want));
  EXPECT_TRUE(std::ranges::equal(beside.tokens(), by_itself.tokens()));
}

// One that no machine has the memory for is not in the way of those behind it.
TEST_F(EngineTest, ARequestWithoutMemoryEndsAlone) {
  ModelConfig config;
  config.vocab_size = 20;
  config.d_model = 16;
  config.layers = 1;
  config.heads = config.kv_heads = 512;
  config.head_dim = 64;
  const LanguageModel model(config);
  Engine engine(model, kMaxTokens);
  GenerationRequest huge = request_of({1}, kMaxTokens, 0);
  huge.context = kMaxTokens;
  const RequestId before = engine.submit(request_of({1}, 2, 0)), bad = engine.submit(huge),
                  after = engine.submit(request_of({1}, 2, 0));
  run_all(engine);
  EXPECT_EQ(error_of([&] { engine.take(bad); }).find("out of memory"), 0u);
  EXPECT_EQ(engine.take(before).tokens, 2);
  EXPECT_EQ(engine.take(after).tokens, 2);
}

// What would read and write memory that is not its own is refused.
TEST_F(EngineTest, RefusesWhatIsNotForIt) {
  const TinyModel model, other;
  Engine engine(model, 1000);
  Sequence sequence(model), foreign(other);
  const GenerationRequest request = request_of({1, 2}, 4, 0);
  EXPECT_THROW(engine.submit(request, foreign), std::logic_error);
  const RequestId first = engine.submit(request, sequence);
  EXPECT_THROW(engine.submit(request, sequence), std::logic_error);
  engine.step();
  EXPECT_THROW(engine.submit(request, sequence), std::logic_error);
  engine.cancel(first);
  const RequestId second = engine.submit(request, sequence);
  const RequestId steps = engine.submit(request, [&](const SampledToken&) {
    engine.step();
    return std::nullopt;
  });
  const RequestId drops = engine.submit(request, [&](const SampledToken&) {
    engine.drop(second);
    return std::nullopt;
  });
  run_all(engine);
  EXPECT_THROW(engine.take(steps), std::logic_error);
  EXPECT_THROW(engine.take(drops), std::logic_error);
  EXPECT_EQ(engine.take(second).tokens, 4);
}

}  // namespace
}  // namespace refrain

// A text has the same bytes with a draft and without, whatever the draft is.
#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "generate/near_model.h"
#include "refrain/generate/state_file.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

class Speculation : public OneThread {};

// All that a state file has of a sequence (state_file.h); a file would be a disk's work.
std::string bytes_of(const LanguageModel& model, Sequence& sequence) {
  const int64_t position = sequence.state().position();
  std::string bytes =
      fmt::format("{} {} {} {} {} {}:", sequence.size(), sequence.forgotten(), sequence.begin(),
                  position, sequence.progress.draws, sequence.progress.low_confidence_streak);
  for (const int32_t token : sequence.tokens()) bytes += fmt::format(" {}", token);
  for (int64_t l = 0; l < model.config().layers; ++l)
    bytes.append(reinterpret_cast<const char*>(sequence.state().row(static_cast<size_t>(l))),
                 model.state_bytes(l, position));
  return bytes;
}

// What the request gives and leaves.
struct Outcome {
  std::vector<std::string> told;
  std::string state;
  bool operator==(const Outcome&) const = default;
};

struct Shares {
  int64_t proposed = 0, accepted = 0;
};

Outcome outcome(const LanguageModel& model, const LanguageModel* draft,
                const GenerationRequest& request, Shares* shares = nullptr,
                const OnToken& on_token = {}) {
  Sequence sequence(model);
  const GenerationResult result = Generator(model, draft).generate(request, sequence, on_token);
  EXPECT_LE(result.draft_accepted, result.draft_proposed);
  EXPECT_TRUE(draft || result.draft_proposed == 0);
  if (shares) {
    shares->proposed += result.draft_proposed;
    shares->accepted += result.draft_accepted;
  }
  EXPECT_EQ(result.steps, std::max<int64_t>(0, sequence.size() - result.prompt_tokens - 1));
  return {told(result), bytes_of(model, sequence)};
}

// All of these with all of these drafts. `change` is that of the near one (near_model.h).
void expect_the_same(const std::string& pattern, const SettingMap& settings,
                     const std::vector<GenerationRequest>& requests, double change = 0.05) {
  SCOPED_TRACE(pattern);
  TinyModel model(2, 1, pattern, settings);
  const NearModel near(pattern, change, settings), same(pattern, 0, settings);
  const TinyModel other(4, 2, "gla"), cells(2, 3, "lstm simple_rnn");
  SettingMap ring;
  ring.set("attention.window", "5");
  const TinyModel window(2, 4, "attention gla", ring);
  std::map<const LanguageModel*, Shares> shares;
  for (const GenerationRequest& request : requests) {
    const Outcome alone = outcome(model, nullptr, request);
    for (const LanguageModel* draft :
         std::initializer_list<const LanguageModel*>{&near, &same, &other, &cells, &window})
      EXPECT_EQ(outcome(model, draft, request, &shares[draft]), alone);
  }
  const Shares &all = shares[&same], &some = shares[&near];
  EXPECT_EQ(all.accepted, all.proposed) << "the model itself guesses right";
  EXPECT_GT(all.accepted, 0);
  EXPECT_GT(some.accepted, some.proposed / 5) << "a dull test";
  EXPECT_LT(some.accepted, some.proposed) << "a dull test";
}

std::vector<GenerationRequest> sampled_requests() {
  std::vector<GenerationRequest> requests;
  for (const double temp : {0.0, 0.5, 1.0, 1.7})
    for (int64_t seed = 0; seed < 4; ++seed) {
      GenerationRequest request = request_of(random_tokens(3 + seed, 4), 40, temp);
      request.sampling.seed = seed;
      requests.push_back(request);
      request.sampling.top_k = 0;
      request.sampling.top_p = seed == 0 ? 1 : 0.8;
      request.sampling.repeat_penalty = 1.3;
      request.sampling.repeat_last_n = seed == 1 ? -1 : 7;
      request.draft_tokens = 1 + 3 * seed;
      request.logprobs = 2;
      requests.push_back(request);
      request.sampling.min_p = 0.2;
      request.never = {1, 7};
      request.eos = 3;
      request.draft_tokens = 32;
      requests.push_back(request);
    }
  return requests;
}

TEST_F(Speculation, EqualBytesForEachMixer) {
  const auto requests = sampled_requests();
  expect_the_same("attention", {}, requests);
  expect_the_same("gla", {}, requests);
  expect_the_same("gla attention", {}, requests);
  expect_the_same("lstm simple_rnn", {}, requests);
  expect_the_same("rnn gru", {}, requests, 0.01);  // it goes its own way soon
  expect_the_same("mm_rec attention", {}, requests);
  SettingMap settings;
  settings.set("gla.conv", "4");
  expect_the_same("gla", settings, requests);
  settings = {};
  settings.set("attention.window", "9");
  expect_the_same("attention", settings, requests);
  settings.set("attention.stride", "4");
  expect_the_same("attention", settings, requests);
  settings.set("attention.window", "2");  // shorter than what is guessed
  expect_the_same("attention", settings, requests);
}

TEST_F(Speculation, EqualBytesBeyondTheContext) {
  std::vector<GenerationRequest> requests;
  for (const int64_t context : {0, 1, 2, 3, 7, 8, 20, 100})
    for (const int64_t prompt : {1, 5, 30, 90}) {
      GenerationRequest request = request_of(random_tokens(prompt, 4), 90, prompt == 5 ? 0 : 0.7);
      request.context = context;
      requests.push_back(request);
    }
  expect_the_same("attention", {}, requests);
  expect_the_same("gla attention", {}, requests);
}

// A draft that can hold less than the model, and one that can hold more.
TEST_F(Speculation, ADraftHasAContextOfItsOwn) {
  ModelConfig config;
  config.vocab_size = 20;
  config.d_model = 16;
  config.layers = 1;
  config.heads = config.kv_heads = 2;
  config.d_ff = 32;
  TinyModel model;
  for (const int64_t context : {1, 2, 3, 10, 500}) {
    config.context = context;
    LanguageModel draft(config);
    draft.initialise(1);
    for (const int64_t asked : {0, 1, 9, 40, 300}) {
      GenerationRequest request = request_of(random_tokens(30, 4), 150, 0.9);
      request.context = asked;
      Shares shares;
      EXPECT_EQ(outcome(model, &draft, request, &shares), outcome(model, nullptr, request));
      EXPECT_TRUE(shares.proposed > 20 || asked == 1) << context << " " << asked;
    }
  }
}

TEST_F(Speculation, ALongPrompt) {
  std::vector<GenerationRequest> requests;
  for (const int64_t n : {63, 64, 65, 511, 513, 1300}) {
    requests.push_back(request_of(random_tokens(n, 2), 20, 1));
    requests.back().context = 2000;
  }
  expect_the_same("attention", {}, requests);
  expect_the_same("gla", {}, requests);
}

// Every way in which a text ends, at every place of a round.
TEST_F(Speculation, EndsWhereTheModelEnds) {
  for (const std::string pattern : {"attention", "gla attention", "gla"}) {
    SCOPED_TRACE(pattern);
    TinyModel model(2, 1, pattern);
    const NearModel near(pattern, 0.05);
    const NearModel same(pattern, 0);
    std::set<StopReason> reasons;
    for (int64_t n = 0; n < 30; ++n) {
      GenerationRequest request = request_of(random_tokens(5, 1), n, 1);
      for (const LanguageModel* draft : {&near, &same}) {
        EXPECT_EQ(outcome(model, draft, request), outcome(model, nullptr, request));  // length

        GenerationRequest ends = request;
        ends.max_new_tokens = 40;
        ends.sampling.seed = n;
        ends.eos = static_cast<int32_t>(n % 20);
        ends.pad = static_cast<int32_t>(n % 7);
        EXPECT_EQ(outcome(model, draft, ends), outcome(model, nullptr, ends));

        GenerationRequest unsure = request;
        unsure.max_new_tokens = 40;
        unsure.sampling.seed = n;
        unsure.sampling.min_confidence = 0.3 + 0.02 * static_cast<double>(n);
        unsure.sampling.patience_tokens = 1 + n % 4;
        EXPECT_EQ(outcome(model, draft, unsure), outcome(model, nullptr, unsure));
        reasons.insert(Generator(model, draft).generate(unsure).reason);

        // The caller stops, or fails.
        unsure.sampling.min_confidence = 0;
        const auto stops_after = [](int64_t at) {
          return [at, heard = int64_t{0}](const SampledToken&) mutable {
            return heard++ == at ? std::optional(StopReason::kStopText) : std::nullopt;
          };
        };
        EXPECT_EQ(outcome(model, draft, unsure, nullptr, stops_after(n)),
                  outcome(model, nullptr, unsure, nullptr, stops_after(n)));
        const auto after_failure = [&](const LanguageModel* with) {
          Sequence sequence(model);
          Generator generator(model, with);
          int64_t heard = 0;
          EXPECT_EQ(error_of([&] {
                      generator.generate(unsure, sequence,
                                         [&](const SampledToken&) -> std::optional<StopReason> {
                                           if (heard++ == n) throw_error("the reader is gone");
                                           return {};
                                         });
                    }),
                    "the reader is gone");
          return bytes_of(model, sequence);
        };
        EXPECT_EQ(after_failure(draft), after_failure(nullptr));
      }
    }
    EXPECT_TRUE(reasons.contains(StopReason::kUnsure)) << "a dull test";
  }
}

// In runs with and without drafts, one after another.
TEST_F(Speculation, SequencesGoOn) {
  for (const std::string pattern : {"attention", "gla attention", "lstm gla"}) {
    SCOPED_TRACE(pattern);
    TinyModel model(2, 1, pattern);
    const NearModel near(pattern, 0.05), same(pattern, 0);
    for (const int64_t context : {0, 12}) {
      GenerationRequest request = request_of(random_tokens(6, 1), 60, 1);
      request.context = context;
      request.sampling.repeat_penalty = 1.2;
      request.sampling.min_confidence = 0.5;
      request.sampling.patience_tokens = 1000;
      const Outcome whole = outcome(model, nullptr, request);
      for (const std::vector<int64_t>& runs :
           {std::vector<int64_t>{60}, {1, 59}, {0, 0, 60}, {20, 0, 13, 27}, {6, 6, 6, 42}}) {
        const TemporaryFolder folder;
        const std::string path = folder / "state";
        Sequence sequence(model);
        GenerationResult all;
        GenerationRequest part = request;
        size_t round = 0;
        for (const int64_t n : runs) {
          const LanguageModel* draft =
              std::vector<const LanguageModel*>{&near, nullptr, &same}[round++ % 3];
          part.max_new_tokens = n;
          const GenerationResult found = Generator(model, draft).generate(part, sequence);
          all.prompt_tokens += found.prompt_tokens;
          all.choices.insert(all.choices.end(), found.choices.begin(), found.choices.end());
          part.prompt.clear();
          write_state(path, model, sequence);
          if (round % 2 == 0) sequence = read_state(path, model);
        }
        EXPECT_EQ((Outcome{told(all), bytes_of(model, sequence)}), whole);
        Sequence alone(model);
        Generator(model).generate(request, alone);
        write_state(folder / "alone", model, alone);
        EXPECT_EQ(io::read_file(path), io::read_file(folder / "alone"));
      }
    }
  }
}

// What a bounded state has read is forgotten at the same places, with all that is in its file.
TEST_F(Speculation, ForgetsWhatItForgetsWithoutADraft) {
  TinyModel model(2, 1, "gla lstm");
  const NearModel near("gla lstm", 0.05);
  for (const int64_t last_n : {int64_t{0}, int64_t{64}, int64_t{5000}})
    for (const int64_t n : {4100, 4210, 9000}) {
      GenerationRequest request = request_of(random_tokens(4000, 1), n, 1);
      request.sampling.repeat_penalty = 1.1;
      request.sampling.repeat_last_n = last_n;
      request.keep_choices = false;
      EXPECT_EQ(outcome(model, &near, request), outcome(model, nullptr, request)) << last_n;
    }
}

// Requests that come and go, with drafts, without, and more than guesses have room for.
TEST_F(Speculation, BesideOthers) {
  for (const std::string pattern : {"attention", "gla attention", "gla"}) {
    SCOPED_TRACE(pattern);
    const TinyModel model(2, 1, pattern);
    const NearModel near(pattern, 0.05);
    for (const size_t width : {2, 5, 60})
      for (const int64_t max_tokens : {int64_t{1}, int64_t{600}, int64_t{1000000}}) {
        Engine engine(model, max_tokens, &near);
        std::vector<std::pair<RequestId, GenerationRequest>> requests;
        for (uint64_t i = 0; i < width; ++i) {
          GenerationRequest request =
              request_of(random_tokens(i == 4 ? 700 : 1 + static_cast<int64_t>(17 * i % 90), i),
                         static_cast<int64_t>(i * 7 % 40), i % 3 == 0 ? 0 : 1);
          request.context = 800;
          request.draft_tokens = static_cast<int64_t>(i * 5 % 11);
          request.eos = static_cast<int32_t>(i % 20);
          requests.emplace_back(engine.submit(request), request);
          engine.step();
        }
        while (engine.step()) {
        }
        for (const auto& [id, request] : requests)
          EXPECT_EQ(told(engine.take(id)), told(Generator(model).generate(request)))
              << id << " of " << width;
      }
  }
}

TEST_F(Speculation, ManyThreadsGiveTheSame) {
  const TinyModel model(2, 1, "gla attention");
  const NearModel near("gla attention", 0.05);
  const GenerationRequest request = request_of(random_tokens(100, 1), 60, 1);
  const GenerationResult one = Generator(model, &near).generate(request);
  for (const int n : {2, 3}) {
    set_threads(n);
    const GenerationResult many = Generator(model, &near).generate(request);
    EXPECT_EQ(told(many), told(one));
    EXPECT_EQ(many.draft_proposed, one.draft_proposed);
    EXPECT_EQ(many.draft_accepted, one.draft_accepted);
  }
}

TEST_F(Speculation, CancellingAndDropping) {
  for (const std::string pattern : {"attention", "gla"}) {
    SCOPED_TRACE(pattern);
    TinyModel model(2, 1, pattern);
    const NearModel near(pattern, 0.05);
    const GenerationRequest request = request_of({1, 2, 3}, 40, 1);
    const std::vector<std::string> whole = told(Generator(model).generate(request));
    for (size_t steps = 1; steps < 12; ++steps) {
      Engine engine(model, 1000, &near);
      Sequence cut(model), gone(model);
      const RequestId first = engine.submit(request, cut), second = engine.submit(request, gone),
                      third = engine.submit(request);
      for (size_t i = 0; i < steps; ++i) engine.step();
      engine.cancel(first);
      engine.drop(second);
      while (engine.step()) {
      }
      EXPECT_EQ(told(engine.take(third)), whole);
      // Both go on to the text that the model writes without a pause.
      GenerationResult begun = engine.take(first);
      EXPECT_EQ(begun.reason == StopReason::kCancelled, begun.tokens < 40);
      for (Sequence* sequence : {&cut, &gone}) {
        GenerationRequest rest = request;
        rest.prompt.clear();
        rest.max_new_tokens = 3 + 40 - sequence->size();
        const auto before =
            std::vector<int32_t>(sequence->tokens().begin() + 3, sequence->tokens().end());
        std::vector<int32_t> tokens = before;
        if (rest.max_new_tokens > 0)
          for (const SampledToken& c : Generator(model, &near).generate(rest, *sequence).choices)
            tokens.push_back(c.token);
        const GenerationResult all = Generator(model).generate(request);
        ASSERT_EQ(tokens.size(), all.choices.size());
        for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i], all.choices[i].token) << i;
      }
    }
    // By what hears of its tokens, in the middle of a round.
    for (int64_t at = 1; at < 20; ++at)
      for (const LanguageModel* draft :
           std::initializer_list<const LanguageModel*>{nullptr, &near}) {
        Engine engine(model, 1000, draft);
        RequestId self = 0, other = 0;
        int64_t heard = 0;
        const OnToken cancels = [&](const SampledToken&) -> std::optional<StopReason> {
          if (++heard != at) return {};
          engine.cancel(self);
          engine.cancel(other);
          return {};
        };
        self = engine.submit(request, cancels);
        other = engine.submit(request);
        const RequestId last = engine.submit(request);
        while (engine.step()) {
        }
        EXPECT_EQ(engine.take(self).tokens, at);
        EXPECT_EQ(engine.take(other).reason, StopReason::kCancelled);
        EXPECT_EQ(told(engine.take(last)), whole);
      }
  }
}

// A draft whose logits are no numbers guesses nothing; a model's are an error at their place.
TEST_F(Speculation, BrokenModels) {
  TinyModel model;
  NearModel broken("attention", 0.05);
  for (float& w : broken.parameters().weights()) w = std::numeric_limits<float>::quiet_NaN();
  const GenerationRequest request = request_of({1, 2, 3}, 20, 1);
  Shares shares;
  EXPECT_EQ(outcome(model, &broken, request, &shares), outcome(model, nullptr, request));
  EXPECT_EQ(shares.proposed, 0);
  EXPECT_TRUE(error_of([&] {
                Generator(broken, &model).generate(request);
              }).starts_with("the model's logit of token 0 is "));
}

// Vocabularies that were padded to different sizes.
TEST_F(Speculation, ALargerAndASmallerVocabulary) {
  ModelConfig config = TinyModel().config();
  TinyModel model;
  for (const int64_t size : {7, 19, 21, 64}) {
    config.vocab_size = size;
    LanguageModel draft(config);
    draft.initialise(3);
    for (const int32_t token : {3, 19}) {
      const GenerationRequest request = request_of({1, 2, token}, 60, 1.5);
      Shares shares;
      EXPECT_EQ(outcome(model, &draft, request, &shares), outcome(model, nullptr, request)) << size;
      // A smaller one may not know a token of the text.
      if (size >= 20) {
        EXPECT_GT(shares.proposed, 30) << size;
      } else if (size <= token) {
        EXPECT_EQ(shares.proposed, 0) << size;
      }
    }
  }
}

// The states of a draft leave less room for others.
TEST_F(Speculation, StatesOfADraftCount) {
  const TinyModel model, same;
  const TinyModel bounded(2, 1, "gla");
  const auto together = [&](const LanguageModel* draft, int64_t draft_tokens) {
    Engine engine(model, 300, draft);
    for (int i = 0; i < 12; ++i) {
      GenerationRequest request = request_of({1, 2, 3, 4, 5}, 45, 1);  // 50 tokens
      request.draft_tokens = draft_tokens;
      engine.submit(request);
    }
    engine.step();
    return engine.under_way();
  };
  EXPECT_EQ(together(nullptr, 8), 6u);
  EXPECT_EQ(together(&same, 0), 6u);
  EXPECT_EQ(together(&same, 8), 3u);
  EXPECT_LT(together(&bounded, 8), 6u);
  EXPECT_GE(together(&bounded, 8), 1u);
}

TEST_F(Speculation, RefusesWhatItCannotDo) {
  const TinyModel model, rnn(2, 1, "attention attention_rnn");
  EXPECT_EQ(error_of([&] { Generator(rnn, &model); }),
            "draft: expected a model whose numbers do not depend on where a text is cut, found one "
            "with attention_rnn");
  EXPECT_EQ(error_of([&] { Generator(model, &rnn); }), "(no error)");
  GenerationRequest request = request_of({1}, 4, 0);
  request.draft_tokens = 33;
  EXPECT_EQ(error_of([&] { Generator(model, &model).generate(request); }),
            "draft_tokens: expected 0 to 32, found 33");
}

}  // namespace
}  // namespace refrain

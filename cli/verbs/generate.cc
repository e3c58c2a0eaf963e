// Continues a prompt, a token at a time.
#include <unistd.h>

#include <optional>

#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/targets.h"
#include "cli/unknown_characters.h"
#include "cli/verbs.h"
#include "refrain/generate/generator.h"
#include "refrain/generate/state_file.h"
#include "refrain/generate/stop_texts.h"
#include "refrain/io/json.h"
#include "refrain/text/tokenizer_difference.h"

namespace refrain::cli {
namespace {

struct Generate {
  std::string model, adapter, prompt, cache_type = "f32", draft, state_in, state_out;
  std::vector<std::string> stop;
  GenerationRequest request;
  bool echo = true, json = false;

  template <class V>
  void visit(V&& v) {
    v("model", model, kModelHelp);
    v("adapter", adapter, kAdapterHelp);
    v("prompt", prompt,
      "text to continue; - is standard input (at most 64 MiB); may be empty if the model has a "
      "token that begins texts");
    v("max_new_tokens", request.max_new_tokens, "tokens to generate at most");
    v("context", request.context,
      "tokens the model looks back at most; 0 = as many as it was trained on");
    v("cache_type", cache_type, kCacheTypeHelp);
    request.sampling.visit(v);
    v("draft", draft,
      "model directory of a small model with the same tokenizer that guesses tokens ahead: the "
      "same "
      "text, sooner");
    v("draft_tokens", request.draft_tokens, "with --draft: tokens that it guesses ahead at most");
    v("stop", stop, "texts that end the generation; they are not printed");
    v("ignore_eos", request.ignore_eos, "go on behind the token that ends texts");
    v("state_in", state_in, "go on with the text whose state is in this file");
    v("state_out", state_out, "write the state to this file when done; it may be that of state_in");
    v("echo", echo, "print the prompt before its continuation");
    v("logprobs", request.logprobs,
      "with --json: log probabilities of so many tokens at each place");
    v("json", json, "print one JSON object when done");
  }

  void check(const CommandLine& line) const {
    constexpr int64_t kMost = int64_t{1} << 24;
    const auto expect = [](const char* flag, int64_t value, int64_t low, int64_t high) {
      if (value < low || value > high)
        throw_error("{}: expected {} to {}, found {}", flag, low, high, value);
    };
    StopTexts{stop};
    parse_cache_type(cache_type);
    expect("--max-new-tokens", request.max_new_tokens, 0, kMost);
    expect("--context", request.context, 0, kMost);
    expect("--logprobs", request.logprobs, 0, 100);
    expect("--draft-tokens", request.draft_tokens, 1, GenerationRequest::kMostDraftTokens);
    if (draft.empty()) refuse_given(line, "draft_tokens", "expected --draft with it, found none");
    if (request.logprobs > 0 && !json)
      throw_error("--logprobs: expected --json with it, found none");
    check_sampling(line, request.sampling);
  }

  int run(const CommandLine& line) {
    line.require({"model"});
    check(line);
    check_target("--state-out", state_out, {model});
    StopTexts stops(stop);
    LoadedModel loaded = load_generator(model);
    loaded.lora = adapt(*loaded.model, adapter);
    context_limit(*loaded.model, request.context);  // an Error now, before anything is shown
    set_cache_type(loaded, cache_type);
    std::optional<LoadedModel> small;
    if (!draft.empty()) small = load_draft(loaded);
    Generator generator(*loaded.model, small ? small->model.get() : nullptr);
    if (prompt == "-") prompt = read_text(prompt);
    Sequence sequence =
        state_in.empty() ? Sequence(*loaded.model) : read_state(state_in, *loaded.model);
    set_prompt(loaded, sequence.size() == 0);
    const auto shows = [&](const std::string& text) {
      if (json) return;
      print(text);
      flush_output();
    };
    if (echo) shows(prompt);

    text::StreamDecoder decoder(loaded.tokenizer);
    // What these give is not shown: they tell the decoder where it stands.
    for (const int32_t id : sequence.tokens()) decoder.feed(id);
    for (const int32_t id : request.prompt) decoder.feed(id);
    std::string text;
    const auto show_new = [&](const std::string& piece) {
      if (json) text += piece;
      shows(piece);
    };
    const auto on_token = [&](const SampledToken& choice) {
      show_new(stops.feed(decoder.feed(choice.token)));
      return stops.found() ? std::optional(StopReason::kStopText) : std::nullopt;
    };
    request.keep_choices = json;
    GenerationResult result = generator.generate(request, sequence, on_token);
    if (!stops.found()) {
      show_new(stops.feed(decoder.finish()));
      show_new(stops.finish());
      if (stops.found()) result.reason = StopReason::kStopText;
    }
    if (!state_out.empty()) write_state(state_out, *loaded.model, sequence);
    if (json)
      print(io::to_text(as_json(loaded, result, text)));
    else if (isatty(STDOUT_FILENO))
      print("\n");
    flush_output();  // what the note below is to stand behind
    std::string guesses;
    if (small)
      guesses = fmt::format("; draft: {} of {} tokens accepted", result.draft_accepted,
                            result.draft_proposed);
    note(fmt::format(
        "prompt: {} tokens, {:.3f} s; generated: {} tokens, {:.3f} s, {:.0f} a "
        "second{}; stopped: {}",
        result.prompt_tokens, result.prompt_seconds, result.tokens, result.generation_seconds,
        result.tokens_per_second(), guesses, to_text(result.reason)));
    return 0;
  }

 private:
  // An Error unless both models mean the same by each id.
  LoadedModel load_draft(const LoadedModel& loaded) const {
    LoadedModel small = load_generator(draft);
    const std::string what = text::difference(loaded.tokenizer, small.tokenizer);
    if (!what.empty()) throw_error("--draft {}: not the tokenizer of {}: {}", draft, model, what);
    return small;
  }

  void set_prompt(const LoadedModel& loaded, bool at_start) {
    const int32_t bos = loaded.special.bos;
    request.prompt = encode_prompt(loaded, prompt);
    UnknownCharacters unknown(loaded.tokenizer);
    unknown.look(prompt, request.prompt, true);
    unknown.tell("--prompt");
    std::vector<int32_t>& ids = request.prompt;
    const bool begins = !ids.empty() && ids[0] == bos;
    if (at_start && bos >= 0 && !begins && (ids.empty() || loaded.tokenizer.adds_bos()))
      ids.insert(ids.begin(), bos);
    if (at_start && ids.empty())
      throw_error(
          "--prompt: expected text, for the tokenizer has no token that begins texts; found none");
    request.eos = loaded.special.eos;
    request.pad = loaded.special.pad;
    request.more_eos = loaded.special.more_eos;
    std::vector<int32_t> ends;
    if (!request.ignore_eos) {
      ends = request.more_eos;
      ends.insert(ends.end(), {request.eos, request.pad});
    }
    request.never = ids_without_token(loaded, ends);
  }

  io::Json as_json(const LoadedModel& loaded, const GenerationResult& result,
                   const std::string& text) const {
    const auto name = [&](int32_t id) {
      const bool known = id < loaded.tokenizer.vocab_size();
      return known ? valid_utf8(loaded.tokenizer.token(id)) : std::string(text::kReplacement);
    };
    io::Json list = io::Json::array();
    for (const SampledToken& choice : result.choices) {
      io::Json token = {{"id", choice.token},
                        {"token", name(choice.token)},
                        {"logprob", choice.logprob},
                        {"confidence", choice.confidence}};
      for (const auto& [id, logprob] : choice.top)
        token["top"].push_back({{"id", id}, {"token", name(id)}, {"logprob", logprob}});
      list.push_back(std::move(token));
    }
    io::Json all = {{"prompt", valid_utf8(prompt)},
                    {"text", valid_utf8(text)},
                    {"stop_reason", to_text(result.reason)},
                    {"prompt_tokens", result.prompt_tokens},
                    {"prompt_seconds", result.prompt_seconds},
                    {"generation_seconds", result.generation_seconds}};
    if (!draft.empty()) {
      all["draft_proposed"] = result.draft_proposed;
      all["draft_accepted"] = result.draft_accepted;
    }
    all["tokens"] = std::move(list);
    return all;
  }
};

}  // namespace

Verb generate_verb() {
  return make_verb<Generate>(
      "generate", "continue a text", "-m DIR [-p TEXT]",
      "Text goes to standard output as it is made; how long it took and why it stopped goes to\n"
      "standard error.");
}

}  // namespace refrain::cli

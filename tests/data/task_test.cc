#include "refrain/data/task.h"

#include <gtest/gtest.h>

#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using data::Direction;
using data::TaskDescription;

const Direction kEnJa = {"<en>", "<ja>"}, kJaEn = {"<ja>", "<en>"}, kEnDe = {"<en>", "<de>"};

TEST(Task, OfOneDirectionNoTagCanHelp) {
  const TaskDescription one{"translate", {{"<en>", "<ja>"}}};
  EXPECT_EQ(
      error_of([&] {
        data::choose_direction(one, {"<ja>", ""});
      }),
      "source_tag: the model has one direction, <en> to <ja>, found \"<ja>\" (a model that is "
      "trained in both directions has the way back)");
}

TEST(Task, IsReadAsItWasWritten) {
  const TemporaryFolder folder;
  EXPECT_FALSE(data::read_task(folder.path()));
  for (const TaskDescription& task :
       {TaskDescription{"lm", {}}, TaskDescription{"translate", {kEnJa}},
        TaskDescription{"translate", {kJaEn, kEnJa, kEnDe}}}) {
    data::write_task(folder.path(), task);
    EXPECT_EQ(data::read_task(folder.path()), task);
  }
  // One direction is written as it always was.
  EXPECT_EQ(io::to_line(data::to_json({"translate", {kEnJa}})),
            R"({"task":"translate","source_tag":"<en>","target_tag":"<ja>"})");
}

TEST(Task, ReadsNothingThatIsNotOne) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& text) {
    folder.put("refrain.json", text);
    return error_of([&] { data::read_task(folder.path()); });
  };
  for (const char* text : {"{", "[]", R"({"task": "sing"})", R"({"task": "translate"})",
                           R"({"task": "translate", "source_tag": "<en>"})",
                           R"({"task": "translate", "source_tag": "a", "target_tag": 1})"})
    EXPECT_NE(error(text).find("refrain.json"), std::string::npos) << text;
  for (const char* list : {"1", "[1]", R"(["<en>"])", R"([["<en>"]])", R"([["<en>", 1]])",
                           R"([["a", "b", "c"]])", R"({"<en>": "<ja>"})"})
    EXPECT_NE(error(fmt::format(R"({{"task": "translate", "source_tag": "a", "target_tag": "b",
                                     "directions": {}}})",
                                list))
                  .find("directions: expected a list of pairs of tags"),
              std::string::npos)
        << list;
}

TEST(Task, IsTakenFromTheData) {
  const TemporaryFolder folder;
  text::TokenizerTraining training = text::Tokenizer::parse_spec("char");
  training.special_tokens = {"<en>", "<ja>", "</s>"};
  const auto text = folder.put("t.tsv", "a\tb\n");
  const text::SourceFiles source = {.task = "translate", .inputs = {text}, .both_directions = true};
  const auto tokenizer = text::Tokenizer::train(training, text::text_of(source, "char"));
  data::write_token_file(source, tokenizer, folder / "t.tokens");
  const data::DataSet set = data::DataSet::open(folder / "t.tokens");
  EXPECT_EQ(data::describe_task(set, tokenizer, kEnJa),
            (TaskDescription{"translate", {kEnJa, kJaEn}}));
  EXPECT_EQ(data::describe_task(set, tokenizer, kJaEn),
            (TaskDescription{"translate", {kJaEn, kEnJa}}));
  EXPECT_EQ(data::describe_task(set, tokenizer, kEnDe),
            (TaskDescription{"translate", {kEnJa, kJaEn}}));
}

TEST(Task, ChoosesADirection) {
  const TaskDescription task = {"translate", {kEnJa, kJaEn, kEnDe}}, unknown;
  EXPECT_EQ(data::choose_direction(task, {}), kEnJa);
  EXPECT_EQ(data::choose_direction(task, {"<ja>", ""}), kJaEn);
  EXPECT_EQ(data::choose_direction(task, {"<en>", ""}), kEnJa);
  EXPECT_EQ(data::choose_direction(task, {"", "<de>"}), kEnDe);
  EXPECT_EQ(data::choose_direction(task, {"<de>", "<ja>"}), (Direction{"<de>", "<ja>"}));
  EXPECT_EQ(data::choose_direction(unknown, kEnJa), kEnJa);
  EXPECT_EQ(
      error_of([&] {
        data::choose_direction(task, {"", "<fr>"});
      }),
      "target_tag: the model's directions are <en> to <ja>, <ja> to <en>, <en> to <de>, found "
      "\"<fr>\"; another one takes source_tag as well");
  EXPECT_EQ(error_of([&] {
              data::choose_direction(unknown, {"<en>", ""});
            }),
            "the model does not say its directions; expected a source tag and a target tag");
}

}  // namespace
}  // namespace refrain

#include "refrain/formats/chat_template.h"

#include <gtest/gtest.h>

#include "support/temporary_folder.h"

namespace refrain {
namespace {

// Whether it can be parsed is for others to say: converting a model hands on what it has.
TEST(ReadChatTemplate, IsTheTextOfADirectory) {
  const TemporaryFolder folder;
  EXPECT_FALSE(read_chat_template(folder.path()));
  folder.put("tokenizer_config.json",
             R"({"chat_template": [{"name": "default", "template": "{% one"},
                                   {"name": "tool_use", "template": "two"}]})");
  EXPECT_EQ(read_chat_template(folder.path()), "{% one");
  EXPECT_EQ(read_chat_template(folder.path(), true), "two");
  folder.put("chat_template.jinja", "three\n");
  EXPECT_EQ(read_chat_template(folder.path()), "three\n");
}

}  // namespace
}  // namespace refrain

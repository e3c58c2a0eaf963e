#include "refrain/io/json.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

using namespace std::string_literals;
using testing::PrintToString;

Json parse(std::string_view text) { return parse_json(text, "x.json"); }

std::string nested(int levels, const std::string& open, const std::string& close) {
  std::string text;
  for (int i = 0; i < levels; ++i) text += open;
  for (int i = 0; i < levels; ++i) text += close;
  return text;
}

TEST(Json, ReadsEveryKindOfValue) {
  const Json json = parse(
      R"( {"b": [1, -2, 3.5, 1e3, true, false, null], "a": "\u3042\n\ud83d\ude00", "": {}} )");
  EXPECT_EQ(to_line(json), R"({"b":[1,-2,3.5,1000.0,true,false,null],"a":"あ\n😀","":{}})");
  EXPECT_EQ(parse("7"), 7);
  EXPECT_EQ(parse("[]"), Json::array());
  EXPECT_EQ(parse("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(parse("-9223372036854775808"), INT64_MIN);
}

TEST(Json, WritesWhatItReads) {
  const std::string text =
      "{\n  \"z\": 1,\n  \"a\": [\n    0.1,\n    \"é\"\n  ],\n  \"m\": {}\n}\n";
  EXPECT_EQ(to_text(parse(text)), text);
  EXPECT_EQ(to_line(parse(text)), R"({"z":1,"a":[0.1,"é"],"m":{}})");
  EXPECT_THROW(to_text(Json("\xFF")), Error);
  EXPECT_THROW(to_line(Json("\xED\xA0\x80")), Error);
}

TEST(Json, RefusesHostileText) {
  struct Case {
    std::string text, says;
  };
  const std::vector<Case> cases = {
      {"", "x.json: column 1: invalid JSON: "},
      {"  \n ", "line 2, column "},
      {"{", "unexpected end of input"},
      {"[1, 2", "unexpected end of input"},
      {"[1,\n 2,\n x]", "line 3, column 2: "},
      {"[1,]", "unexpected ']'"},
      {"{\"a\":1,}", "unexpected '}'"},
      {"{a:1}", "column 2"},
      {"{'a':1}", "column 2"},
      {"{\"a\" 1}", "expected ':'"},
      {"{1:2}", "expected string literal"},
      {"[1 2]", "expected ']'"},
      {"[1}", "unexpected '}'"},
      {"]", "unexpected ']'"},
      {"1 2", "expected end of input"},
      {"{} {}", "expected end of input"},
      {"[1] // comment", "invalid literal"},
      {"/* comment */ 1", "invalid literal"},
      {"{}\0"s, "a zero byte at offset 2"},
      {"{}\0garbage"s, "a zero byte at offset 2"},
      {"\0"s, "a zero byte at offset 0"},
      {"NaN", "invalid literal"},
      {"[nan]", "invalid literal"},
      {"Infinity", "invalid literal"},
      {"[-Infinity]", "invalid number"},
      {"1e999", "number overflow"},
      {"[-1e999]", "number overflow"},
      {std::string(400, '9'), "number overflow"},
      {"01", "expected end of input"},
      {"+1", "invalid literal"},
      {".5", "invalid literal"},
      {"1.", "invalid number"},
      {"1e", "invalid number"},
      {"0x10", "expected end of input"},
      {"-", "invalid number"},
      {"tru", "invalid literal"},
      {"True", "invalid literal"},
      {"\"abc", "missing closing quote"},
      {"\"\\x41\"", "forbidden character after backslash"},
      {"\"\\u12\"", "4 hex digits"},
      {"\"\\ud800\"", "surrogate"},
      {"\"\\ud800\\u0041\"", "surrogate"},
      {"\"\\udc00\"", "surrogate"},
      {"[\n\"a\nb\"]", "line 2, column 3: invalid JSON: invalid string: control character"},
      {"\"\xFF\"", "ill-formed UTF-8"},
      {"\"\xC0\x80\"", "ill-formed UTF-8"},
      {"\"\xED\xA0\x80\"", "ill-formed UTF-8"},
      {"\"\xF4\x90\x80\x80\"", "ill-formed UTF-8"},
      {"{\"\xE3\x81\":1}", "ill-formed UTF-8"},
      {"\xFF\xFE{}", "invalid"},
      {nested(65, "[", "]"), "x.json: JSON nested deeper than 64 levels"},
      {nested(65, "{\"a\":", "}"), "nested deeper than 64 levels"},
      {std::string(5'000'000, '['), "nested deeper than 64 levels"},
      {nested(100'000, "{\"a\":[", "]}"), "nested deeper than 64 levels"},
      {R"({"a":1,"a":1})", "x.json: key \"a\" twice in one object"},
      {R"({"a":1,"\u0061":2})", "key \"a\" twice in one object"},
      {R"([{"x":{"":0,"b":1,"":0}}])", "key \"\" twice in one object"},
      {"{\"" + std::string(1000, 'k') + "\":1,\"" + std::string(1000, 'k') + "\":1}",
       "kkk\"... twice"},
  };
  for (const Case& c : cases) {
    const std::string shown = PrintToString(c.text.substr(0, 60));
    const std::string error = error_of([&] { parse(c.text); });
    EXPECT_TRUE(error.starts_with("x.json: ")) << shown << ": " << error;
    EXPECT_NE(error.find(c.says), error.npos) << shown << ": " << error;
    EXPECT_EQ(error.find('\n'), error.npos) << shown << ": " << error;
    EXPECT_LT(error.size(), 300u) << shown << ": " << error;
  }
}

TEST(Json, LimitsDepthSizeAndNumberOfValues) {
  EXPECT_NO_THROW(parse(nested(64, "[", "]")));
  EXPECT_NO_THROW(parse(R"([{"a":{"a":1},"b":{"a":1}}])"));  // the same key elsewhere
  EXPECT_NO_THROW(parse_json("[1,2]", "x.json", 5));
  EXPECT_EQ(error_of([] { parse_json("[1,2]", "x.json", 4); }),
            "x.json: 5 bytes of JSON, at most 4 are read");
  std::string many = "[0";
  for (int i = 0; i < 1 << 23; ++i) many += ",0";
  EXPECT_EQ(error_of([&] { parse(many + "]"); }), "x.json: more than 8388608 JSON values");
}

TEST(Json, LargeObjectsTakeLinearTime) {
  std::string text = "{\"k\":0";
  const int n = 100'000;  // in quadratic time: half a minute
  for (int i = 0; i < n; ++i) text += fmt::format(",\"k{}\":{}", i, i);
  EXPECT_EQ(parse(text + "}").size(), n + 1u);
  EXPECT_EQ(error_of([&] { parse(text + ",\"k777\":1}"); }),
            "x.json: key \"k777\" twice in one object");
}

TEST(Json, ReadsFiles) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_json(folder.put("a.json", "\xEF\xBB\xBF{\"a\": 1}\r\n")), Json({{"a", 1}}));
  const std::string bad = folder.put("bad.json", "{\"a\": 1,\n \"b\" 2}");
  EXPECT_TRUE(error_of([&] { read_json(bad); }).starts_with(bad + ": line 2, column "));
  EXPECT_EQ(error_of([&] { read_json(folder / "none.json"); }),
            "cannot open " + folder / "none.json" + ": No such file or directory");
}

TEST(Json, SettingsAreBoundedBeforeTheyAreRead) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a.json", "[" + std::string(kMaxSettingsBytes, ' ') + "]");
  EXPECT_EQ(error_of([&] { read_json(path); }), path + ": longer than 1048576 bytes");
  EXPECT_EQ(read_json(path, kMaxJsonBytes), Json::array());
}

TEST(Json, GivesAwayMembersOneAfterAnother) {
  std::vector<std::string> seen;
  const auto read = [&](std::string_view text, size_t max_values = 4) {
    seen.clear();
    each_member(text, "x.json", max_values, [&](const std::string& key, Json&& value) {
      seen.push_back(key + "=" + to_line(value));
    });
  };
  read(R"({"b": [1, {"c": 2}], "a": {"x": {"y": []}}, "b": null, "": 7})");
  EXPECT_EQ(seen,
            (std::vector<std::string>{R"(b=[1,{"c":2}])", R"(a={"x":{"y":[]}})", "b=null", "=7"}));
  read("{}");
  EXPECT_TRUE(seen.empty());
  // The limit is one of each member.
  EXPECT_EQ(error_of([&] { read(R"({"a": [1, 2, 3], "b": [1, 2, 3, 4]})"); }),
            "x.json: more than 4 JSON values");
  EXPECT_EQ(seen, std::vector<std::string>{"a=[1,2,3]"});
  EXPECT_EQ(error_of([&] { read("[{\"a\": 1}]"); }), "x.json: expected an object, found a list");
  EXPECT_EQ(error_of([&] { read("7"); }), "x.json: expected an object, found 7");
  EXPECT_EQ(error_of([&] { read(R"({"a": {"b": 1, "b": 2}})"); }),
            "x.json: key \"b\" twice in one object");
  EXPECT_NE(error_of([&] { read(R"({"a": 1)"); }).find("invalid JSON"), std::string::npos);
}

TEST(Json, MembersAreTyped) {
  const Json json = parse(R"({"int": 7, "big": 9223372036854775808, "huge": 1e300, "small": -3,
      "real": 0.5, "whole": 2.0, "yes": true, "text": "abc", "none": null, "list": [1], "object": {},
      "beyond": 99999999999999999999})");
  EXPECT_EQ(get_int(json, "int", "f", 0, 7), 7);
  EXPECT_EQ(get_int(json, "small", "f", -3, 7), -3);
  EXPECT_EQ(get_int(json, "absent", "f", 0, 7, 5), 5);
  EXPECT_EQ(get_int(json, "none", "f", 0, 7, 5), 5);
  EXPECT_EQ(get_number(json, "real", "f"), 0.5);
  EXPECT_EQ(get_number(json, "int", "f"), 7.0);
  EXPECT_EQ(get_number(json, "big", "f"), 0x1p63);
  EXPECT_EQ(get_number(json, "absent", "f", 0.25), 0.25);
  EXPECT_TRUE(get_bool(json, "yes", "f"));
  EXPECT_FALSE(get_bool(json, "absent", "f", false));
  EXPECT_EQ(get_string(json, "text", "f"), "abc");
  EXPECT_EQ(get_string(json, "none", "f", "d"), "d");
  EXPECT_EQ(member(json, "list", "f"), Json({1}));
  EXPECT_EQ(find(json, "none"), nullptr);
  EXPECT_EQ(find(json, "absent"), nullptr);
  EXPECT_EQ(find(Json({1, 2}), "a"), nullptr);

  const auto int_error = [&](std::string_view key) {
    return error_of([&] { get_int(json, key, "f", 0, 8, 1); });
  };
  EXPECT_EQ(int_error("small"), "f: small: expected an integer from 0 to 8, found -3");
  EXPECT_EQ(int_error("big"), "f: big: expected an integer from 0 to 8, found 9223372036854775808");
  EXPECT_EQ(int_error("beyond"), "f: beyond: expected an integer from 0 to 8, found 1e+20");
  EXPECT_EQ(int_error("whole"), "f: whole: expected an integer from 0 to 8, found 2.0");
  EXPECT_EQ(int_error("text"), "f: text: expected an integer from 0 to 8, found \"abc\"");
  EXPECT_EQ(int_error("yes"), "f: yes: expected an integer from 0 to 8, found true");
  EXPECT_EQ(int_error("list"), "f: list: expected an integer from 0 to 8, found a list");
  EXPECT_EQ(error_of([&] { get_int(json, "none", "f", 0, 8); }), "f: none: missing");
  EXPECT_EQ(error_of([&] { get_number(json, "text", "f", 1.0); }),
            "f: text: expected a number, found \"abc\"");
  EXPECT_EQ(error_of([&] { get_bool(json, "int", "f"); }),
            "f: int: expected true or false, found 7");
  EXPECT_EQ(error_of([&] { get_string(json, "object", "f"); }),
            "f: object: expected a string, found an object");
  EXPECT_EQ(error_of([&] { member(json, "absent", "f"); }), "f: absent: missing");
  EXPECT_EQ(error_of([&] { get_int(Json({1}), "a", "f", 0, 8, 1); }),
            "f: a: expected an object with this key, found a list");
}

TEST(Json, QuotesForErrors) {
  EXPECT_EQ(quote("a\"b\nc\x01"), R"("a\"b\nc\u0001")");
  EXPECT_EQ(quote("\xFF"), "\"\uFFFD\"");
  EXPECT_EQ(quote(std::string(1000, 'x')), '"' + std::string(80, 'x') + "\"...");
  EXPECT_EQ(quote(std::string(79, 'x') + "あ").find("\n"),
            std::string::npos);  // cut inside a character
}

// Whatever is done to a valid text, the answer is a value or an Error.
TEST(Json, MutatedTextNeverDoesHarm) {
  const std::string valid =
      R"({"a": [1, 2.5e3, -7, true, null], "b": {"c": "x\u00e9\n\ud83d\ude00", "d": ""}, "e": 0.1})";
  const std::string parts = "{}[]\",:\\0123456789.eE+-utrfalsn \n\x80\xFF\xC3";
  Random random(mix_key(1, "json mutations"));
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = valid;
    for (uint64_t n = 1 + random.below(4); n > 0 && !text.empty(); --n) {
      const size_t at = random.below(text.size());
      switch (random.below(4)) {
        case 0:
          text[at] = static_cast<char>(random.below(256));
          break;
        case 1:
          text.erase(at, 1 + random.below(8));
          break;
        case 2:
          text.insert(at, 1 + random.below(3), parts[random.below(parts.size())]);
          break;
        default:
          text.insert(at, text.substr(random.below(text.size()), random.below(20)));
      }
    }
    try {
      const Json json = parse(text);
      EXPECT_EQ(parse(to_text(json)), json) << text;
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 300);
  EXPECT_LT(accepted, 10'000);
}

}  // namespace
}  // namespace refrain::io

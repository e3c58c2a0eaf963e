#include "cli/sample/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "cli/sample/calendar.h"
#include "cli/sample/numerals.h"
#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::cli {
namespace {

TEST(Numerals, EnglishNumbers) {
  EXPECT_EQ(english_number(0), "zero");
  EXPECT_EQ(english_number(13), "thirteen");
  EXPECT_EQ(english_number(40), "forty");
  EXPECT_EQ(english_number(99), "ninety nine");
  EXPECT_EQ(english_number(100), "one hundred");
  EXPECT_EQ(english_number(105), "one hundred five");
  EXPECT_EQ(english_number(105, true), "one hundred and five");
  EXPECT_EQ(english_number(2005, true), "two thousand and five");
  EXPECT_EQ(english_number(2000, true), "two thousand");
  EXPECT_EQ(english_number(21300), "twenty one thousand three hundred");
  EXPECT_EQ(english_number(999999, true),
            "nine hundred and ninety nine thousand nine hundred and ninety nine");
  EXPECT_EQ(english_ordinal(1), "first");
  EXPECT_EQ(english_ordinal(12), "twelfth");
  EXPECT_EQ(english_ordinal(30), "thirtieth");
  EXPECT_EQ(english_ordinal(42), "forty second");
  EXPECT_EQ(short_ordinal(1), "1st");
  EXPECT_EQ(short_ordinal(11), "11th");
  EXPECT_EQ(short_ordinal(22), "22nd");
  EXPECT_EQ(short_ordinal(13), "13th");
  EXPECT_EQ(short_ordinal(23), "23rd");
}

TEST(Numerals, EnglishYears) {
  EXPECT_EQ(english_year(1994), "nineteen ninety four");
  EXPECT_EQ(english_year(1905), "nineteen oh five");
  EXPECT_EQ(english_year(1900), "nineteen hundred");
  EXPECT_EQ(english_year(2000), "two thousand");
  EXPECT_EQ(english_year(2008), "two thousand eight");
  EXPECT_EQ(english_year(2015), "twenty fifteen");
  EXPECT_EQ(english_year(2015, true), "two thousand fifteen");
  EXPECT_EQ(english_digits("305"), "three zero five");
  EXPECT_EQ(english_digits("305", true), "three oh five");
}

TEST(Numerals, Japanese) {
  EXPECT_EQ(japanese_number(1), "一");
  EXPECT_EQ(japanese_number(10), "十");
  EXPECT_EQ(japanese_number(11), "十 一");
  EXPECT_EQ(japanese_number(110), "百 十");
  EXPECT_EQ(japanese_number(1111), "千 百 十 一");
  EXPECT_EQ(japanese_number(10000), "一 万");
  EXPECT_EQ(japanese_number(21300), "二 万 一 千 三 百");
  EXPECT_EQ(japanese_number(100001), "十 万 一");
  EXPECT_EQ(japanese_number(987654), "九 十 八 万 七 千 六 百 五 十 四");
  EXPECT_EQ(japanese_digits("1905"), "一 九 〇 五");
}

TEST(Calendar, HasOneAnswerPerText) {
  Random random(11);
  std::map<std::string, std::string> answers;
  for (int i = 0; i < 100'000; ++i) {
    const CalendarText text = cli::draw_calendar_text(random);
    ASSERT_EQ(answers.emplace(text.english, text.japanese).first->second, text.japanese)
        << text.english;
    for (const std::string& side : {text.english, text.japanese}) {
      ASSERT_FALSE(side.empty());
      ASSERT_EQ(side.find("  "), std::string::npos) << side;
      ASSERT_EQ(side.find_first_of("\t\n{}"), std::string::npos) << side;
      ASSERT_NE(side.front(), ' ') << side;
      ASSERT_NE(side.back(), ' ') << side;
    }
  }
  // Known readings, wherever they come up.
  const std::map<std::string, std::string> known = {
      {"noon", "正午"},
      {"half past noon", "午後 零 時 三 十 分"},
      {"quarter to midnight", "午後 十 一 時 四 十 五 分"},
      {"quarter to noon", "午前 十 一 時 四 十 五 分"},
      {"quarter past seven in the evening", "午後 七 時 十 五 分"},
      {"ten to six in the evening", "午後 五 時 五 十 分"},
      {"twelve oh five a.m.", "午前 零 時 五 分"},
      {"next tuesday", "来週 の 火曜日"},
      {"three weeks and two days", "三 週間 と 二 日"},
      {"march third", "三 月 三 日"},
      {"two thirds", "三 分 の 二"},
      {"two and a half hours", "二 時間 半"},
      {"the nineteen nineties", "一 九 九 〇 年代"},
      {"one dollar", "一 ドル"},
  };
  int met = 0;
  for (const auto& [english, japanese] : known) {
    if (!answers.contains(english)) continue;
    EXPECT_EQ(answers[english], japanese) << english;
    ++met;
  }
  EXPECT_GE(met, 12);
}

// "二 十 九" is 29.
int read_below_hundred(const std::vector<std::string>& words) {
  static const std::vector<std::string> digits = {"",   "一", "二", "三", "四",
                                                  "五", "六", "七", "八", "九"};
  int value = 0;
  for (const std::string& word : words) {
    if (word == "十")
      value = 10 * std::max(value, 1);
    else
      value += static_cast<int>(std::find(digits.begin(), digits.end(), word) - digits.begin());
  }
  return value;
}

TEST(Calendar, DatesHaveTheirRealWeekday) {
  const std::vector<std::string> weekdays = {"土曜日", "日曜日", "月曜日", "火曜日",
                                             "水曜日", "木曜日", "金曜日"};
  Random random(3);
  int met = 0;
  for (int i = 0; i < 50'000; ++i) {
    const std::string japanese = draw_calendar_text(random).japanese;
    std::istringstream in(japanese);
    std::vector<std::string> words, part;
    std::map<std::string, std::vector<std::string>> before;  // what stands before 年, 月, 日
    for (std::string word; in >> word; part.push_back(word)) {
      words.push_back(word);
      if (word == "年" || word == "月" || word == "日") {
        before[word] = part;
        part.clear();
        word.clear();
      }
    }
    const auto weekday = std::find(weekdays.begin(), weekdays.end(), words.back());
    if (before.size() != 3 || before["年"].size() != 4 || weekday == weekdays.end()) continue;
    std::erase(before["月"], "");
    std::erase(before["日"], "");
    int year = 0;
    for (const std::string& digit : before["年"])
      year = 10 * year + read_below_hundred({digit}) % 10;
    int month = read_below_hundred(before["月"]);
    const int day = read_below_hundred(before["日"]);
    if (month < 3) month += 12, --year;  // Zeller's congruence
    const int of_week =
        (day + 13 * (month + 1) / 5 + year + year / 4 - year / 100 + year / 400) % 7;
    EXPECT_EQ(of_week, weekday - weekdays.begin()) << japanese;
    ++met;
  }
  EXPECT_GT(met, 200);
}

TEST(Calendar, PartsShareNothing) {
  const SampleSet set = cli::calendar(1, {.train = 5000, .dev = 200, .test = 200});
  EXPECT_EQ(set.train.size(), 5000u);
  EXPECT_EQ(set.dev.size(), 200u);
  EXPECT_EQ(set.test.size(), 200u);
  std::set<std::string> english;
  std::map<std::string, const void*> part_of;
  std::set<std::string> train_words;
  for (const auto* part : {&set.train, &set.dev, &set.test}) {
    for (const auto& [source, target] : *part) {
      EXPECT_TRUE(english.insert(source).second) << source;
      EXPECT_EQ(part_of.emplace(target, part).first->second, part) << target;
    }
  }
  // The same for another seed: its training rows are nobody's test rows.
  const SampleSet other = cli::calendar(2, {.train = 5000, .dev = 0, .test = 0});
  for (const auto& [source, target] : other.train) {
    const auto found = part_of.find(target);
    EXPECT_TRUE(found == part_of.end() || found->second == &set.train) << target;
  }
}

TEST(Calendar, IsAFunctionOfTheSeed) {
  const SampleSizes sizes{.train = 300, .dev = 30, .test = 30};
  const SampleSet a = cli::calendar(1, sizes), b = cli::calendar(1, sizes);
  EXPECT_EQ(a.train, b.train);
  EXPECT_EQ(a.dev, b.dev);
  EXPECT_EQ(a.test, b.test);
  EXPECT_NE(a.train, calendar(2, sizes).train);
  uint64_t hash = 0;
  for (const auto& [source, target] : a.train) hash = mix_key(hash, source + "|" + target);
  EXPECT_EQ(hash, 17553084790495059086u)
      << "the data of seed 1 changed: results on it can no longer be compared";
}

TEST(Calendar, WritesParallelFiles) {
  const TemporaryFolder folder;
  const SampleSet set = cli::calendar(4, {.train = 50, .dev = 5, .test = 6});
  write_pairs(set, folder / "a/b");
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "a/b"))
    names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"train.en", "train.ja", "dev.en", "dev.ja", "test.en",
                                          "test.ja"}));
  std::string english, japanese;
  for (const auto& [source, target] : set.test) {
    english += source + "\n";
    japanese += target + "\n";
  }
  EXPECT_EQ(io::read_file(folder / "a/b/test.en"), english);
  EXPECT_EQ(io::read_file(folder / "a/b/test.ja"), japanese);
}

TEST(Calendar, SaysWhenItHasNoMoreTexts) {
  EXPECT_NE(error_of([] { calendar(1, {.train = -1}); }).find("-1 rows"), std::string::npos);
  EXPECT_NE(error_of([] { calendar(1, {.train = 2'000'000}); }).find("0 to 1000000"),
            std::string::npos);
}

}  // namespace
}  // namespace refrain::cli

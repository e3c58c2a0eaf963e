// The words and phrases of the calendar data, English and Japanese side by side.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace refrain::cli::lexicon {

struct Word {
  std::string_view english, japanese;
};

// What is said around a text: "{} stands for it" in both languages.
struct Frame {
  std::string_view english, japanese;
};

inline constexpr std::array<std::string_view, 13> kMonths = {
    "",     "january", "february",  "march",   "april",    "may",     "june",
    "july", "august",  "september", "october", "november", "december"};

inline constexpr std::array<Word, 7> kWeekdays = {{{"sunday", "日曜日"},
                                                   {"monday", "月曜日"},
                                                   {"tuesday", "火曜日"},
                                                   {"wednesday", "水曜日"},
                                                   {"thursday", "木曜日"},
                                                   {"friday", "金曜日"},
                                                   {"saturday", "土曜日"}}};

inline constexpr std::array<Word, 4> kSeasons = {
    {{"spring", "春"}, {"summer", "夏"}, {"autumn", "秋"}, {"winter", "冬"}}};

inline constexpr std::array<Word, 4> kDayParts = {
    {{"morning", "朝"}, {"afternoon", "午後"}, {"evening", "夕方"}, {"night", "夜"}}};

inline constexpr std::array<Word, 5> kDays = {{{"today", "今日"},
                                               {"tomorrow", "明日"},
                                               {"yesterday", "昨日"},
                                               {"the day after tomorrow", "明後日"},
                                               {"the day before yesterday", "一昨日"}}};

inline constexpr std::array<Word, 3> kWeeks = {
    {{"this", "今週"}, {"next", "来週"}, {"last", "先週"}}};
inline constexpr std::array<Word, 3> kRelativeMonths = {
    {{"this month", "今月"}, {"next month", "来月"}, {"last month", "先月"}}};
inline constexpr std::array<Word, 3> kYears = {
    {{"this year", "今年"}, {"next year", "来年"}, {"last year", "去年"}}};

inline constexpr std::array<Word, 5> kNth = {{{"first", "第 一"},
                                              {"second", "第 二"},
                                              {"third", "第 三"},
                                              {"fourth", "第 四"},
                                              {"last", "最後 の"}}};

struct Unit {
  std::string_view one, many, japanese;
  int64_t most;  // of them alone
  int64_t rest;  // of them beside the next larger unit
};
// Ascending.
inline constexpr std::array<Unit, 7> kUnits = {{{"second", "seconds", "秒", 59, 59},
                                                {"minute", "minutes", "分", 59, 59},
                                                {"hour", "hours", "時間", 47, 23},
                                                {"day", "days", "日", 30, 6},
                                                {"week", "weeks", "週間", 12, 4},
                                                {"month", "months", "か月", 24, 11},
                                                {"year", "years", "年", 99, 0}}};

struct Thing {
  std::string_view one, many, japanese;
};
inline constexpr std::array<Thing, 20> kThings = {
    {{"person", "people", "人"},
     {"student", "students", "人 の 学生"},
     {"child", "children", "人 の 子供"},
     {"book", "books", "冊 の 本"},
     {"cat", "cats", "匹 の 猫"},
     {"dog", "dogs", "匹 の 犬"},
     {"bird", "birds", "羽 の 鳥"},
     {"car", "cars", "台 の 車"},
     {"bicycle", "bicycles", "台 の 自転車"},
     {"house", "houses", "軒 の 家"},
     {"letter", "letters", "通 の 手紙"},
     {"ticket", "tickets", "枚 の 切符"},
     {"sheet of paper", "sheets of paper", "枚 の 紙"},
     {"cup of tea", "cups of tea", "杯 の お茶"},
     {"apple", "apples", "個 の りんご"},
     {"egg", "eggs", "個 の 卵"},
     {"time", "times", "回"},
     {"page", "pages", "ページ"},
     {"kilometer", "kilometers", "キロメートル"},
     {"kilogram", "kilograms", "キログラム"}}};

struct Currency {
  std::string_view one, many, japanese;
  std::string_view cent, cents, japanese_cents;  // none: empty
};
inline constexpr std::array<Currency, 4> kCurrencies = {
    {{"yen", "yen", "円", "", "", ""},
     {"dollar", "dollars", "ドル", "cent", "cents", "セント"},
     {"euro", "euros", "ユーロ", "cent", "cents", "セント"},
     {"pound", "pounds", "ポンド", "penny", "pence", "ペンス"}}};

inline constexpr std::array<Frame, 4> kAmounts = {{{"about {}", "約 {}"},
                                                   {"at least {}", "{} 以上"},
                                                   {"at most {}", "{} 以下"},
                                                   {"less than {}", "{} 未満"}}};

inline constexpr std::array<Frame, 4> kBounds = {{{"by {}", "{} まで に"},
                                                  {"until {}", "{} まで"},
                                                  {"since {}", "{} から"},
                                                  {"before {}", "{} より 前"}}};

inline constexpr std::array<Frame, 7> kSpans = {{{"{} ago", "{} 前"},
                                                 {"in {}", "{} 後"},
                                                 {"{} from now", "{} 後"},
                                                 {"within {}", "{} 以内"},
                                                 {"every {}", "{} ごと"},
                                                 {"{} late", "{} 遅れ"},
                                                 {"we waited for {}", "{} 待ち まし た"}}};

inline constexpr std::array<Frame, 8> kAtTimes = {
    {{"it is {}", "今 は {} です"},
     {"the meeting is at {}", "会議 は {} です"},
     {"the train leaves at {}", "電車 は {} に 出 ます"},
     {"the train arrives at {}", "電車 は {} に 着き ます"},
     {"the shop opens at {}", "店 は {} に 開き ます"},
     {"the shop closes at {}", "店 は {} に 閉まり ます"},
     {"please come at {}", "{} に 来 て ください"},
     {"i got up at {}", "{} に 起き まし た"}}};

inline constexpr std::array<Frame, 4> kOnDays = {
    {{"the exam is on {}", "試験 は {} です"},
     {"the wedding is on {}", "結婚式 は {} です"},
     {"we met on {}", "{} に 会い まし た"},
     {"he was born on {}", "彼 は {} に 生まれ まし た"}}};

inline constexpr std::array<Frame, 6> kPrices = {{{"{} each", "一つ {}"},
                                                  {"{} a person", "一人 {}"},
                                                  {"{} a day", "一日 {}"},
                                                  {"{} a kilo", "一キロ {}"},
                                                  {"it costs {}", "値段 は {} です"},
                                                  {"i paid {}", "{} 払い まし た"}}};

inline constexpr std::array<Frame, 3> kPartsOfTime = {
    {{"the early {}", "{} 初め"}, {"the mid {}", "{} 半ば"}, {"the late {}", "{} 終わり"}}};

inline constexpr std::array<Frame, 3> kPartsOfMonth = {
    {{"early {}", "{} 上旬"}, {"mid {}", "{} 中旬"}, {"late {}", "{} 下旬"}}};

inline constexpr std::array<Frame, 6> kNumbered = {{{"page {}", "{} ページ"},
                                                    {"chapter {}", "第 {} 章"},
                                                    {"lesson {}", "第 {} 課"},
                                                    {"volume {}", "第 {} 巻"},
                                                    {"platform {}", "{} 番線"},
                                                    {"bus {}", "{} 番 の バス"}}};

inline constexpr std::array<Frame, 8> kOrdered = {{{"the {} time", "{} 回 目"},
                                                   {"the {} day", "{} 日 目"},
                                                   {"the {} week", "{} 週 目"},
                                                   {"the {} year", "{} 年 目"},
                                                   {"the {} person", "{} 人 目"},
                                                   {"the {} floor", "{} 階"},
                                                   {"{} place", "{} 位"},
                                                   {"the {} one", "{} 番 目"}}};

inline constexpr std::array<Frame, 4> kSigns = {{{"{} plus {}", "{} 足す {}"},
                                                 {"{} minus {}", "{} 引く {}"},
                                                 {"{} times {}", "{} 掛ける {}"},
                                                 {"{} divided by {}", "{} 割る {}"}}};

}  // namespace refrain::cli::lexicon

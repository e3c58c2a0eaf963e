#include "cli/sample/calendar.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>

#include "cli/sample/lexicon.h"
#include "cli/sample/numerals.h"

namespace refrain::cli {
namespace {

using namespace lexicon;
using Text = CalendarText;

// One draw after another from the same random numbers.
class Grammar {
 public:
  explicit Grammar(Random& random) : random_(random) {}
  Text text();

 private:
  int64_t between(int64_t low, int64_t high) {  // both included
    return low + static_cast<int64_t>(random_.below(static_cast<uint64_t>(high - low + 1)));
  }
  bool chance(int percent) { return between(1, 100) <= percent; }
  template <class T, size_t n>
  const T& pick(const std::array<T, n>& from) {
    return from[random_.below(n)];
  }
  // The text is drawn before its frame: the order of draws is part of what a seed means.
  template <size_t n>
  Text framed(const std::array<Frame, n>& frames, const Text& in) {
    return fill(pick(frames), in);
  }
  template <class... T>
  static Text fill(const Frame& frame, const T&... in) {
    return {fmt::format(fmt::runtime(frame.english), in.english...),
            fmt::format(fmt::runtime(frame.japanese), in.japanese...)};
  }

  int64_t of_any_length(int digits);
  Text number(int digits);
  std::string any_digits(int count);

  Text year();
  Text month();
  Text day_of_month(int64_t month, int64_t day);
  Text date();
  Text full_date();
  Text near_day();
  Text near_weekday();
  Text special_day();
  Text clock();
  Text hour_and_minute(int64_t hour, int64_t minute, bool afternoon);
  Text count(int64_t n, std::string_view one, std::string_view many, std::string_view japanese);
  Text duration();
  Text price();
  Text era();
  Text quantity();
  Text fraction();
  Text digits();
  Text range();

  Random& random_;
};

// Short numbers as often as long ones.
int64_t Grammar::of_any_length(int digits) {
  int64_t above = 1;
  for (int64_t i = between(1, digits); i > 0; --i) above *= 10;
  return between(above / 10, above - 1);
}

Text Grammar::number(int digits) {
  const int64_t n = of_any_length(digits);
  return {english_number(n, chance(30)), japanese_number(n)};
}

std::string Grammar::any_digits(int count) {
  std::string digits;
  while (count-- > 0) digits += static_cast<char>('0' + between(0, 9));
  return digits;
}

Text Grammar::year() {
  const int64_t year = between(1800, 2099);
  return {english_year(year, chance(30)), japanese_digits(fmt::format("{}", year)) + " 年"};
}

Text Grammar::month() {
  const int64_t month = between(1, 12);
  return {std::string(kMonths[static_cast<size_t>(month)]), japanese_number(month) + " 月"};
}

Text Grammar::day_of_month(int64_t month, int64_t day) {
  const std::string_view name = kMonths[static_cast<size_t>(month)];
  const std::string ordinal = english_ordinal(day), digits = short_ordinal(day);
  const std::array<std::string, 6> wordings = {
      fmt::format("the {} of {}", ordinal, name), fmt::format("{} {}", name, ordinal),
      fmt::format("{} the {}", name, ordinal),    fmt::format("the {} of {}", digits, name),
      fmt::format("{} {}", name, digits),         fmt::format("{} {}", day, name)};
  return {pick(wordings), fmt::format("{} 月 {} 日", japanese_number(month), japanese_number(day))};
}

Text Grammar::date() {
  constexpr std::array<int64_t, 13> kLengths = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const int64_t month = between(1, 12);
  return day_of_month(month, between(1, kLengths[static_cast<size_t>(month)]));
}

// With a year, and sometimes with the weekday it really was.
Text Grammar::full_date() {
  namespace chrono = std::chrono;
  const chrono::sys_days first = chrono::year(1800) / 1 / 1;
  const chrono::sys_days last = chrono::year(2099) / 12 / 31;
  const chrono::sys_days at = first + chrono::days(between(0, (last - first).count()));
  const chrono::year_month_day ymd(at);
  const Text day =
      day_of_month(static_cast<unsigned>(ymd.month()), static_cast<unsigned>(ymd.day()));
  const int year = static_cast<int>(ymd.year());
  Text date{fmt::format("{} , {}", day.english, english_year(year, chance(30))),
            fmt::format("{} 年 {}", japanese_digits(fmt::format("{}", year)), day.japanese)};
  if (chance(20)) {
    const Word& name = kWeekdays[chrono::weekday(at).c_encoding()];
    date.english = fmt::format("{} , {}", name.english, date.english);
    date.japanese += fmt::format(" {}", name.japanese);
  }
  return date;
}

// Days as seen from today.
Text Grammar::near_day() {
  switch (between(0, 3)) {
    case 0: {
      const Word& day = pick(kDays);
      return {std::string(day.english), std::string(day.japanese)};
    }
    case 1: {
      const Word& month = pick(kRelativeMonths);
      const int64_t day = between(1, 31);
      return {fmt::format("the {} of {}", english_ordinal(day), month.english),
              fmt::format("{} の {} 日", month.japanese, japanese_number(day))};
    }
    case 2: {
      const Word& year = pick(kYears);
      const Text day = date();
      return {fmt::format("{} of {}", day.english, year.english),
              fmt::format("{} {}", year.japanese, day.japanese)};
    }
    default:
      return near_weekday();
  }
}

Text Grammar::near_weekday() {
  const Word &week = pick(kWeeks), &weekday = pick(kWeekdays);
  return {fmt::format("{} {}", week.english, weekday.english),
          fmt::format("{} の {}", week.japanese, weekday.japanese)};
}

// Days named by their place in a month.
Text Grammar::special_day() {
  Text month = this->month();
  if (chance(60)) {
    const Text year = this->year();
    month = {fmt::format("{} , {}", month.english, year.english),
             fmt::format("{} {}", year.japanese, month.japanese)};
  }
  switch (between(0, 3)) {
    case 0:
      return framed(kPartsOfMonth, month);
    case 1:
      return fill(
          chance(50) ? Frame{"the end of {}", "{} 末"} : Frame{"the beginning of {}", "{} 初め"},
          month);
    default: {
      const Word &nth = pick(kNth), &weekday = pick(kWeekdays);
      return {fmt::format("the {} {} of {}", nth.english, weekday.english, month.english),
              fmt::format("{} の {} {}", month.japanese, nth.japanese, weekday.japanese)};
    }
  }
}

// A time of day; hours from 0 to 11, as they are counted in Japanese.
Text Grammar::clock() {
  if (chance(2)) return chance(50) ? Text{"noon", "正午"} : Text{"midnight", "午前 零 時"};
  // Every five minutes more often than the others.
  const int64_t minute = chance(30) ? 0 : chance(70) ? 5 * between(1, 11) : between(1, 59);
  const int64_t hour = between(0, 11);
  return hour_and_minute(hour, minute, chance(50));
}

Text Grammar::hour_and_minute(int64_t hour, int64_t minute, bool afternoon) {
  Text time;
  time.japanese = fmt::format("{} {} 時", afternoon ? "午後" : "午前",
                              hour == 0 ? "零" : japanese_number(hour));
  if (minute > 0) time.japanese += fmt::format(" {} 分", japanese_number(minute));

  // How long past an hour, or to the next; and that hour, from 0 to 12.
  const bool to = minute > 30 && chance(50);
  const int64_t away = to ? 60 - minute : minute;
  const int64_t named = hour + (to ? 1 : 0);
  std::string apart;
  if (minute > 0) {
    const std::string amount = away == 15 ? "quarter" : away == 30 ? "half" : english_number(away);
    apart = fmt::format("{} {} ", amount, to ? "to" : "past");
  }
  const std::string twelve = afternoon == (named == 0) ? "noon" : "midnight";
  if (minute > 0 && (to ? named == 12 : named == 0 && minute <= 30 && chance(50))) {
    time.english = apart + twelve;
    return time;
  }

  // Which half of the day: by its part, where that is plain, or by letters.
  std::string_view part = "in the morning";
  if (afternoon) part = named < 6 ? "in the afternoon" : named < 9 ? "in the evening" : "at night";
  const bool by_part = hour > 0 && chance(60);
  const std::string half = by_part ? std::string(part) : afternoon ? "p.m." : "a.m.";
  const int64_t shown = hour == 0 ? 12 : hour;
  if (minute == 0) {
    time.english = chance(by_part ? 70 : 0)
                       ? fmt::format("{} o'clock {}", english_number(shown), half)
                       : fmt::format("{} {}", english_number(shown), half);
  } else if (by_part && (to || (minute <= 30 && chance(60)))) {
    time.english = fmt::format("{}{} {}", apart, english_number(named), half);
  } else if (chance(70)) {
    time.english = fmt::format("{} {}{} {}", english_number(shown), minute < 10 ? "oh " : "",
                               english_number(minute), half);
  } else {
    time.english = fmt::format("{} : {:02} {}", shown, minute, half);
  }
  return time;
}

Text Grammar::count(int64_t n, std::string_view one, std::string_view many,
                    std::string_view japanese) {
  return {fmt::format("{} {}", english_number(n), n == 1 ? one : many),
          fmt::format("{} {}", japanese_number(n), japanese)};
}

Text Grammar::duration() {
  const size_t i = random_.below(kUnits.size());
  const Unit& unit = kUnits[i];
  const int64_t n = between(1, unit.most);
  Text whole = count(n, unit.one, unit.many, unit.japanese);
  if (n == 1 && chance(50)) whole.english = fmt::format("{} {}", i == 2 ? "an" : "a", unit.one);
  if (n < 10 && i >= 2 && i != 3 && chance(15))
    return {fmt::format("{} and a half {}", english_number(n), unit.many), whole.japanese + " 半"};
  if (i == 0 || chance(40)) return whole;
  const Unit& lesser = kUnits[i - 1];
  const Text rest = count(between(1, lesser.rest), lesser.one, lesser.many, lesser.japanese);
  return fill({"{} and {}", "{} と {}"}, whole, rest);
}

Text Grammar::price() {
  const Currency& money = pick(kCurrencies);
  if (money.cent.empty()) {
    const Text amount = number(6);
    return fill({"{} yen", "{} 円"}, amount);
  }
  if (chance(10)) return count(between(1, 99), money.cent, money.cents, money.japanese_cents);
  const int64_t n = of_any_length(3);
  const Text whole = count(n, money.one, money.many, money.japanese);
  if (chance(30)) return whole;
  const Text rest = count(between(1, 99), money.cent, money.cents, money.japanese_cents);
  return fill({"{} and {}", "{} {}"}, whole, rest);
}

// Years, decades, centuries, seasons.
Text Grammar::era() {
  switch (between(0, 5)) {
    case 0: {
      const Text year = this->year();
      return fill(chance(50) ? Frame{"the year {}", "{}"} : Frame{"in {}", "{} に"}, year);
    }
    case 1: {
      const int64_t tens = between(1, 9), century = between(18, 19);
      const std::string plural = english_number(10 * tens);
      const Text decade{
          fmt::format("{} {}", english_number(century),
                      tens == 1 ? "tens" : plural.substr(0, plural.size() - 1) + "ies"),
          japanese_digits(fmt::format("{}{}0", century, tens)) + " 年代"};
      return chance(50) ? framed(kPartsOfTime, decade) : fill({"the {}", "{}"}, decade);
    }
    case 2: {
      const int64_t n = between(1, 30);
      const Text century{english_ordinal(n) + " century", japanese_number(n) + " 世紀"};
      return chance(70) ? framed(kPartsOfTime, century) : fill({"the {}", "{}"}, century);
    }
    case 3: {
      const Word& season = pick(kSeasons);
      Text year;
      if (chance(15)) {
        const Word& near = pick(kYears);
        year = {std::string(near.english), std::string(near.japanese)};
      } else {
        year = this->year();
      }
      return {fmt::format("the {} of {}", season.english, year.english),
              fmt::format("{} の {}", year.japanese, season.japanese)};
    }
    case 4: {
      const Text month = this->month(), year = this->year();
      return {fmt::format("{} , {}", month.english, year.english),
              fmt::format("{} {}", year.japanese, month.japanese)};
    }
    default:
      return fill({"{} b.c.", "紀元前 {} 年"}, number(4));
  }
}

// Counted things, ages, places in an order.
Text Grammar::quantity() {
  switch (between(0, 4)) {
    case 0:
    case 1: {
      const Thing& thing = pick(kThings);
      const Text counted = count(of_any_length(5), thing.one, thing.many, thing.japanese);
      return chance(30) ? framed(kAmounts, counted) : counted;
    }
    case 2: {
      const int64_t n = between(1, 99);
      return framed(kOrdered, Text{english_ordinal(n), japanese_number(n)});
    }
    case 3:
      return framed(kNumbered, number(3));
    default: {
      const int64_t n = between(1, 99);
      return n == 1 ? Text{"one year old", "一 歳"}
                    : fill({"{} years old", "{} 歳"}, Text{english_number(n), japanese_number(n)});
    }
  }
}

Text Grammar::fraction() {
  switch (between(0, 3)) {
    case 0: {
      const int64_t below = between(3, 20), above = between(1, below - 1);
      const std::string part = below == 4 && chance(50) ? "quarter" : english_ordinal(below);
      return {fmt::format("{} {}{}", english_number(above), part, above > 1 ? "s" : ""),
              fmt::format("{} 分 の {}", japanese_number(below), japanese_number(above))};
    }
    case 1: {
      const Text left = number(3), right = number(3);
      return fill(pick(kSigns), left, right);
    }
    default: {
      const int64_t whole = between(0, 99);
      const std::string digits = any_digits(static_cast<int>(between(1, 3)));
      const Text decimal{
          fmt::format("{} point {}", english_number(whole), english_digits(digits)),
          fmt::format("{} 点 {}", whole ? japanese_number(whole) : "〇", japanese_digits(digits))};
      constexpr std::array<Frame, 3> kWithUnit = {
          {{"{}", "{}"}, {"{} percent", "{} パーセント"}, {"{} degrees", "{} 度"}}};
      const Text measured = framed(kWithUnit, decimal);
      return chance(20) ? fill({"minus {}", "マイナス {}"}, measured) : measured;
    }
  }
}

// Digits that are read one by one.
Text Grammar::digits() {
  constexpr std::array<Frame, 4> kNames = {{{"room {}", "{} 号室"},
                                            {"flight {}", "{} 便"},
                                            {"extension {}", "内線 {}"},
                                            {"code {}", "番号 {}"}}};
  if (chance(30)) {
    const std::string first = any_digits(3), second = any_digits(4);
    const bool oh = chance(50);
    return {fmt::format("phone {} , {}", english_digits(first, oh), english_digits(second, oh)),
            fmt::format("電話 {} の {}", japanese_digits(first), japanese_digits(second))};
  }
  const std::string digits = any_digits(static_cast<int>(between(3, 4)));
  return framed(kNames, Text{english_digits(digits, chance(50)), japanese_digits(digits)});
}

// From one thing to another of its kind.
Text Grammar::range() {
  constexpr Frame kFromTo = {"from {} to {}", "{} から {} まで"};
  switch (between(0, 4)) {
    case 0: {
      const Word &from = pick(kWeekdays), &to = pick(kWeekdays);
      return fill(kFromTo, from, to);
    }
    case 1: {
      const Text from = month(), to = month();
      return fill(kFromTo, from, to);
    }
    case 2: {
      const Text from = year(), to = year();
      return fill(kFromTo, from, to);
    }
    case 3: {
      const Text from = date(), to = date();
      return fill(kFromTo, from, to);
    }
    default: {
      const Text from = clock(), to = clock();
      return fill(kFromTo, from, to);
    }
  }
}

Text Grammar::text() {
  switch (between(0, 19)) {
    case 0:
    case 1:
      return chance(25) ? framed(kOnDays, full_date()) : full_date();
    case 2:
      return chance(40) ? framed(kOnDays, date()) : date();
    case 3:
      return chance(30) ? framed(kBounds, special_day()) : special_day();
    case 4: {
      if (chance(70)) return near_day();
      if (chance(80)) return framed(kBounds, near_day());
      const Word& weekday = pick(kWeekdays);
      return {fmt::format("every {}", weekday.english), fmt::format("毎週 {}", weekday.japanese)};
    }
    case 5: {
      if (chance(40)) {
        const Text day = near_weekday();
        const Word& part = pick(kDayParts);
        return {fmt::format("{} {}", day.english, part.english),
                fmt::format("{} の {}", day.japanese, part.japanese)};
      }
      const Text day = chance(60) ? near_day() : date();
      const Text time = clock();
      return fill({"{} at {}", "{} {}"}, day, time);
    }
    case 6:
    case 7:
      return clock();
    case 8:
      return framed(kAtTimes, clock());
    case 9:
      return chance(30) ? framed(kAmounts, duration()) : duration();
    case 10:
      return framed(kSpans, duration());
    case 11:
    case 12:
      return number(6);
    case 13:
    case 14:
      return chance(15) ? framed(kAmounts, price()) : price();
    case 15:
      return framed(kPrices, price());
    case 16:
      return era();
    case 17:
      return quantity();
    case 18:
      return chance(50) ? fraction() : digits();
    default:
      return range();
  }
}

}  // namespace

CalendarText draw_calendar_text(Random& random) { return Grammar(random).text(); }

}  // namespace refrain::cli

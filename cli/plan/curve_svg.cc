#include "cli/plan/curve_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace refrain::cli {
namespace {

constexpr double kWidth = 640, kHeight = 360;
constexpr double kLeft = 70, kRight = 20, kTop = 20, kBottom = 50;

// From 0 to a round number of round steps.
struct Axis {
  Axis(double largest, double first_pixel, double last_pixel) : from(first_pixel), to(last_pixel) {
    const double rough = std::max(largest, 1e-9) / 5;
    const double power = std::pow(10, std::floor(std::log10(rough)));
    for (const double round : {1.0, 2.0, 5.0, 10.0})
      if ((step = round * power) >= rough) break;
    end = std::ceil(largest / step) * step;
  }
  double pixel(double value) const { return from + (to - from) * value / end; }
  double from, to, step = 1, end = 1;
};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

}  // namespace

std::string curve_svg(const std::vector<CurvePoint>& points, const std::string& x_label,
                      const std::string& y_label) {
  double most_x = 0, most_y = 0;
  for (const CurvePoint& p : points) {
    most_x = std::max(most_x, p.x);
    most_y = std::max(most_y, p.y);
  }
  const Axis x(most_x * 1.05, kLeft, kWidth - kRight), y(most_y * 1.05, kHeight - kBottom, kTop);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kWidth, kHeight);
  for (double value = 0; value <= x.end * (1 + 1e-9); value += x.step)
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#ddd\"/>\n"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:g}</text>\n",
        x.pixel(value), kTop, kHeight - kBottom, kHeight - kBottom + 18, value);
  for (double value = 0; value <= y.end * (1 + 1e-9); value += y.step)
    svg += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>\n"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:g}</text>\n",
        kLeft, kWidth - kRight, y.pixel(value), kLeft - 8, y.pixel(value) + 4, value);
  svg += fmt::format(
      "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n"
      "<text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      (kLeft + kWidth - kRight) / 2, kHeight - 12, escaped(x_label), (kTop + kHeight - kBottom) / 2,
      escaped(y_label));
  std::string path;
  for (size_t i = 0; i < points.size(); ++i) {
    path += i == 0 ? fmt::format("M {:.1f}", x.pixel(points[i].x))
                   : fmt::format(" H {:.1f}", x.pixel(points[i].x));
    path += i == 0 ? fmt::format(" {:.1f}", y.pixel(points[i].y))
                   : fmt::format(" V {:.1f}", y.pixel(points[i].y));
  }
  if (!points.empty()) path += fmt::format(" H {:.1f}", x.to);
  svg +=
      fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"#1b6ca8\" stroke-width=\"2\"/>\n", path);
  for (const CurvePoint& p : points)
    svg += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"#1b6ca8\"><title>{}</title>"
        "</circle>\n",
        x.pixel(p.x), y.pixel(p.y), escaped(p.label));
  return svg + "</svg>\n";
}

}  // namespace refrain::cli

// A curve as an SVG picture.
#pragma once
#include <string>
#include <vector>

namespace refrain::cli {

struct CurvePoint {
  double x, y;
  std::string label;  // shown beside it when the pointer rests there
};

// Points by ascending x, joined by steps: a value holds until the next. Axes begin at 0.
std::string curve_svg(const std::vector<CurvePoint>&, const std::string& x_label,
                      const std::string& y_label);

}  // namespace refrain::cli

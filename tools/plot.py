#!/usr/bin/env python3
"""Draws lines of a CSV file as an SVG picture for the docs.

usage: plot.py [--x LABEL] [--y LABEL] [--log-x] [--log-y] [--columns NAME,X,Y] < CSV > SVG

A row of the CSV is a point; --columns says which columns (from 0) hold the line's name, x and y.
"""
import argparse
import csv
import math
import sys

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 20, 50
COLOURS = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#444444", "#0f8b8d"]


class Axis:
    """Maps values to pixels; chooses round marks."""

    def __init__(self, values, log, first_pixel, last_pixel):
        self.log, self.first, self.last = log, first_pixel, last_pixel
        low, high = min(values), max(values)
        if log:
            self.low, self.high = math.floor(math.log10(low)), math.ceil(math.log10(high))
            self.high = max(self.high, self.low + 1)
            self.marks = [10.0**e for e in range(self.low, self.high + 1)]
        else:
            step = self.round_step((high - low or abs(high) or 1) / 5)
            self.low, self.high = math.floor(low / step) * step, math.ceil(high / step) * step
            if self.high == self.low:
                self.high += step
            self.marks = [self.low + i * step
                          for i in range(round((self.high - self.low) / step) + 1)]

    @staticmethod
    def round_step(rough):
        power = 10.0**math.floor(math.log10(rough))
        return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)

    def pixel(self, value):
        at = math.log10(value) if self.log else value
        share = (at - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)


def text_of(number):
    if number and (abs(number) >= 1e5 or abs(number) < 1e-2):
        return f"{number:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{number:g}"


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def draw(lines, args):
    points = [p for line in lines.values() for p in line]
    x = Axis([p[0] for p in points], args.log_x, LEFT, WIDTH - RIGHT)
    y = Axis([p[1] for p in points], args.log_y, HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for mark in x.marks:
        at = x.pixel(mark)
        out.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" '
                   'stroke="#ddd"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                   f'{text_of(mark)}</text>')
    for mark in y.marks:
        at = y.pixel(mark)
        out.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" '
                   'stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
                   f'{text_of(mark)}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
               f'{escape(args.x)}</text>')
    out.append(f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
               f'text-anchor="middle">{escape(args.y)}</text>')
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x.pixel(a):.1f},{y.pixel(b):.1f}" for a, b in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for a, b in line if len(line) <= 20 else []:
            out.append(f'<circle cx="{x.pixel(a):.1f}" cy="{y.pixel(b):.1f}" r="3" '
                       f'fill="{colour}"/>')
        at = TOP + 14 + 18 * i
        out.append(f'<line x1="{WIDTH - RIGHT + 12}" y1="{at - 4}" x2="{WIDTH - RIGHT + 32}" '
                   f'y2="{at - 4}" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 38}" y="{at}">{escape(name)}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--x", default="")
    parser.add_argument("--y", default="")
    parser.add_argument("--log-x", action="store_true")
    parser.add_argument("--log-y", action="store_true")
    parser.add_argument("--columns", default="0,1,2")
    args = parser.parse_args()
    name, x, y = (int(c) for c in args.columns.split(","))
    lines = {}
    for row in csv.reader(sys.stdin):
        if row:
            lines.setdefault(row[name], []).append((float(row[x]), float(row[y])))
    if not lines:
        sys.exit("plot.py: no points on standard input")
    sys.stdout.write(draw(lines, args))


if __name__ == "__main__":
    main()

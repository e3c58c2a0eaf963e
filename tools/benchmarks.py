#!/usr/bin/env python3
"""Puts the summaries of the machines' pages (docs/benchmarks/*.md, made by
bench/rivals/pytorch/table.py --page) into the table that docs/benchmarks.md opens with.

usage: benchmarks.py [--check]

--check writes nothing: it fails when the table is not what the pages make.
"""
import argparse
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- tools/benchmarks.py -->\n", "<!-- end -->\n"
HEAD = ("| work | machine | refrain, tokens/s | PyTorch's best, tokens/s | ratio | memory, of PyTorch's | "
        "command |\n|---|---|---:|---:|---:|---:|---|\n")


class Page:
    """A machine's: its name, the command that made it, and (work, ours, theirs, ratio, memory)."""

    def __init__(self, path):
        text = path.read_text()
        self.path = path
        self.machine = re.search(r"\n\n([^\n]*?), \d+ cores, ([^;]*);", text)
        self.rows = []
        for line in text.split("\n### ")[0].splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 7 and re.match(r"[\d,]+ \(", cells[1]):
                self.rows.append((cells[0], cells[1], cells[2], cells[3], cells[6]))

    def name(self):
        units = self.machine[2].split(", ")
        best = next((u for u in ("AMX", "AVX512-BF16", "VNNI", "AVX-512", "AVX2") if u in units),
                    units[0])
        return f"{self.machine[1]}, {best}"


def table():
    pages = [Page(path) for path in sorted((DOCS / "benchmarks").glob("*.md"))
             if path.read_text().startswith("# Beside PyTorch")]
    lines = [f"| {work} | {page.name()} | {ours} | {theirs} | **{ratio}** | {memory} | "
             f"[page](benchmarks/{page.path.name}) |"
             for page in pages for work, ours, theirs, ratio, memory in page.rows]
    return HEAD + "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    page = DOCS / "benchmarks.md"
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    wanted = before + BEGIN + table() + END + after
    if options.check:
        if wanted != text:
            sys.exit(f"{page}: its table is not what the pages make: run tools/benchmarks.py")
        return
    page.write_text(wanted)


if __name__ == "__main__":
    main()

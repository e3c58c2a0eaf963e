#!/usr/bin/env python3
"""Puts the summaries of the machines' pages (docs/benchmarks/*.md, made by `table.py --page` of
bench/rivals/pytorch and of bench/rivals/llamacpp) into the tables that docs/benchmarks.md opens
with.

usage: benchmarks.py [--check]

--check writes nothing: it fails when a table is not what the pages make.
"""
import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT / "bench/rivals"))
from common import parts

END = "<!-- end -->\n"
PYTORCH = ("| work | machine | refrain, tokens/s | PyTorch's best, tokens/s | ratio | memory, of PyTorch's | "
           "command |\n|---|---|---:|---:|---:|---:|---|\n")
LLAMACPP = ("Tokens generated one by one after a prompt of 512, by the same weights in Refrain and in llama.cpp, "
            "of each type that\nthey are stored in:\n\n"
            "| model, type | machine | refrain, tokens/s | llama.cpp, tokens/s | ratio | of the read bandwidth: "
            "refrain, llama.cpp | prompt: ratio | memory, of llama.cpp's | command |\n"
            "|---|---|---:|---:|---:|---:|---:|---:|---|\n")


class Part:
    """What a machine's page says beside one engine: the machine, and the cells of the summary."""

    def __init__(self, path, text):
        self.path = path
        self.machine = re.search(r"\n\n([^\n]*?), \d+ cores, ([^;]*);", text)
        self.rows = []
        for line in text.split("\n### ")[0].splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 7 and re.match(r"\d", cells[1]):
                self.rows.append(cells)

    def name(self):
        units = self.machine[2].split(", ")
        best = next((u for u in ("AMX", "AVX512-BF16", "VNNI", "AVX-512", "AVX2") if u in units),
                    units[0])
        return f"{self.machine[1]}, {best}"

    def link(self):
        return f"[page](benchmarks/{self.path.name})"


def line(cells):
    return "| " + " | ".join(cells) + " |\n"


def beside_pytorch(found):
    rows = [line([work, part.name(), ours, theirs, f"**{ratio}**", memory, part.link()])
            for part in found for work, ours, theirs, ratio, _, _, memory in part.rows]
    return PYTORCH + "".join(rows)


def beside_llamacpp(found):
    rows = [line([work, part.name(), ours, theirs, f"**{ratio}**", *more, part.link()])
            for part in found for work, ours, theirs, ratio, *more in part.rows]
    return LLAMACPP + "".join(rows) if rows else ""


# What a table begins with in docs/benchmarks.md, the title of its part of a page, what makes it.
TABLES = (
    ("<!-- tools/benchmarks.py -->\n", "Beside PyTorch", beside_pytorch),
    ("<!-- tools/benchmarks.py: decoding -->\n", "Decoding, beside llama.cpp", beside_llamacpp),
)


def fill(text, folder):
    """The text of docs/benchmarks.md with the tables of the pages in the folder."""
    pages = [(path, parts(path.read_text())) for path in sorted(folder.glob("*.md"))]
    for begin, wanted, table in TABLES:
        before, rest = text.split(begin)
        _, after = rest.split(END, 1)
        found = [Part(path, part) for path, page in pages for title, part in page
                 if title == wanted]
        text = before + begin + table(found) + END + after
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    page = ROOT / "docs/benchmarks.md"
    text = page.read_text()
    wanted = fill(text, ROOT / "docs/benchmarks")
    if options.check:
        if wanted != text:
            sys.exit(f"{page}: a table is not what the pages make: run tools/benchmarks.py")
        return
    page.write_text(wanted)


if __name__ == "__main__":
    main()

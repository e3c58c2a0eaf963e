#!/usr/bin/env python3
"""A benchmark's guard: on a small shape it passes; with an error planted it exits with 1 and times
nothing.

usage: bench_guard.py BENCHMARK [its arguments...] plant=weights|state
"""
import subprocess
import sys


def figures(text):
    """Rows of a Markdown table, or of CSV, that have figures."""
    rows = [line for line in text.splitlines() if any(c.isdigit() for c in line)]
    return [row for row in rows if not row.startswith(("| 256 x", "| 100 tokens", "| decoder,",
                                                       "| recomputed,", "| projections of"))]


def main():
    command, plant = sys.argv[1:-1], sys.argv[-1]
    right = subprocess.run(command, capture_output=True, text=True)
    if right.returncode != 0 or not figures(right.stdout):
        sys.exit(f"without an error: exit status {right.returncode}: {right.stderr}")
    wrong = subprocess.run([*command, plant], capture_output=True, text=True)
    if wrong.returncode != 1 or figures(wrong.stdout) or "refused" not in wrong.stderr:
        sys.exit(f"{plant}: exit status {wrong.returncode}, timed: {figures(wrong.stdout)}: "
                 f"{wrong.stderr}")


if __name__ == "__main__":
    main()

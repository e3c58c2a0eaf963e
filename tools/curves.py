#!/usr/bin/env python3
"""Prints the validation losses of runs as CSV for plot.py: run, millions of tokens seen, loss.

usage: curves.py RUN...        (directories of `refrain train`)
"""
import json
import pathlib
import sys


def points(run):
    """A run's (tokens seen, validation loss), from its metrics.jsonl."""
    seen = 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        seen = record.get("num_input_tokens_seen", seen)
        if "eval_loss" in record:
            yield seen, record["eval_loss"]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in map(pathlib.Path, sys.argv[1:]):
        for seen, loss in points(path):
            print(f"{path.name},{seen / 1e6:.2f},{loss:.4f}")


if __name__ == "__main__":
    main()

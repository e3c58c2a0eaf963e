#!/usr/bin/env python3
"""What every mixer has learned after a few hundred steps of its defaults, in blocks and bare, and
the loss of who knows only how often each character comes (unigrams). Prints a Markdown
table; a model that is not clearly below the unigrams makes it exit with 1. Without --data the text
is tinyshakespeare/input.txt in the folder that REFRAIN_DATA names; exits with 77 if there is none.

usage: learning.py --refrain BIN [--data TEXT] [--steps 300] [--threads 1] [--mixers NAME...]
                   [--blocks NAME...] [-- FLAG...]
"""
import argparse
import collections
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

MIXERS = ["attention", "attention_rnn", "gla", "simple_rnn", "rnn", "lstm", "gru", "mm_rec"]
BLOCKS = ["pre_norm", "bare"]
SHARE = 0.1   # of the text, from its end, that is held out
CLEAR = 0.25  # nats below the unigrams; letters that know the one before them are 0.86 below
SKIPPED = 77
# A mean over all of the past does not tell what came last; over the past of a few tokens it does.
OWN_FLAGS = {("attention_rnn", "bare"): ["--context", 8, "--batch-size", 512]}


def unigram_loss(text):
    """Of the held-out end, by the counts of what stands before it."""
    cut = len(text) - int(len(text) * SHARE)
    counts, held_out = collections.Counter(text[:cut]), text[cut:]
    total = cut + len(counts)  # one more of each, so that none is impossible
    return sum(math.log(total / (counts[c] + 1)) for c in held_out) / len(held_out)


def learn(arguments, mixer, block, out):
    """The held-out loss at the end."""
    command = [arguments.refrain, "train", "--data", arguments.data, "--valid-split", SHARE,
               "--pattern", mixer, "--block", block, "--max-steps", arguments.steps,
               "--threads", arguments.threads, "--out", out, *OWN_FLAGS.get((mixer, block), []),
               *arguments.flags]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip().splitlines()[-1])
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["eval_loss"] for record in records if "eval_loss" in record][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mixers", nargs="+", default=MIXERS)
    parser.add_argument("--blocks", nargs="+", default=BLOCKS)
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="more flags of refrain train")
    arguments = parser.parse_args()

    if not arguments.data:
        folder = os.environ.get("REFRAIN_DATA")
        if not folder:
            print("skipped: REFRAIN_DATA does not name the real material")
            return SKIPPED
        arguments.data = str(pathlib.Path(folder) / "tinyshakespeare" / "input.txt")
    bound = unigram_loss(pathlib.Path(arguments.data).read_text())
    print(f"unigrams: {bound:.3f}\n")
    print("| mixer | " + " | ".join(f"`{block}`" for block in arguments.blocks) + " |")
    print("|---|" + "---:|" * len(arguments.blocks))
    stuck = []
    with tempfile.TemporaryDirectory() as folder:
        for mixer in arguments.mixers:
            losses = []
            for block in arguments.blocks:
                losses.append(learn(arguments, mixer, block,
                                    pathlib.Path(folder) / f"{mixer}-{block}"))
                if not losses[-1] < bound - CLEAR:
                    stuck.append(f"{mixer}, {block}: {losses[-1]:.3f}")
            cells = " | ".join(f"{loss:.3f}" for loss in losses)
            print(f"| `{mixer}` | {cells} |", flush=True)
    for line in stuck:
        print(f"not clearly below the unigrams: {line}", file=sys.stderr)
    return 1 if stuck else 0


if __name__ == "__main__":
    sys.exit(main())

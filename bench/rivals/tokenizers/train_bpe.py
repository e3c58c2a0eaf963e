#!/usr/bin/env python3
"""Trains BPE tokenizers with refrain and with the `tokenizers` package, in turns, and prints a
Markdown table of seconds (medians, whole processes). Also says whether refrain's files were the same
bytes every time, and whether byte-level merges are those of the package.

usage: train_bpe.py --refrain BIN --data TEXT [--merges 8000] [--rounds 5]      needs: tokenizers
"""
import argparse
import hashlib
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

# The package in a process of its own, as refrain is: {kind}, data, vocabulary, output.
THEIRS = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
kind, data, size, out = sys.argv[1:]
if kind == "byte-bpe":
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=int(size), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
else:
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=int(size), show_progress=False,
                                  special_tokens=["<unk>"], end_of_word_suffix="</w>")
t.train([data], trainer)
t.save(out)
"""


def timed(command):
    begin = time.perf_counter()
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--merges", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if importlib.util.find_spec("tokenizers") is None:
        sys.exit("train_bpe.py: the package tokenizers is missing; run it with the Python that "
                 "bench/rivals/pytorch/setup.sh prints")
    print(f"| {args.merges} merges | refrain, s | `tokenizers`, s | ratio | same bytes every time |"
          "\n|---|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        start = timed([sys.executable, "-c", "import tokenizers"])
        for kind, alphabet in (("byte-bpe", 256), ("bpe", 1)):
            if kind == "bpe":  # single characters, inside and at the end of words
                text = pathlib.Path(args.data).read_text()
                words = set(text.split())
                alphabet += len({c for w in words for c in w[:-1]} | {w[-1] + "</w>" for w in words}
                                | {c for w in words for c in w})
            size, ours, theirs, hashes = args.merges + alphabet, [], [], set()
            for i in range(args.rounds):
                out = folder / f"{kind}-{i}"
                ours.append(timed([args.refrain, "tokenizer", "train", "--kind", f"{kind}:{size}",
                                   "--data", args.data, "--out", out]))
                hashes.add(hashlib.sha256((out / "tokenizer.json").read_bytes()).hexdigest())
                theirs.append(timed([sys.executable, "-c", THEIRS, kind, args.data, size,
                                     folder / f"{kind}.json"]) - start)
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"| {kind}:{size} | {a:.3f} | {b:.3f} | {b / a:.1f} | "
                  f"{'yes' if len(hashes) == 1 else 'NO'} |")
            if kind == "byte-bpe":
                load = lambda p: [tuple(m.split(" ")) if isinstance(m, str) else tuple(m)
                                  for m in json.loads(p.read_text())["model"]["merges"]]
                same = load(folder / f"{kind}-0" / "tokenizer.json") == load(folder / f"{kind}.json")
        print(f"\nbyte-level merges are {'' if same else 'NOT '}those of the package")


if __name__ == "__main__":
    main()

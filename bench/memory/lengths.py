#!/usr/bin/env python3
"""Peak memory and step time of a stack of gla against the length of its one sequence.

usage: lengths.py --refrain build/release/refrain --data input.txt [--threads 2] > lengths.csv

A row: what, tokens, peak MiB of the whole process, seconds of the step. The data needs a token more
than the longest sequence, 1,048,576. Needs GNU time (apt-get install time).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import arguments

MODEL = "--pattern gla --layers 2 --d-model 128 --heads 4 --batch-size 1 --valid-split 0".split()
KINDS = {
    "exact, everything saved": (["--gradient-checkpointing", "off"], 2**18),
    "exact, chunks": (["--gradient-checkpointing", "chunks"], 2**20),
    "exact, chunks and blocks": (["--gradient-checkpointing", "chunks,blocks"], 2**20),
    "truncated after 4,096": (["--tbptt", "4096"], 2**20),
}


def main():
    args = arguments.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        tokens = work / "text.tokens"
        subprocess.run([args.refrain, "prepare", "--data", args.data, "--tokenizer", "char", "--out",
                        tokens], check=True, stderr=subprocess.DEVNULL)
        for length in (2**12, 2**14, 2**16, 2**18, 2**20):
            for name, (flags, longest) in KINDS.items():
                if length > longest:
                    continue
                out = work / f"{name}-{length}".replace(" ", "-").replace(",", "")
                timed = subprocess.run(
                    ["/usr/bin/time", "-f", "peak %M", args.refrain, "train", "--data", tokens,
                     "--tokenizer", work / "text.tokenizer", "--out", out, "--context", str(length),
                     "--max-steps", "1", "--logging-steps", "1", "--threads", args.threads, *MODEL,
                     *flags], check=True, stderr=subprocess.PIPE, text=True)
                peak = int(timed.stderr.rsplit("peak ", 1)[1]) / 1024
                record = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
                seconds = record["num_input_tokens_seen"] / record["tokens_per_second"]
                print(f'"{name}",{length},{peak:.0f},{seconds:.2f}', flush=True)


if __name__ == "__main__":
    sys.exit(main())

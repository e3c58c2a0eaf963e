#!/usr/bin/env python3
"""What each kind of recomputation spares, and what it costs, on one model.

usage: recomputation.py --refrain build/release/refrain --data input.txt [--threads 2] [--steps 3]
                        [--settings off blocks ...] [-- flags of refrain train]

Without flags: the transformer of 124 M parameters (12 layers, 768 wide, 12 heads, vocabulary 50,304),
two sequences of 1,024 tokens a step. Settings take turns, a process of one step after another that
is not counted; seconds are the median. Weights must be the same after every run.
"""
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import arguments

MODEL = ("--layers 12 --d-model 768 --heads 12 --d-ff 2048 --vocab-size 50304 --tie-embeddings "
         "--context 1024 --batch-size 2").split()
SETTINGS = ["off", "feed_forwards", "mixers", "mixers,feed_forwards", "blocks:6", "blocks"]


def main():
    parser = arguments.parser(__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    memory = int(0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    seconds, plans, digests = {s: [] for s in args.settings}, {}, set()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        for _ in range(args.steps):
            for setting in args.settings:
                subprocess.run(
                    [args.refrain, "train", "--data", args.data, "--out", out, "--max-steps", "2",
                     "--logging-steps", "1", "--valid-split", "0", "--memory", str(memory),
                     "--gradient-checkpointing", setting, "--threads", args.threads,
                     *(args.flags or MODEL)], check=True, stderr=subprocess.DEVNULL)
                plans[setting] = json.loads((out / "plan.json").read_text())["bytes"]
                records = [json.loads(line)
                           for line in (out / "metrics.jsonl").read_text().splitlines()]
                tokens = records[1]["num_input_tokens_seen"] - records[0]["num_input_tokens_seen"]
                seconds[setting].append(tokens / records[1]["tokens_per_second"])
                digests.add(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
                shutil.rmtree(out)
    print("| recomputed | saved, MiB | | activations in all, MiB | | s a step | |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    first = args.settings[0]
    change = lambda now, before: f"{100 * (now / before - 1):+.0f} %" if now != before else ""
    for setting in args.settings:
        plan, before = plans[setting], plans[first]
        whole = plan["saved"] + plan["scratch"]
        time, time_before = (statistics.median(seconds[s]) for s in (setting, first))
        print(f"| {setting} | {plan['saved'] / 2**20:,.0f} | {change(plan['saved'], before['saved'])} "
              f"| {whole / 2**20:,.0f} | {change(whole, before['saved'] + before['scratch'])} "
              f"| {time:.2f} | {change(time, time_before)} |")
    if len(digests) != 1:
        print("weights differ", file=sys.stderr)
    return len(digests) != 1


if __name__ == "__main__":
    sys.exit(main())

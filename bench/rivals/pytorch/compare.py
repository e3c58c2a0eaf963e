#!/usr/bin/env python3
"""Trains the same decoder with refrain and with PyTorch, in turns, and prints a Markdown table of
tokens/s and peak memory (medians over the rounds).

usage: compare.py --refrain BIN --python PYTHON --data TEXT [--work small|medium] [--rounds 3]

PYTHON is what setup.sh prints; this script itself needs only the standard library. Both engines run
alone, with the same sizes, batch, schedule and thread count. Tokens/s leaves out the first steps;
PyTorch's compilation is not in its figure. Peak memory is the largest resident set of the process.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
WORK = {  # sizes are flags of both programs; steps for a round of each engine
    "small": (["--layers", 4, "--heads", 4, "--d-model", 128, "--d-ff", 352, "--context", 64,
               "--batch-size", 12], 200),
    "medium": (["--layers", 6, "--heads", 6, "--d-model", 384, "--d-ff", 1024, "--context", 256,
                "--batch-size", 16], 14),
}


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


def refrain(args, sizes, steps):
    with tempfile.TemporaryDirectory() as folder:
        run([args.refrain, "train", "--data", args.data, "--out", folder + "/run", *sizes,
             "--max-steps", steps, "--warmup-steps", 5, "--logging-steps", 1, "--valid-split", 0.1,
             "--threads", args.threads])
        lines = pathlib.Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    steps = [r for r in map(json.loads, lines) if "loss" in r]
    rates = [r["tokens_per_second"] for r in steps[4:]]
    return statistics.median(rates), steps[-1]["peak_memory_bytes"], steps[-1]["loss"]


def pytorch(args, sizes, steps, *more):
    out = json.loads(run([args.python, HERE / "train_lm.py", "--data", args.data, *sizes,
                          "--max-steps", steps, "--warmup-steps", 5, "--skip-steps", 4, "--no-eval",
                          "--threads", args.threads, *more]).splitlines()[-1])
    return out["tokens_per_second"], out["peak_memory_bytes"], out["loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", choices=WORK, default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sizes, steps = WORK[args.work]
    engines = {"refrain": lambda: refrain(args, sizes, steps),
               "PyTorch, eager": lambda: pytorch(args, sizes, steps),
               "PyTorch, compiled": lambda: pytorch(args, sizes, steps, "--compile")}
    results = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, engine in engines.items():
            results[name].append(engine())
    ours = statistics.median(r[0] for r in results["refrain"])
    print(f"| {args.work}, float32, {args.threads} threads | tokens/s | refrain's speed over it | "
          "peak memory, MiB |\n|---|---:|---:|---:|")
    for name, rounds in results.items():
        rate = statistics.median(r[0] for r in rounds)
        memory = statistics.median(r[1] for r in rounds) / 2**20
        print(f"| {name} | {rate:,.0f} | {ours / rate:.2f} | {memory:,.0f} |")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Language models of different mixers after equal time: same data, as many parameters, as many
tokens a step; each model's number of steps follows from its speed, measured first, so that its
schedule of the rate ends with its time. Prints a Markdown table.

usage: equal_time.py --refrain BIN --data TEXT [--seconds 200] [--threads 2] [--rate 2e-3]
                     [--models NAME...] [--bf16]
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

COMMON = ["--layers", 4, "--heads", 4, "--context", 256, "--batch-size", 16, "--valid-split", 0.1]
MODELS = {  # 1.8 M parameters each, with a vocabulary of 65
    "`attention`": ["--pattern", "attention", "--d-model", 192],
    "`gla`": ["--pattern", "gla", "--d-model", 192],
    "`mm_rec`": ["--pattern", "mm_rec", "--d-model", 160, "--d-ff", 428, "--feed-forward", "gelu",
                 "--mm-rec.stretch", 16],
    "`mm_rec` without its memory": ["--pattern", "mm_rec", "--d-model", 176, "--d-ff", 646,
                                    "--feed-forward", "gelu", "--mm-rec.memory", "false"],
    "`mm_rec`, `attention` in turns": ["--pattern", "mm_rec attention", "--d-model", 168, "--d-ff",
                                       650, "--feed-forward", "gelu", "--mm-rec.stretch", 16],
}
MEASURED_STEPS = 30
LOGGED = 10  # steps of a record


def train(arguments, flags, out, steps, evaluations):
    """Records of the run's metrics.jsonl, and its number of parameters."""
    command = [arguments.refrain, "train", "--data", arguments.data, "--out", out, *COMMON, *flags,
               "--max-steps", steps, "--eval-steps", max(1, steps // max(1, evaluations)),
               "--save-steps", 0, "--logging-steps", LOGGED, "--learning-rate", arguments.rate,
               "--warmup-steps", min(100, steps // 10), "--threads", arguments.threads]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip().splitlines()[-1])
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return records, int(re.search(r"(\d+) parameters", done.stderr + done.stdout).group(1))


def spans(records):
    """Tokens and seconds of training between the records of steps; evaluations do not count."""
    seen = 0
    for record in records:
        if "loss" in record:
            tokens, seen = record["num_input_tokens_seen"] - seen, record["num_input_tokens_seen"]
            yield tokens, tokens / record["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", default="2e-3")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS),
                        metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    arguments = parser.parse_args()
    if arguments.bf16:
        COMMON.append("--bf16")
    print("| blocks of | parameters | steps | tokens/s | seconds | validation loss |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, flags) in enumerate(MODELS.items()):
            if name not in arguments.models:
                continue
            root = pathlib.Path(folder)
            before, _ = train(arguments, flags, root / f"speed{i}", MEASURED_STEPS, 0)
            # The first steps are slower than those that follow.
            tokens, seconds = map(sum, zip(*list(spans(before))[1:]))
            per_step = before[0]["num_input_tokens_seen"] / LOGGED
            steps = round(arguments.seconds * tokens / seconds / per_step)
            records, parameters = train(arguments, flags, root / f"run{i}", steps, 8)
            tokens, seconds = map(sum, zip(*spans(records)))
            losses = [r["eval_loss"] for r in records if "eval_loss" in r]
            print(f"| {name} | {parameters:,} | {steps:,} | {tokens / seconds:,.0f} | "
                  f"{seconds:.0f} | {min(losses):.3f} |", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Trains models under budgets of memory and prints what each process really took.

usage: budgets.py --refrain build/release/refrain --data input.txt [--threads 2] [--only NAME...]
                  [--cgroup]

Every model is trained for two optimiser steps, an evaluation and a checkpoint under three budgets:
the smallest that can be, one between, and enough for the fastest plan. The peak is the largest
resident set of the whole process (what /usr/bin/time -v prints). Weights after the run must be the
same under all three. Needs GNU time (apt-get install time). With --cgroup each process runs in a memory control group of exactly its
budget (version 1, as root): one byte more and the kernel would end it.
"""
import hashlib
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile

import arguments

# Name, flags, optimiser steps.
MODELS = {
    "attention, 0.8 M, context 64": "--layers 4 --d-model 128 --heads 4 --context 64 --batch-size 12",
    "attention, 10.7 M, context 256": "--layers 6 --d-model 384 --heads 6 --context 256 --batch-size 16",
    "attention, 124 M, context 1,024":
        "--layers 12 --d-model 768 --heads 12 --d-ff 3072 --feed-forward gelu --context 1024 --batch-size 2 "
        "--vocab-size 50304 --tie-embeddings",
    "attention, window 256, context 8,192":
        "--layers 4 --d-model 256 --heads 4 --context 8192 --batch-size 1 --attention.window 256",
    "gla, 12 M, context 1,024": "--pattern gla --layers 6 --d-model 384 --heads 6 --context 1024 --batch-size 8",
    "gla, 12 M, context 65,536":
        "--pattern gla --layers 6 --d-model 384 --heads 6 --context 65536 --batch-size 1",
    "attention_rnn, 9 M, context 1,024":
        "--pattern attention_rnn --layers 6 --d-model 384 --heads 6 --context 1024 --batch-size 8",
    "lstm, context 512": "--pattern lstm --layers 3 --d-model 256 --context 512 --batch-size 16",
    "gru and rnn, context 256":
        "--pattern 'gru rnn' --layers 4 --d-model 256 --context 256 --batch-size 32",
    "simple_rnn, bare, context 512":
        "--pattern simple_rnn --block bare --layers 2 --d-model 128 --context 512 --batch-size 256",
    "mm_rec, context 1,024":
        "--pattern mm_rec --layers 2 --d-model 256 --heads 4 --context 1024 --batch-size 4",
    "gla gla attention, context 2,048":
        "--pattern 'gla gla attention' --layers 6 --d-model 256 --heads 4 --context 2048 --batch-size 4",
}
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def run(command, limit=None):
    """Exit status, standard error, largest resident set in bytes."""
    group = None
    if limit:
        group = pathlib.Path("/sys/fs/cgroup/memory") / f"refrain-{os.getpid()}"
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit))
    with tempfile.NamedTemporaryFile("r") as peak:
        timed = ["/usr/bin/time", "-q", "-f", "%M", "-o", peak.name, *command]
        if group:  # only what is measured may be in the group
            timed[6:6] = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
        done = subprocess.run(timed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        found = peak.read().split()
    if group:
        group.rmdir()
    return done.returncode, done.stderr, int(found[-1]) * 1024 if found else 0


def main():
    parser = arguments.parser(__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--cgroup", action="store_true")
    args = parser.parse_args()
    refrain = os.path.abspath(args.refrain)
    failures = 0
    print("| model | budget | plan | predicted, MiB | peak, MiB | peak / predicted |")
    print("|---|---:|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        subprocess.run([refrain, "prepare", "--data", args.data, "--tokenizer", "char", "--out",
                        work / "text.tokens"], check=True, stderr=subprocess.DEVNULL)
        for name, flags in MODELS.items():
            if args.only and not any(word in name for word in args.only):
                continue
            words = [w.strip("'") for w in re.findall(r"'[^']*'|\S+", flags)]
            command = [refrain, "train", "--data", str(work / "text.tokens"), "--tokenizer",
                       str(work / "text.tokenizer"), "--max-steps", "2", "--threads", args.threads,
                       "--valid-split", "0.005", *words]
            # What the smallest is, the refusal of an impossible one says.
            _, text, _ = run([*command, "--out", str(work / "none"), "--memory", "1K"])
            amount, unit = re.search(r"needs at least ([0-9.]+) ([KMG]iB)", text).groups()
            smallest = float(amount) * UNITS[unit]
            smallest += {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30 / 100}[unit]  # it was rounded
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            run([*command, "--out", str(work / "most"), "--stop-after", "1", "--memory",
                 str(int(0.9 * machine))])
            most = json.loads((work / "most" / "plan.json").read_text())["bytes"]["total"]
            shutil.rmtree(work / "most")
            want = None
            for budget in (smallest, (smallest + most) / 2, most * 1.01):
                out = work / "run"
                status, text, peak = run([*command, "--out", str(out), "--memory", str(int(budget))],
                                         int(budget) if args.cgroup else None)
                if status != 0:
                    print(f"{name}, {budget / 2**20:.0f} MiB: exit status {status}: {text}",
                          file=sys.stderr)
                    failures += 1
                    shutil.rmtree(out, ignore_errors=True)
                    continue
                plan = json.loads((out / "plan.json").read_text())
                predicted = plan["bytes"]["total"]
                digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
                want = want or digest
                cut = plan.get("micro_batch_sequences") or plan.get("micro_batch_tokens")
                print(f"| {name} | {budget / 2**20:,.0f} MiB | {cut}; "
                      f"{plan['gradient_checkpointing']} | {predicted / 2**20:,.0f} | "
                      f"{peak / 2**20:,.0f} | {peak / predicted:.3f} |", flush=True)
                if peak > budget or not 0.95 <= peak / predicted <= 1.05 or digest != want:
                    print(f"{name}: beyond the budget, not as predicted, or other weights",
                          file=sys.stderr)
                    failures += 1
                shutil.rmtree(out)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())

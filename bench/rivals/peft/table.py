#!/usr/bin/env python3
"""Fine-tuning here and in PEFT with PyTorch: the same model, sequences and optimiser.

usage: table.py --refrain BIN --model DIR --data TEXT [--rounds N] [--steps N] [--threads N]
         [--rows NAME...] [--python PYTHON] [--markdown PAGE]

Engines take turns. The loss of the first step, before anything is learned, must be the same (within
1e-3 in float32, 1 % in bfloat16 and with a q8_0 base), or the row is not timed. Tokens per second are
the median of a turn's steps without the first, and the median of the turns; memory is the largest
resident set of the process.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import common  # pylint: disable=wrong-import-position

SEQUENCES, LENGTH, RANK, RATE = 8, 512, 8, 1e-4
PEFT, OURS = "PEFT + PyTorch", "Refrain"

# name: engine, settings
ROWS = {
    "peft-lora-bf16": (PEFT, "LoRA", "bf16", ["--mode", "lora", "--dtype", "bf16"]),
    "peft-lora-f32": (PEFT, "LoRA", "float32", ["--mode", "lora", "--dtype", "f32"]),
    "peft-full-bf16": (PEFT, "full", "bf16", ["--mode", "full", "--dtype", "bf16"]),
    "lora-bf16": (OURS, "LoRA, base bf16", "bf16", ["--base-type", "bf16", "--bf16"]),
    "lora-q8_0": (OURS, "LoRA, base q8_0", "bf16", ["--base-type", "q8_0", "--bf16"]),
    "lora-f32": (OURS, "LoRA, base float32", "float32", ["--base-type", "f32"]),
    "full-bf16": (OURS, "full", "bf16", ["--bf16"]),
}


def write_sequences(python, model, text, path):
    """SEQUENCES sequences of LENGTH ids with the ids that follow as targets."""
    code = ("import sys, json; from transformers import AutoTokenizer\n"
            "t = AutoTokenizer.from_pretrained(sys.argv[1]); s = open(sys.argv[2]).read()[:400000]\n"
            f"n, l = {SEQUENCES}, {LENGTH}\n"
            "ids = t(s, add_special_tokens=False)['input_ids']\n"
            "assert len(ids) > n * l, 'a longer text is needed'\n"
            "for i in range(n):\n"
            "  w = ids[i * l:(i + 1) * l + 1]; print(json.dumps({'input': w[:-1], 'target': w[1:]}))\n")
    done = subprocess.run([python, "-c", code, model, text], check=True, capture_output=True, text=True)
    path.write_text(done.stdout)


class Table:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.sequences = folder / "sequences.jsonl"
        write_sequences(arguments.python, arguments.model, arguments.data, self.sequences)

    def peft(self, flags, steps):
        out, peak = common.run(
            [self.arguments.python, HERE / "step.py", self.arguments.model, self.sequences, *flags,
             "--steps", steps, "--rank", RANK, "--learning-rate", RATE, "--threads",
             self.arguments.threads], 1200)
        return json.loads(out.splitlines()[-1]) | {"peak": peak}

    def ours(self, flags, steps):
        with tempfile.TemporaryDirectory(dir=self.folder) as run:
            lora = ["--lora-rank", RANK, "--lora-alpha", 16] if "--base-type" in flags else []
            memory = ["--batch-size", self.arguments.micro_batch, "--gradient-accumulation-steps",
                      SEQUENCES // self.arguments.micro_batch]
            _, peak = common.run(
                [self.arguments.refrain, "train", "--task", "probe", "--init", self.arguments.model,
                 "--data", self.sequences, "--out", run + "/run", "--context", LENGTH,
                 "--max-steps", steps, "--learning-rate", RATE, "--warmup-steps", 0,
                 "--lr-scheduler-type", "constant", "--weight-decay", 0, "--valid-split", 0,
                 "--logging-steps", 1, "--threads", self.arguments.threads, *memory, *lora, *flags],
                1200)
            lines = [json.loads(line)
                     for line in pathlib.Path(run, "run", "metrics.jsonl").read_text().splitlines()]
            return {"losses": [line["loss"] for line in lines], "peak": peak,
                    "tokens_per_second": statistics.median(
                        line["tokens_per_second"] for line in lines[1:])}

    def turn(self, name, steps):
        engine, _, _, flags = ROWS[name]
        return self.peft(flags, steps) if engine == PEFT else self.ours(flags, steps)


def check(name, found, want):
    exact = ROWS[name][2] == "float32"
    off = abs(found["losses"][0] / want - 1)
    if off > (1e-3 if exact else 1e-2):
        raise common.Failed(f"first loss {found['losses'][0]:.4f}, expected {want:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refrain", required=True, type=pathlib.Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=1, help="sequences, ours")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--python", default="", help="with torch and peft; setup.sh makes one")
    arguments = parser.parse_args()
    arguments.refrain = arguments.refrain.resolve()
    if not arguments.python:
        done = subprocess.run([HERE / "setup.sh"], check=True, capture_output=True, text=True)
        arguments.python = done.stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        table = Table(arguments, pathlib.Path(folder))
        want = table.peft(["--mode", "lora", "--dtype", "f32"], 2)["losses"][0]
        common.say(f"loss of the model before anything is learned: {want:.4f}")
        turns = {name: [] for name in arguments.rows}
        for number in range(arguments.rounds):
            for name in list(turns):
                try:
                    found = table.turn(name, arguments.steps)
                    check(name, found, want)
                    turns[name].append(found)
                    common.say(f"round {number + 1}: {name}: {found['tokens_per_second']:.0f} tokens/s, "
                               f"{found['peak'] / common.MIB:.0f} MiB")
                except common.Failed as problem:
                    common.say(f"{name}: refused: {problem}")
                    del turns[name]
    print(common.machine(f"{arguments.threads} threads"))
    print("\n| engine | what learns | products | tokens/s | memory, MiB | loss of step 1 | of the last |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for name, found in turns.items():
        if not found:
            continue
        engine, what, products, _ = ROWS[name]
        speed = statistics.median(one["tokens_per_second"] for one in found)
        peak = max(one["peak"] for one in found) / common.MIB
        losses = found[0]["losses"]
        print(f"| {engine} | {what} | {products} | {speed:.0f} | {peak:,.0f} | {losses[0]:.4f} | "
              f"{losses[-1]:.4f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The same work in refrain and in PyTorch, the engines taking turns: Markdown tables of tokens/s,
peak memory and MFU, each row as it is done and a summary at the end.

usage: table.py --refrain BIN --data TEXT [--rows 'gla*' lstm] [--quick] [--page FILE]
       table.py --list

Every model is trained by refrain for a few steps first and its weights are spread (spread.py);
every form of it in PyTorch must then give refrain's logits and refrain's loss; what does not is
refused. --plant puts an error into PyTorch's model: every form must be refused. Each figure is the median over the steps
of all rounds; a round is a process of each engine. Needs the standard library only: PyTorch's
environment is --python, or is made by setup.sh.
"""
import argparse
import dataclasses
import fnmatch
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

import rows
import tokens

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))
from common import MIB, Failed, command_line, machine, put_part, run, say

TITLE = "Beside PyTorch"
LOGITS = 256  # tokens whose logits are compared


PRECISIONS = ("float32", "bf16", "int16")  # refrain's
SUMMARY = ("| work | refrain, tokens/s | PyTorch's best, tokens/s | ratio | float32 alone | over the "
           "loop | memory, of PyTorch's best |\n|---|---:|---:|---:|---:|---:|---:|")


def flags_of(precision):
    return [] if precision == "float32" else [f"--{precision}"]


@dataclasses.dataclass
class Result:
    """What one engine gave in all rounds."""
    name: str
    precision: str = "float32"
    mode: rows.Mode | None = None  # PyTorch's
    beside: bool = False           # other work than the row's
    rates: list = dataclasses.field(default_factory=list)
    peaks: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)
    failed: str = ""

    @property
    def rate(self):
        return statistics.median(self.rates) if self.rates else None

    @property
    def peak(self):
        return statistics.median(self.peaks) if self.peaks else None

    def add(self, rates, peak):
        self.rates += rates
        self.peaks.append(peak)


class Table:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.env = os.environ | {"OMP_NUM_THREADS": str(args.threads),
                                 "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
        self.texts = {}
        self.products = {}
        self.summary = []
        self.details = []  # of all rows, in Markdown

    # -- the page

    def put(self, text):
        """Text of a row: printed, and kept for the page, whose part is written anew."""
        print(text, flush=True)
        self.details.append(text)
        if self.args.page:
            put_part(self.args.page, TITLE, self.page())

    def head(self):
        torch = run([self.args.python, "-c", "import torch; print(torch.__version__)"],
                    self.args.limit)[0].strip()
        return machine(self.refrain("--version")[0].strip(), f"PyTorch {torch}")

    def page(self):
        return "\n".join([self.machine, "", "    " + self.command(), "", SUMMARY, *self.summary, "",
                          *self.details])

    def command(self):
        return command_line(["bench/rivals/pytorch/table.py", "--refrain", "refrain", "--data",
                             "input.txt"], sys.argv[1:], {"--refrain", "--data", "--python"})

    # -- refrain

    def refrain(self, *words):
        return run([self.args.refrain, *words], self.args.limit)

    def text(self, tokenizer):
        """The data as a token file, and its tokenizer."""
        if tokenizer not in self.texts:
            out = self.folder / f"{len(self.texts)}.tokens"
            self.refrain("prepare", "--data", self.args.data, "--tokenizer", tokenizer, "--out",
                         out)
            self.texts[tokenizer] = out, out.with_suffix(".tokenizer")
        return self.texts[tokenizer]

    def first(self, row):
        """The first batch as a token file of its own."""
        out = self.folder / f"{row.name}.first.tokens"
        if not out.exists():
            ids, header = tokens.read(self.text(row.tokenizer)[0])
            if len(ids) <= 2 * row.tokens:
                raise Failed(f"{self.args.data} has {len(ids):,} tokens, {row.name} wants more "
                             f"than {2 * row.tokens:,}")
            tokens.write(out, ids[:row.tokens + 1], header)
        return out

    def train(self, row, out, flags, steps, *more):
        """Steps with a record of each, and the evaluation of the first batch after them."""
        data, tokenizer = self.text(row.tokenizer)
        self.refrain("train", "--data", data, "--tokenizer", tokenizer, "--valid", self.first(row),
                     "--out", out, *flags, "--context", row.context, "--max-steps", steps,
                     "--warmup-steps", 1, "--logging-steps", 1, "--threads", self.args.threads,
                     *more)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for checkpoint in [*out.glob("checkpoint-*"), out / "best"]:
            shutil.rmtree(checkpoint, ignore_errors=True)
        return ([line for line in lines if "loss" in line],
                next(line["eval_loss"] for line in reversed(lines) if "eval_loss" in line))

    def model(self, row):
        """A model of the row's sizes, with its loss of the first batch and a file of its logits of
        the first tokens. Of a mixer that is timed alone, one block with hardly a feed-forward
        layer."""
        out = self.folder / row.name
        alone = ("--layers", 1, "--d-ff", 32) if row.part == "mixer" else ()
        self.train(row, out, (*row.flags, *alone), 4, "--batch-size", 1)
        info = json.loads(self.refrain("info", "-m", out, "--json")[0])
        run([self.args.python, HERE / "spread.py", out], self.args.limit, self.env)
        # In windows: a recurrent stack would carry its state through the text.
        scores = self.refrain("eval", "-m", out, "--data", self.first(row), "--context",
                              row.context, "--json")[0]
        ids = tokens.read(self.first(row))[0][:min(LOGITS, row.context)]
        self.refrain("logits", "-m", out, "--ids", " ".join(map(str, ids)), "--out",
                     out / "logits.safetensors")
        return out, json.loads(scores)["loss"], info

    def train_ours(self, row, flags, result):
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            steps, _ = self.train(row, pathlib.Path(out, "run"), flags, row.warm_up + row.steps,
                                  "--batch-size", row.batch, *flags_of(result.precision))
        timed = steps[row.warm_up:]
        result.add([step["tokens_per_second"] for step in timed], timed[-1]["peak_memory_bytes"])

    def time_ours(self, row, flags, result):
        out, peak = self.refrain(
            "bench", "mixers", "--mixers", "attention", "--lengths", row.context, "--batch-tokens",
            row.tokens, "--repeats", row.steps, "--warm-up", row.warm_up, *flags,
            # Its own ceilings are not wanted here.
            "--stream-mib", 16, "--product-size", 256,
            "--threads", self.args.threads, "--format", "json", *flags_of(result.precision))
        found = next(line for line in json.loads(out)
                     if line["section"] == "mixers" and "backward" in line["name"])
        result.add([found["rate"]], peak)

    # -- PyTorch

    def torch(self, row, model, loss, mode, steps, *more):
        out, _ = run([self.args.python, HERE / "step.py", "--model", model, "--tokens",
                      self.text(row.tokenizer)[0], "--expected-loss", loss, "--expected-logits",
                      model / "logits.safetensors", "--form", mode.form,
                      "--batch-size", row.batch, "--steps", steps, "--warm-up", row.warm_up,
                      "--seconds", self.args.seconds, "--threads", self.args.threads,
                      *(["--plant"] if self.args.plant else []),
                      *(["--bf16"] if mode.bf16 else []), *(["--compile"] if mode.compile else []),
                      *more], self.args.limit, self.env)
        return json.loads(out.splitlines()[-1])

    def train_theirs(self, row, model, loss, mode, result):
        more = ["--mixer-only"] if row.part == "mixer" else []
        found = self.torch(row, model, loss, mode, row.steps, *more)
        result.add(found["tokens_per_second"], found["peak_memory_bytes"])
        if found["warm_up"] < row.warm_up:
            result.notes.append(f"{found['warm_up']} warm-up steps, for lack of time")

    # -- rows

    def rates_of_products(self):
        found = json.loads(run([self.args.python, HERE / "product.py", self.args.threads],
                               self.args.limit, self.env)[0])
        self.products = {name: max(rate, self.products.get(name, 0))
                         for name, rate in found.items()}

    def engines(self, row, model, loss):
        """(result, what a round of it does)."""
        for result, work in self.all_engines(row, model, loss):
            left_out = self.args.float32 and result.precision == "bf16"
            if not left_out and any(fnmatch.fnmatch(result.name, p) for p in self.args.engines):
                yield result, work

    def all_engines(self, row, model, loss):
        ours = self.train_ours if row.part == "training" else self.time_ours
        for precision in PRECISIONS:
            result = Result(f"refrain, {precision}", precision)
            yield result, lambda r=result: ours(row, row.flags, r)
        for label, flags in row.beside:
            for precision in PRECISIONS:
                result = Result(f"{label}, {precision}", precision, beside=True)
                yield result, lambda r=result, f=flags: ours(row, f, r)
        for mode in row.modes:
            result = Result(str(mode), "bf16" if mode.bf16 else "float32", mode)
            yield result, lambda r=result, m=mode: self.train_theirs(row, model, loss, m, r)

    def check_forms(self, row, model, loss):
        """Form -> why not to time it. Training checks its own first step."""
        refused = {}
        for form in dict.fromkeys(mode.form for mode in row.modes) if row.part == "mixer" else ():
            try:
                self.torch(row, model, loss, rows.Mode(form), 0)
            except Failed as problem:
                refused[form] = str(problem)
        return refused

    def measure(self, row):
        say(f"{row.name}: a model to check against")
        model, loss, info = self.model(row)
        engines = list(self.engines(row, model, loss))
        refused = self.check_forms(row, model, loss)
        for result, _ in engines:
            result.failed = refused.get(result.mode.form, "") if result.mode else ""
        for turn in range(self.args.rounds):
            for result, work in engines:
                if result.failed:
                    continue
                say(f"{row.name}: round {turn + 1}, {result.name}")
                try:
                    work()
                except Failed as problem:
                    result.failed = str(problem)
                    say(f"  {problem}")
        shutil.rmtree(model)
        results = [result for result, _ in engines]
        self.print_row(row, info, results)
        self.summarise(row, results)

    def operations(self, row, info):
        """Of a training step, for each token: three times the forward pass; in that, 2 for every
        parameter that is multiplied with, and what the mixer does beside its projections: products
        with the keys that a query sees, on average; of a mixer with a state, 4 for each number in
        it."""
        c, parts = info["config"], info["parameters"]
        if row.part == "mixer":
            parameters = parts["mixers"]
        else:
            parameters = parts["all"] - (0 if c["tie_embeddings"] else parts["embedding"])
        if c["pattern"] == "attention":
            T = row.context
            window = min(int(c.get("attention.window", 0)) or T, T)
            keys = window - window * (window - 1) / (2 * T)
            mixing = 4 * keys * c["heads"] * c["head_dim"] * c["layers"]
        else:
            mixing = info["state_bytes_at_context"]  # 4 for each number, of 4 bytes
        return 3 * (2 * parameters + mixing)

    def print_row(self, row, info, results):
        best = fastest(results, lambda r: not r.mode)
        operations = self.operations(row, info)
        what = "forward and backward" if row.part == "mixer" else "training"
        self.put(f"### {row.title}\n\n{what}, batch {row.batch} × {row.context:,}, {self.args.threads} "
              f"threads; {self.args.rounds} × {row.steps} steps after {row.warm_up}; "
              f"{info['parameters']['all' if row.part == 'training' else 'mixers']:,} parameters, "
              f"{operations / 1e6:,.1f} MFLOP a token\n\n"
              "| engine | tokens/s | refrain's speed over it | peak memory, MiB | MFU, float32 | "
              "MFU, bf16 |\n|---|---:|---:|---:|---:|---:|")
        notes = []
        for r in results:
            cells = [r.name]
            if r.rate:
                mfu = [f"{100 * r.rate * operations / self.products[t]:.0f} %" if not r.beside
                       else "" for t in ("float32", "bf16")]
                cells += [f"{r.rate:,.0f}", f"{best.rate / r.rate:.2f}" if best else "",
                          f"{r.peak / MIB:,.0f}", *mfu]
            else:
                cells += ["-"] * 5
            self.put("| " + " | ".join(cells) + " |")
            notes += [f"{r.name}: {note}" for note in [*dict.fromkeys(r.notes),
                                                       *([r.failed] if r.failed else [])]]
        self.put("".join(f"\n- {note}" for note in notes) + "\n")

    def summarise(self, row, results):
        def ours(r):
            return not r.mode

        def theirs(r):
            return r.mode

        def ratio(mine, other):
            return f"{mine.rate / other.rate:.2f}" if mine and other else ""

        mine, best = fastest(results, ours), fastest(results, theirs)
        plain = [r for r in results if r.precision == "float32"]
        loop = fastest(results, lambda r: r.mode and r.mode.form == "loop")
        memory = f"{100 * mine.peak / best.peak:.0f} %" if mine and best else ""
        self.summary.append(
            f"| {row.title} | {f'{mine.rate:,.0f} ({mine.precision})' if mine else '-'} | "
            f"{f'{best.rate:,.0f} ({best.name[9:]})' if best else '-'} | {ratio(mine, best)} | "
            f"{ratio(fastest(plain, ours), fastest(plain, theirs))} | {ratio(mine, loop)} | "
            f"{memory} |")

    def measure_lengths(self, row):
        self.put(f"### {row.title}\n\ntraining, refrain, {'int16' if self.args.float32 else 'bf16'}, "
              f"{self.args.threads} threads\n\n| T | batch | "
              + " | ".join(f"{mixer}, tokens/s | {mixer}, MiB" for mixer, _ in row.mixers) +
              " |\n|---:|---:|" + "---:|---:|" * len(row.mixers))
        for T in row.lengths:
            batch = max(1, row.tokens // T)
            cells = [f"{T:,}", f"{batch}"]
            precision = "int16" if self.args.float32 else "bf16"
            results = [Result(mixer, precision, beside=T > longest)
                       for mixer, longest in row.mixers]
            for turn in range(self.args.rounds):
                for result in results:
                    if result.beside or result.failed:
                        continue
                    say(f"{row.name}: T = {T}, round {turn + 1}, {result.name}")
                    one = rows.Row(f"{row.name}-{T}", "", row.flags, batch, T, (),
                                   steps=row.steps, warm_up=row.warm_up)
                    try:
                        self.train_ours(one, (*row.flags, "--mixer", result.name), result)
                    except Failed as problem:
                        result.failed = str(problem)
                        say(f"  {problem}")
            for r in results:
                cells += [f"{r.rate:,.0f}", f"{r.peak / MIB:,.0f}"] if r.rate else ["-", "-"]
            self.put("| " + " | ".join(cells) + " |")
        self.put("")

    def print_all(self, chosen):
        self.machine = self.head()
        self.rates_of_products()
        for row in chosen:
            try:
                if isinstance(row, rows.Lengths):
                    self.measure_lengths(row)
                else:
                    self.measure(row)
            except Failed as problem:
                self.put(f"### {row.title}\n\nnot measured: {problem}\n")
            self.rates_of_products()
        if self.summary:
            print("### Summary\n\n" + SUMMARY + "\n" + "\n".join(self.summary) + "\n")
        self.put("torch.mm (oneDNN) in this run: " + ", ".join(
            f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in self.products.items()))


def fastest(results, wanted):
    return max((r for r in results if r.rate and not r.beside and wanted(r)),
               key=lambda r: r.rate, default=None)


def quick(row):
    """Models and engines stay; batches, steps and lengths shrink, to see that all of it runs."""
    if isinstance(row, rows.Lengths):
        return dataclasses.replace(row, lengths=row.lengths[:2], tokens=row.tokens // 8, steps=1)
    return dataclasses.replace(row, batch=max(1, row.batch // 4), context=min(row.context, 2048),
                               steps=1, warm_up=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", help="the program")
    parser.add_argument("--python", help="a Python with PyTorch; none = what setup.sh makes")
    parser.add_argument("--data", help="a text of a million characters or more")
    parser.add_argument("--rows", nargs="+", default=["*"], help="names or patterns of rows")
    parser.add_argument("--engines", nargs="+", default=["*"],
                        help="names or patterns of engines, as the tables name them")
    parser.add_argument("--list", action="store_true", help="print the rows' names, and stop")
    parser.add_argument("--rounds", type=int, help="turns of each engine [3]")
    parser.add_argument("--threads", type=int, default=2, help="[2]")
    parser.add_argument("--seconds", type=float, help="of a turn in PyTorch; the step under way is "
                        "finished [60]")
    parser.add_argument("--limit", type=float, help="seconds of a process, then it is ended [900]")
    parser.add_argument("--float32", action="store_true",
                        help="leave bf16 out: without instructions for it, it is the slower one, "
                        "and refrain has int16")
    parser.add_argument("--page", help="write all of it to this file, the summary first: a part of "
                        "the page of a machine, whose name the file has")
    parser.add_argument("--quick", action="store_true",
                        help="one round of one step, small batches, short windows: to try it")
    parser.add_argument("--plant", action="store_true",
                        help="an error in PyTorch's models, to see all of them refused")
    args = parser.parse_args()
    chosen = [row for row in rows.ROWS if any(fnmatch.fnmatch(row.name, p) for p in args.rows)]
    if args.list or not chosen:
        print("\n".join(row.name for row in rows.ROWS))
        return not chosen
    if not args.refrain or not args.data:
        parser.error("--refrain and --data are required")
    for name, value in (("rounds", 1 if args.quick else 3), ("seconds", 20 if args.quick else 60),
                        ("limit", 300 if args.quick else 900)):
        if getattr(args, name) is None:
            setattr(args, name, value)
    if not args.python:
        args.python = subprocess.run([HERE / "setup.sh"], stdout=subprocess.PIPE, text=True,
                                     check=True).stdout.strip()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ending what it started, as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="refrain-rivals-", ignore_cleanup_errors=True) as folder:
        Table(args, pathlib.Path(folder)).print_all([quick(r) if args.quick else r for r in chosen])
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Decoding by refrain and by llama.cpp, the engines taking turns: Markdown tables of tokens/s, the
share of the machine's read bandwidth, the prompt's tokens/s and memory, for each model and each type
of weights.

usage: table.py --refrain BIN [--models 15m] [--types f32 q8_0] [--quick] [--page FILE]
       table.py --list

Both engines have the same weights: random ones of a shape, or those of SmolLM2-135M. Before anything
is timed, their logits of the first tokens must be those of refrain in float32 with the weights as
they are stored in that type; and what each engine then generates must be what these logits say.
What is not is refused. --plant writes a wrong file for llama.cpp: each of its rows must be refused.
A round is a process of each engine, and each figure the median of all rounds. Needs the standard
library and a C compiler; llama.cpp's environment is --python, or is made by setup.sh.
"""
import argparse
import dataclasses
import fnmatch
import json
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

import compare
import layout
import rows

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))
from common import MIB, Failed, command_line, machine, put_part, run, say

TITLE = "Decoding, beside llama.cpp"
SUMMARY = ("| model, type | refrain, tokens/s | llama.cpp, tokens/s | ratio | of the read bandwidth: "
           "refrain, llama.cpp | prompt: ratio | memory, of llama.cpp's |\n"
           "|---|---:|---:|---:|---:|---:|---:|")
CHECKED = 64           # tokens whose logits are compared
MOST_CONSTANT = 0.9    # of the variance of logits, in all rows the same
BANDWIDTH_MIB, BANDWIDTH_REPEATS = 512, 15


@dataclasses.dataclass
class Result:
    """What one engine gave in all rounds, of one type of weights."""
    engine: str
    type: rows.Type
    weights: pathlib.Path | None = None    # a directory of refrain's, a file of llama.cpp's
    reference: pathlib.Path | None = None  # these weights in float32, for refrain
    off: float = 0.0                       # compare.off of its logits
    rates: list = dataclasses.field(default_factory=list)
    prompt_rates: list = dataclasses.field(default_factory=list)
    peaks: list = dataclasses.field(default_factory=list)
    stored: int = 0                        # bytes of weights
    checked: set = dataclasses.field(default_factory=set)  # texts that were generated
    failed: str = ""

    @property
    def name(self):
        return f"{self.engine}, {self.type.name if self.engine == 'refrain' else self.type.gguf}"

    def median(self, values):
        return statistics.median(values) if values and not self.failed else None

    @property
    def rate(self):
        return self.median(self.rates)

    @property
    def prompt_rate(self):
        return self.median(self.prompt_rates)

    @property
    def peak(self):
        return self.median(self.peaks)


class Table:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.summary, self.details = [], []  # Markdown
        self.bandwidths = []                 # bytes a second, of each round
        self.features = ""

    # -- the page

    def put(self, text):
        """Text of a model: printed, and kept for the page, whose part is written anew."""
        print(text, flush=True)
        self.details.append(text)
        if self.args.page:
            put_part(self.args.page, TITLE, self.page())

    def head(self):
        wanted = "import llama_cpp; print(llama_cpp.__version__)"
        version = run([self.args.python, "-c", wanted], self.args.limit)[0].split()[-1]
        return machine(self.refrain("--version")[0].strip(), f"llama-cpp-python {version}")

    def page(self):
        return "\n".join([self.machine, "", "    " + self.command(), "",
                          f"{self.args.new_tokens} tokens after a prompt of {self.args.prompt}, "
                          f"keys and values in {self.args.cache_type} (llama.cpp: f16), "
                          f"{self.args.threads} threads, {self.args.rounds} rounds. Memory is read "
                          f"at {self.bandwidth / 1e9:.1f} GB/s. {self.features}".rstrip(), "",
                          SUMMARY, *self.summary, "", *self.details])

    def command(self):
        return command_line(["bench/rivals/llamacpp/table.py", "--refrain", "refrain"],
                            sys.argv[1:], {"--refrain", "--python"})

    # -- processes

    def refrain(self, *words):
        return run([self.args.refrain, *words], self.args.limit)

    def write(self, *words):
        return run([self.args.python, HERE / "write.py", *words], self.args.limit)[0]

    def decode(self, file, ids, *words):
        return run([self.args.python, HERE / "decode.py", file, "--ids", " ".join(map(str, ids)),
                    "--threads", self.args.threads, *words], self.args.limit)[0]

    def measure_bandwidth(self):
        program = self.folder / "bandwidth"
        if not program.exists():
            run(["cc", "-O3", "-march=native", "-pthread", HERE / "bandwidth.c", "-o", program],
                self.args.limit)
        self.bandwidths.append(float(run([program, self.args.threads, BANDWIDTH_MIB,
                                          BANDWIDTH_REPEATS], self.args.limit)[0]))

    @property
    def bandwidth(self):
        return statistics.median(self.bandwidths)

    # -- models

    def refrain_logits(self, directory, ids, first=0):
        """Rows of logits from the token `first` on, and how many columns."""
        out = self.folder / "refrain.safetensors"
        self.refrain("logits", "-m", directory, "--ids", " ".join(map(str, ids)), "--out", out)
        found = layout.read_rows(out, "logits", first)
        out.unlink()
        return found

    def llamacpp_logits(self, file, ids):
        out = self.folder / "llamacpp.safetensors"
        self.decode(file, ids, "--logits", out)
        found = layout.read_rows(out, "logits")
        out.unlink()
        return found

    def prepare(self, model, folder):
        """The model in float32, as refrain opens it, and a result of each engine and type."""
        exact = folder / "f32"
        if model.random:
            self.write("draw", model.name, exact)
        else:
            self.write("directory", "smollm2", exact)
        results = []
        for kind in rows.TYPES:
            if not any(fnmatch.fnmatch(kind.name, p) for p in self.args.types):
                continue
            ours, theirs = Result("refrain", kind), Result("llama.cpp", kind)
            results += [ours, theirs]
            try:
                self.prepare_type(model, exact, ours, theirs)
            except Failed as problem:
                ours.failed = theirs.failed = str(problem)
        return exact, results

    def prepare_type(self, model, exact, ours, theirs):
        kind, folder = ours.type, exact.parent
        stored = theirs.weights = folder / f"{kind.gguf}.gguf"
        self.write("gguf", exact, kind.gguf, stored)
        if kind.name == "f32":
            ours.weights = ours.reference = theirs.reference = exact
        else:
            ours.weights = folder / kind.name
            ours.reference = theirs.reference = folder / f"{kind.name}-in-f32"
            self.write("directory", stored, ours.reference)
        if not model.random and kind.name == "q4":  # the file as it is; `exact` is its weights
            theirs.weights, theirs.reference = pathlib.Path(self.write("path").strip()), exact
        if self.args.plant:
            theirs.weights = folder / f"{kind.gguf}-{self.args.plant}.gguf"
            self.write("gguf", exact, kind.gguf, theirs.weights, "--plant", self.args.plant)
        if ours.weights != exact:
            try:
                self.refrain("quantize", "-m", exact, "-o", ours.weights, "--type", kind.name)
            except Failed as problem:
                ours.failed = str(problem)

    # -- checks

    def check_logits(self, result, ids, wanted):
        """Why not to time it; nothing when its logits are `wanted`."""
        if result.engine == "refrain" and result.weights == result.reference:
            return ""  # it is what others are compared with
        values, columns = wanted
        if result.engine == "refrain":
            found = self.refrain_logits(result.weights, ids)
        else:
            found = self.llamacpp_logits(result.weights, ids)
        if found[1] != columns:
            return f"refused: logits of {found[1]:,} tokens, expected {columns:,}"
        result.off = compare.off(found[0], values)
        say(f"  {result.name}: logits off by {result.off:.2g} of their spread")
        if not result.off <= result.type.tolerance:
            return (f"refused: the logits of the first {len(ids)} tokens are off by "
                    f"{result.off:.2g} of their spread, more than {result.type.tolerance}")
        return ""

    def check_model(self, results, prompt):
        """Marks the results whose logits are not what their weights say."""
        wanted = {}
        for result in results:
            if result.failed:
                continue
            ids = prompt[:CHECKED]
            try:
                if result.reference not in wanted:
                    wanted[result.reference] = self.refrain_logits(result.reference, ids)
                values = wanted[result.reference]
                constant = compare.constant_share(*values)
                if not constant <= MOST_CONSTANT:
                    raise Failed(f"refused: {100 * constant:.0f} % of the logits' variance does not "
                                 "depend on the tokens: nothing is compared")
                result.failed = self.check_logits(result, ids, values)
            except Failed as problem:
                result.failed = str(problem)
            if result.failed:
                say(f"  {result.name}: {result.failed}")

    def check_text(self, result, prompt, ids, logprobs):
        """Refuses a text that the weights' logits do not give; each one is checked once."""
        if tuple(ids) in result.checked:
            return
        wanted, columns = self.refrain_logits(result.reference, [*prompt, *ids[:-1]],
                                              len(prompt) - 1)
        distance = compare.chosen_off(wanted, columns, ids, logprobs)
        say(f"  {result.name}: chosen tokens off by {distance:.2g} of the logits' spread")
        if not distance <= result.type.decoded:
            raise Failed(f"refused: what was generated is off by {distance:.2g} of the logits' "
                         f"spread, more than {result.type.decoded}")
        result.checked.add(tuple(ids))

    # -- turns

    def turn(self, result, prompt):
        """A process of the engine; its text is checked, and its times are added."""
        if result.engine == "refrain":
            out, peak = self.refrain(
                "generate", "-m", result.weights, "-p", layout.text_of(prompt), "--max-new-tokens",
                self.args.new_tokens, "--temp", 0, "--ignore-eos", "--json", "--threads",
                self.args.threads, "--cache-type", self.args.cache_type)
            found = json.loads(out)
            if found["prompt_tokens"] != len(prompt):
                raise Failed(f"a prompt of {found['prompt_tokens']:,} tokens, expected "
                             f"{len(prompt):,}")
            ids = [token["id"] for token in found["tokens"]]
            logprobs = [token["logprob"] for token in found["tokens"]]
            result.stored = layout.stored_bytes(result.weights)
        else:
            found = json.loads(self.decode(result.weights, prompt, "--new-tokens",
                                           self.args.new_tokens).splitlines()[-1])
            ids, logprobs = found["ids"], found["logprobs"]
            result.stored, peak = found["stored_bytes"], found["memory_bytes"]
            self.features = f"llama.cpp is built with {', '.join(found['features'])}."
        if len(ids) != self.args.new_tokens:
            raise Failed(f"{len(ids):,} new tokens, expected {self.args.new_tokens:,}")
        self.check_text(result, prompt, ids, logprobs)
        # The first token is the prompt's.
        result.rates.append((len(ids) - 1) / found["generation_seconds"])
        result.prompt_rates.append(len(prompt) / found["prompt_seconds"])
        result.peaks.append(peak)

    def measure(self, model):
        say(f"{model.name}: files of both engines")
        folder = self.folder / model.name
        exact, results = self.prepare(model, folder)
        shape = layout.read_shape(exact)
        if self.args.prompt + self.args.new_tokens > shape.context:
            raise Failed(f"{self.args.prompt} and {self.args.new_tokens} tokens are more than its "
                         f"{shape.context:,}")
        draw = random.Random(1)
        prompt = [draw.randrange(shape.vocab) for _ in range(self.args.prompt)]
        self.check_model(results, prompt)
        for turn in range(self.args.rounds):
            self.measure_bandwidth()
            for result in results:
                if result.failed:
                    continue
                say(f"{model.name}: round {turn + 1}, {result.name}")
                try:
                    self.turn(result, prompt)
                except Failed as problem:
                    result.failed = str(problem)
                    say(f"  {problem}")
        shutil.rmtree(folder)
        self.summarise(model, results)
        self.print_model(model, shape, results)

    # -- Markdown

    def share(self, result):
        return f"{100 * result.stored * result.rate / self.bandwidth:.0f} %"

    def print_model(self, model, shape, results):
        state = 2 * shape.layers * shape.kv_heads * (shape.width // shape.heads)
        after = self.args.prompt + self.args.new_tokens // 2
        lines = [f"### {model.title}", "",
                 f"{layout.parameters(shape):,} parameters, vocabulary {shape.vocab:,}; keys and "
                 f"values of {after} tokens are {4 * state * after / MIB:.0f} MiB in float32, half of that "
                 "in 16 bits", "",
                 "| engine, type | tokens/s | of the read bandwidth | prompt, tokens/s | peak "
                 "memory, MiB | weights, MiB | logits off by |", "|---|---:|---:|---:|---:|---:|---:|"]
        for r in results:
            cells = ["-"] * 6
            if r.rate:
                checked = r.weights != r.reference or r.engine != "refrain"
                cells = [f"{r.rate:,.0f}", self.share(r), f"{r.prompt_rate:,.0f}",
                         f"{r.peak / MIB:,.0f}", f"{r.stored / MIB:,.0f}",
                         f"{r.off:.2g}" if checked else ""]
            lines.append("| " + " | ".join([r.name, *cells]) + " |")
        notes = [f"- {r.name}: {r.failed}" for r in results if r.failed]
        self.put("\n".join([*lines, "", *notes, *([""] if notes else [])]))

    def summarise(self, model, results):
        for ours, theirs in zip(results[::2], results[1::2]):
            if not (ours.rate and theirs.rate):
                continue
            both = f"{self.share(ours)}, {self.share(theirs)}"
            self.summary.append(
                f"| {model.title}, {ours.type.name} | {ours.rate:,.0f} | {theirs.rate:,.0f} | "
                f"{ours.rate / theirs.rate:.2f} | {both} | "
                f"{ours.prompt_rate / theirs.prompt_rate:.2f} | "
                f"{100 * ours.peak / theirs.peak:.0f} % |")

    def print_all(self, chosen):
        self.machine = self.head()
        self.measure_bandwidth()
        for model in chosen:
            try:
                self.measure(model)
            except Failed as problem:
                self.put(f"### {model.title}\n\nnot measured: {problem}\n")
        if self.summary:
            print("### Summary\n\n" + SUMMARY + "\n" + "\n".join(self.summary) + "\n")
        print(f"Memory is read at {self.bandwidth / 1e9:.1f} GB/s.")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", help="the program")
    parser.add_argument("--python", help="a Python with llama.cpp; none = what setup.sh makes")
    parser.add_argument("--models", nargs="+", default=["*"], help="names or patterns of models")
    parser.add_argument("--types", nargs="+", default=["*"], help="names or patterns of types")
    parser.add_argument("--list", action="store_true", help="print the models' and types' names")
    parser.add_argument("--rounds", type=int, help="turns of each engine [5]")
    parser.add_argument("--prompt", type=int, default=512, help="tokens before the first [512]")
    parser.add_argument("--new-tokens", type=int, help="[128]")
    parser.add_argument("--threads", type=int, default=2, help="[2]")
    parser.add_argument("--cache-type", default="bf16", choices=("f32", "bf16", "q8_0"),
                        help="of refrain's keys and values; llama.cpp's are float16 [bf16]")
    parser.add_argument("--limit", type=float, default=600,
                        help="seconds of a process, then it is ended [600]")
    parser.add_argument("--page", help="write all of it to this file, the summary first: a part of "
                        "the page of a machine, whose name the file has")
    parser.add_argument("--quick", action="store_true",
                        help="one round of eight tokens after 64: to try it")
    parser.add_argument("--plant", choices=("scaled", "unpermuted"),
                        help="an error in llama.cpp's files, to see all of them refused")
    args = parser.parse_args()
    chosen = [m for m in rows.MODELS if any(fnmatch.fnmatch(m.name, p) for p in args.models)]
    if args.list or not chosen:
        print("models: " + " ".join(m.name for m in rows.MODELS))
        print("types: " + " ".join(t.name for t in rows.TYPES))
        return not args.list
    if not args.refrain:
        parser.error("--refrain is required")
    if args.quick:
        args.prompt = 64
    for name, value in (("rounds", 1 if args.quick else 5), ("new_tokens", 8 if args.quick else 128)):
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.prompt < CHECKED or args.new_tokens < 2 or args.rounds < 1:
        parser.error(f"expected a prompt of {CHECKED} tokens or more, 2 new tokens, 1 round")
    if not args.python:
        args.python = subprocess.run([HERE / "setup.sh"], stdout=subprocess.PIPE, text=True,
                                     check=True).stdout.strip()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ending what it started, as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="refrain-rivals-", ignore_cleanup_errors=True) as folder:
        Table(args, pathlib.Path(folder)).print_all(chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())

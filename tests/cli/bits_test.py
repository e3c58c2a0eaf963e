#!/usr/bin/env python3
"""Tests that no bit of what is computed has changed: trained weights, logits, generated text.

usage: bits_test.py REFRAIN [unittest's arguments]
       bits_test.py REFRAIN --write      record what this program computes, for the instruction
                                         sets that this machine has

tests/golden/bits.json holds, for each case, SHA-256 sums by compute type and instruction set
(REFRAIN_ISA). A sum covers a model's tensors whatever their names and their order in the file, so
that both may change; the values may not. Recorded with glibc 2.36: another C library may round
exp or tanh differently, which is not a fault of the program.

A change that is meant to alter what is computed records the sums anew, and says so in CHANGELOG.

REFRAIN_DATA names the folder of real material; the sums of a real model are skipped without it.
"""
import hashlib
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import unittest

import cli_test

REFRAIN = None  # the program; set by main()
GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "bits.json"
DATA = os.environ.get("REFRAIN_DATA")

MIXERS = ["attention", "attention_rnn", "gla", "gru", "lstm", "mm_rec", "rnn", "simple_rnn"]
COMPUTE = {"float32": [], "bf16": ["--bf16"], "int16": ["--int16"]}
SMALL_MEMORY = ["--mm-rec.slots", 4, "--mm-rec.stretch", 16]  # so that it fills in a sequence
# Case: its task, and the flags that make it differ from the others.
CASES = {
    **{f"pre_norm {m}": ("lm", ["--pattern", m, *(SMALL_MEMORY if m == "mm_rec" else [])])
       for m in MIXERS},
    **{f"bare {m}": ("lm", ["--pattern", m, "--block", "bare", "--layers", 1,
                            *(SMALL_MEMORY if m == "mm_rec" else [])]) for m in MIXERS},
    "hybrid": ("lm", ["--pattern", "gla lstm attention", "--layers", 3, "--feed-forward", "gelu",
                      "--gla.conv", 3, "--dropout", 0.1, "--attention-dropout", 0.1]),
    "sparse attention": ("lm", ["--heads", 4, "--kv-heads", 2, "--attention.window", 24,
                                "--attention.stride", 16, "--attention.rope-pairing", "adjacent",
                                "--tie-embeddings", "--label-smoothing", 0.1]),
    "truncated": ("lm", ["--pattern", "gla mm_rec", "--tbptt", 64, "--gla.gate", "sigmoid",
                         "--mm-rec.recurrence", "linear", *SMALL_MEMORY]),
    "translate": ("translate", ["--max-tokens", 500, "--context", 128, "--weight-decay", 0]),
    **{f"autoencoder {d}": ("reconstruct", ["--autoencoder.decoder", d])
       for d in ("plain", "cross_attention", "self_attention")},
}
FLAGS = {
    "lm": ["--layers", 2, "--d-model", 48, "--heads", 2, "--context", 160, "--batch-size", 3,
           "--tokenizer", "bpe:120"],
    "translate": ["--layers", 2, "--d-model", 48, "--heads", 2],
    "reconstruct": ["--autoencoder.hidden", 32, "--autoencoder.layers", 2,
                    "--autoencoder.bottleneck", 16, "--autoencoder.heads", 2,
                    "--embedding-width", 24, "--embeddings", "learned", "--window", "6 9",
                    "--min-window", 3, "--batch-size", 12],
}
# Instruction sets (names of REFRAIN_ISA), and what the processor must have for them.
SETS = {"scalar": "sse2", "avx2": "avx2 fma", "avx512": "avx512f avx512bw avx512dq avx512vl",
        "avx512-vnni": "avx512_vnni", "avx512-bf16": "avx512_bf16", "amx": "amx_bf16 amx_tile"}


def machine_sets():
    """The instruction sets that this machine has and the program knows, the best one last."""
    flags = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    have = set(flags.group(1).split()) if flags else set()
    known = []
    for name, needs in SETS.items():
        if not set(needs.split()) <= have and name != "amx":
            break
        if set(needs.split()) <= have:
            known.append(name)
    return [name for name in known if subprocess.run(
        [REFRAIN, "--version"], env={**os.environ, "REFRAIN_ISA": name},
        capture_output=True).returncode == 0]


class Draw:
    """A linear congruential generator: the same text wherever the test runs."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


WORDS = ("the of and a to in he was that it his her with as had you not be at on she for but is "
         "him they all from this said were by so one out what up been would when if no which them "
         "there who could more then some into like time now over little than down only").split()


def sentence(draw):
    return " ".join(WORDS[min(draw.below(len(WORDS)), draw.below(len(WORDS)))]
                    for _ in range(4 + draw.below(9)))


def write_texts(folder):
    draw = Draw(20)
    lines = [sentence(draw) + ".\n" for _ in range(400)]
    (folder / "lm.txt").write_text("".join(lines))
    (folder / "reconstruct.txt").write_text(
        "".join(line + ("\n\n\n" if i % 8 == 7 else "") for i, line in enumerate(lines)))
    (folder / "translate.tsv").write_text(
        "".join(f"{s}\t{' '.join(reversed(s.split()))}\n" for s in (sentence(draw)
                                                                    for _ in range(80))))


def tensors(path):
    """The tensors of a safetensors file: (name, shape, bytes)."""
    blob = path.read_bytes()
    end = 8 + struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8:end])
    header.pop("__metadata__", None)
    for name, t in header.items():
        first, last = t["data_offsets"]
        yield name, t["shape"], blob[end + first:end + last]


def sum_of(path):
    """Of all tensors, whatever their names and order."""
    parts = sorted(hashlib.sha256(repr(shape).encode() + data).hexdigest()
                   for _, shape, data in tensors(path))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


class Program:
    def __init__(self, folder, isa):
        self.folder = folder
        self.env = {**os.environ, "REFRAIN_ISA": isa, "OMP_WAIT_POLICY": "passive"}

    def run(self, *arguments):
        done = subprocess.run([REFRAIN, *cli_test.override(arguments)], cwd=self.folder, env=self.env,
                              capture_output=True, timeout=300)
        if done.returncode != 0:
            raise AssertionError(f"{arguments}: {done.stderr.decode()}")
        return done.stdout

    def train(self, case, compute):
        """Trains the case; the sum of its weights."""
        task, flags = CASES[case]
        out = f"{case} {compute}"
        data = {"lm": "lm.txt", "translate": "translate.tsv", "reconstruct": "reconstruct.txt"}
        self.run("train", "--task", task, "--data", data[task], "--out", out, "--max-steps", 4,
                 "--warmup-steps", 2, "--learning-rate", 3e-3, *FLAGS[task], *flags,
                 *COMPUTE[compute])
        return sum_of(self.folder / out / "model.safetensors")

    def logits(self, model, ids):
        self.run("logits", "-m", model, "--ids", " ".join(map(str, ids)), "--out", "logits.st")
        sum = sum_of(self.folder / "logits.st")
        (self.folder / "logits.st").unlink()
        return sum

    def generated(self, model):
        done = json.loads(self.run("generate", "-m", model, "-p", "the", "-n", 40, "--temp", 0.9,
                                   "--seed", 3, "--logprobs", 2, "--json", "--ignore-eos"))
        what = {key: done[key] for key in ("text", "tokens")}
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def sums(self, case):
        """What is recorded of a case: {what: sum}."""
        task = CASES[case][0]
        # --bf16 and --int16 are for language models.
        sums = {compute: self.train(case, compute)
                for compute in (COMPUTE if task != "reconstruct" else ["float32"])}
        if task == "lm":
            sums["logits"] = self.logits(f"{case} float32", [(7 * i) % 100 for i in range(50)])
            sums["generated"] = self.generated(f"{case} float32")
        return sums


def real_sums(program):
    real = pathlib.Path(DATA) / "stories260K"
    program.run("convert", "--from", "llama2c", real / "stories260K.bin", "--tokenizer",
                real / "tok512.bin", "--out", "stories260K")
    ids = [int(i) for i in (real / "ref_tokens.txt").read_text().split()]
    return {"logits": program.logits("stories260K", ids)}


class Bits(unittest.TestCase):
    """One test a case; made by add_tests."""

    @classmethod
    def setUpClass(cls):
        cls.golden = json.loads(GOLDEN.read_text())

    def check(self, case, sums_of):
        recorded = self.golden[case]
        sets = machine_sets()
        # The machine's own, and one that every machine has.
        chosen = [s for s in dict.fromkeys(("avx2", *sets[-1:])) if s in sets and s in recorded]
        if not chosen:
            self.skipTest("no sums are recorded for this machine's instruction sets")
        for isa in chosen:
            with self.subTest(isa), tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name)
                write_texts(folder)
                self.assertEqual(sums_of(Program(folder, isa)), recorded[isa])

    def test_compute_types_differ(self):
        """A case whose three compute types agree would show nothing of two of them."""
        for case, (task, _) in CASES.items():
            for isa, sums in self.golden[case].items():
                if task != "reconstruct":
                    self.assertEqual(len({sums[c] for c in COMPUTE}), 3, f"{case}, {isa}")

    def test_cases_differ(self):
        sums = [self.golden[case]["avx2"]["float32"] for case in CASES]
        self.assertEqual(len(set(sums)), len(CASES))

    @unittest.skipUnless(DATA, "REFRAIN_DATA is not set")
    def test_stories260K(self):
        self.check("stories260K", real_sums)


def add_tests():
    for case in CASES:
        test = lambda self, case=case: self.check(case, lambda program: program.sums(case))
        setattr(Bits, "test_" + case.replace(" ", "_"), test)


def write():
    recorded = {}
    for isa in machine_sets():
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            write_texts(folder)
            program = Program(folder, isa)
            for case in CASES:
                recorded.setdefault(case, {})[isa] = program.sums(case)
            recorded.setdefault("stories260K", {})[isa] = real_sums(program)
    GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")


def main():
    global REFRAIN
    REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    if sys.argv[1:] == ["--write"]:
        if not DATA:
            sys.exit("bits_test.py: --write: expected REFRAIN_DATA, for the sums of a real model")
        return write()
    add_tests()
    unittest.main(module="__main__")


if __name__ == "__main__":
    main()

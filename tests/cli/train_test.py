#!/usr/bin/env python3
"""Tests of training as its users meet it: the promise of bits, interruptions, mistakes.

usage: train_test.py REFRAIN [unittest's arguments]

KILLS sets how many times a run is killed at a random moment (default 50).
"""
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree

import cli_test

WORDS = "the quick brown fox jumps over a lazy dog and then sleeps under old trees by night".split()


def text(lines, seed=3):
    draw = random.Random(seed)
    return "".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) + "\n" for _ in range(lines))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TrainCase(cli_test.PlainCase):
    SMALL = ["--layers", 2, "--heads", 2, "--d-model", 16, "--context", 24, "--warmup-steps", 2]

    def setUp(self):
        super().setUp()
        self.data = self.put("text.txt", text(300))

    def lm(self, out, *more):
        return ["train", "--data", self.data, "--out", self.dir / out, *self.SMALL, *more]

    def weights(self, out):
        return sha256(self.dir / out / "model.safetensors")

    def load(self, out):
        """The run directory is a usable model."""
        info = json.loads(self.must("info", "-m", self.dir / out, "--json"))
        self.must("generate", "-m", self.dir / out, "-p", "the", "-n", 3, "--temp", 0)
        return info

    def refuses(self, command, says):
        """One line, exit 2, and no run directory begun; text made of it is not kept either."""
        done = self.call(*command)
        error = done.stderr.decode()
        self.assertEqual(done.returncode, 2, error)
        lines = [line for line in error.splitlines() if line.startswith("refrain train:")]
        self.assertEqual(len(lines), 1, error)
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, lines[0])
        self.assertFalse((self.dir / "run" / "tokenizer.json").exists() and
                         not (self.dir / "run" / "training_args.json").exists(), "half a run")
        return error


class Promise(TrainCase):
    """The same weights, to the bit, however the work is cut."""

    def same(self, command, variants, steps, prefix=""):
        """command(out, *flags) trains; every variant must leave the weights of the first."""
        want = None
        for name, flags in variants.items():
            self.must(*command(name, "--max-steps", steps, *flags))
            got = self.weights(prefix + name)
            want = want or got
            self.assertEqual(got, want, name)
        return want

    def test_language_model(self):
        for name, extra in {"plain": [],
                            "dropout-tied": ["--dropout", 0.1, "--attention-dropout", 0.2,
                                             "--tie-embeddings", "--kv-heads", 1]}.items():
            with self.subTest(name):
                command = lambda out, *flags: self.lm(f"{name}-{out}", *extra, *flags)
                want = None
                for out, flags in {
                        "one": ["--threads", 1, "--batch-size", 12],
                        "two": ["--threads", 2, "--batch-size", 12],
                        "three": ["--threads", 3, "--batch-size", 12],
                        "micro": ["--batch-size", 4, "--gradient-accumulation-steps", 3],
                        "single": ["--batch-size", 1, "--gradient-accumulation-steps", 12],
                        "again": ["--batch-size", 6, "--gradient-accumulation-steps", 2,
                                  "--gradient-checkpointing", "blocks"]}.items():
                    self.must(*command(out, "--max-steps", 20, *flags))
                    got = self.weights(f"{name}-{out}")
                    want = want or got
                    self.assertEqual(got, want, out)
                # Stopped and gone on, with another cut on the other side.
                self.must(*command("stopped", "--max-steps", 20, "--batch-size", 12,
                                   "--stop-after", 7))
                self.assertNotEqual(self.weights(f"{name}-stopped"), want)
                self.must("train", "--resume", self.dir / f"{name}-stopped", "--batch-size", 3,
                          "--gradient-accumulation-steps", 4, "--threads", 1)
                self.assertEqual(self.weights(f"{name}-stopped"), want)

    def test_translation(self):
        draw = random.Random(5)
        pairs = [(" ".join(draw.choices(WORDS, k=draw.randint(1, 9))),) for _ in range(200)]
        pairs = [(a, " ".join(reversed(a.split()))) for a, in pairs]
        source = self.put("a.en", "".join(a + "\n" for a, _ in pairs))
        target = self.put("a.ja", "".join(b + "\n" for _, b in pairs))
        command = lambda out, *flags: ["train", "--task", "translate", "--data", source, target,
                                       "--out", self.dir / out, *self.SMALL, "--tokenizer",
                                       "bpe:60", "--context", 64, *flags]
        self.same(command, {
            "whole": ["--max-tokens", 360, "--threads", 1],
            "parts": ["--max-tokens", 120, "--gradient-accumulation-steps", 3, "--threads", 2],
            "blocks": ["--max-tokens", 180, "--gradient-accumulation-steps", 2,
                       "--gradient-checkpointing", "blocks"]}, 12)

    def test_every_mixer(self):
        for mixer in ("attention_rnn", "gla", "gru", "lstm", "mm_rec", "rnn", "simple_rnn",
                      "gla attention", "lstm attention_rnn", "mm_rec attention"):
            name = mixer.replace(" ", "-")
            kind = "gelu" if "mm_rec" in mixer else "swiglu"
            drop = ["--attention-dropout", 0.2] if "attention" in mixer.split() else []
            command = lambda out, *flags: self.lm(f"{name}-{out}", "--pattern", mixer, *drop,
                                                  "--feed-forward", kind, "--context", 150, *flags)
            with self.subTest(mixer):
                self.same(command, {
                    "one": ["--threads", 1, "--batch-size", 4],
                    "two": ["--threads", 2, "--batch-size", 2,
                            "--gradient-accumulation-steps", 2],
                    "three": ["--threads", 3, "--batch-size", 4,
                              "--gradient-checkpointing", "blocks"],
                    "steps": ["--batch-size", 1, "--gradient-accumulation-steps", 4,
                              "--gradient-checkpointing", 64]}, 6, name + "-")
                self.same(command, {
                    "cut": ["--tbptt", 64, "--batch-size", 4],
                    "cut-again": ["--tbptt", 64, "--batch-size", 2, "--threads", 1,
                                  "--gradient-accumulation-steps", 2,
                                  "--gradient-checkpointing", "blocks"]}, 6, name + "-")

    def test_rounded_operands(self):
        """Pieces of all lengths: products over rows are cut where the micro-batches are."""
        source = self.put("s.jsonl", "".join(
            json.dumps({"prompt": " ".join(WORDS[i % 7:i % 7 + i % 5 + 1]),
                        "completion": " ".join(WORDS[:i % 11 + 1])}) + "\n" for i in range(150)))
        for mixer in ("attention", "attention_rnn", "gla", "lstm", "mm_rec"):
            name = mixer + "-"
            command = lambda out, *flags: [
                "train", "--task", "translate", "--data", source, "--out", self.dir / (name + out),
                *self.SMALL, "--tokenizer", "bpe:60", "--context", 64, "--pattern", mixer,
                "--feed-forward", "gelu" if mixer == "mm_rec" else "swiglu", *flags]
            loss = lambda out: json.loads((self.dir / (name + out) / "metrics.jsonl").read_text()
                                          .splitlines()[-1])["eval_loss"]
            wide = self.same(command, {"wide": ["--batch-size", 12]}, 8, name)
            for flag in ("--bf16", "--int16"):
                with self.subTest(f"{mixer} {flag}"):
                    narrow = self.same(command, {
                        "one" + flag: [flag, "--threads", 1, "--batch-size", 12],
                        "two" + flag: [flag, "--threads", 2, "--batch-size", 4,
                                       "--gradient-accumulation-steps", 3],
                        "blocks" + flag: [flag, "--batch-size", 1, "--gradient-accumulation-steps",
                                          12, "--gradient-checkpointing", "blocks"],
                        "steps" + flag: [flag, "--batch-size", 6, "--gradient-accumulation-steps",
                                         2, "--gradient-checkpointing", 16]}, 8, name)
                    self.assertNotEqual(narrow, wide)
                    self.assertLess(abs(loss("one" + flag) / loss("wide") - 1), 0.01)

    def smallest_budget(self, command):
        """MiB that are just enough for a run, as the refusal of an impossible budget says."""
        line = self.refuses(command("impossible", "--memory", "1K"),
                            says="needs at least")
        # An emulator's own memory, which counts as the program's, is not the same in every process.
        spare = 2 if cli_test.emulated() else 0
        return int(re.search(r"at least (\d+) MiB", line).group(1)) + spare

    def test_budgets(self):
        """Threads x budgets x recomputation x micro-batches x stop and resume, for every mixer."""
        for pattern in ("attention", "gla", "attention_rnn", "lstm", "gru", "rnn", "simple_rnn",
                        "mm_rec", "gla attention"):
            for precision in ([], ["--bf16"], ["--int16"]):
                name = f"{pattern.replace(' ', '-')}{''.join(precision)}-"
                command = lambda out, *flags: self.lm(
                    name + out, "--pattern", pattern, "--d-model", 32, "--context", 160,
                    "--batch-size", 16, *precision, *flags)
                with self.subTest(name):
                    least = self.smallest_budget(command)
                    want = self.same(command, {
                        "none": ["--threads", 1],
                        "smallest": ["--threads", 2, "--memory", f"{least}M"],
                        "middle": ["--threads", 4, "--memory", f"{least + 5}M"],
                        "parts": ["--threads", 2, "--batch-size", 4,
                                  "--gradient-accumulation-steps", 4, "--gradient-checkpointing",
                                  "mixers,feed_forwards"],
                        "steps": ["--batch-size", 8, "--gradient-accumulation-steps", 2,
                                  "--gradient-checkpointing", "blocks:1,48"]}, 3, name)
                    plans = [json.loads((self.dir / (name + out) / "plan.json").read_text())
                             for out in ("smallest", "middle")]
                    self.assertLess(plans[0]["bytes"]["total"], plans[1]["bytes"]["total"])
                    self.must(*command("stopped", "--memory", f"{least}M", "--max-steps", 3,
                                       "--stop-after", 2))
                    self.must("train", "--resume", self.dir / (name + "stopped"), "--memory",
                              f"{least + 20}M", "--threads", 1)
                    self.assertEqual(self.weights(name + "stopped"), want)

    def test_fast_activations(self):
        """They are another model, which is saved as such, and as exact in every cut."""
        for pattern in ("lstm", "simple_rnn", "gru attention", "mm_rec"):
            name = pattern.replace(" ", "-")
            command = lambda out, *flags: self.lm(
                f"{name}-{out}", "--pattern", pattern, "--context", 150, "--activation-precision",
                "fast", *flags)
            with self.subTest(pattern):
                fast = self.same(command, {
                    "one": ["--threads", 1, "--batch-size", 4],
                    "two": ["--threads", 2, "--batch-size", 2,
                            "--gradient-accumulation-steps", 2],
                    "steps": ["--batch-size", 1, "--gradient-accumulation-steps", 4,
                              "--gradient-checkpointing", 64]}, 6, name + "-")
                self.must(*command("stopped", "--batch-size", 4, "--max-steps", 6,
                                   "--stop-after", 2))
                self.must("train", "--resume", self.dir / f"{name}-stopped")
                self.assertEqual(self.weights(f"{name}-stopped"), fast)
                self.must(*self.lm(f"{name}-usual", "--pattern", pattern, "--context", 150,
                                   "--batch-size", 4, "--max-steps", 6))
                self.assertNotEqual(self.weights(f"{name}-usual"), fast)
                run = self.dir / f"{name}-one"
                self.assertEqual(self.load(run)["config"]["activation_precision"], "fast")
                self.must("verify", "-m", run, "--tokens", 20, "--gradient-tokens", 4)
                # What the file says is what is computed.
                logits = lambda: self.must("logits", "-m", run, "--ids", "1 2 3", "--out",
                                           self.dir / "l.safetensors") or sha256(
                                               self.dir / "l.safetensors")
                before = logits()
                config = json.loads((run / "config.json").read_text())
                config["activation_precision"] = "accurate"
                (run / "config.json").write_text(json.dumps(config))
                self.assertNotEqual(logits(), before)
        self.refuses(self.lm("run", "--activation-precision", "quick"),
                     says="activation_precision: expected accurate or fast, found 'quick'")

    def test_settings_of_mixers_go_on(self):
        """A run that goes on has the settings it began with, those of its mixers too."""
        for pattern, name, value, other in (("attention", "attention.window", 5, 9),
                                            ("gla", "gla.gate_divisor", 4, 8),
                                            ("simple_rnn", "simple_rnn.conv", 3, 2),
                                            ("mm_rec", "mm_rec.stretch", 4, 6)):
            with self.subTest(name):
                flag = f"--{name}"
                command = lambda out, *flags: self.lm(f"{pattern}-{out}", "--pattern", pattern,
                                                      flag, value, "--max-steps", 6, *flags)
                self.must(*command("whole"))
                want = self.weights(f"{pattern}-whole")
                self.must(*self.lm(f"{pattern}-usual", "--pattern", pattern, "--max-steps", 6))
                self.assertNotEqual(self.weights(f"{pattern}-usual"), want)
                self.must(*command("stopped", "--stop-after", 3))
                run = self.dir / f"{pattern}-stopped"
                recorded = json.loads((run / "training_args.json").read_text())
                self.assertEqual(recorded[name], value)
                self.refuses(["train", "--resume", run, flag, other], says="cannot change")
                recorded[name] = str(other)
                (run / "training_args.json").write_text(json.dumps(recorded))
                self.refuses(["train", "--resume", run], says="is not the model that")
                recorded[name] = str(value)  # as former versions recorded it
                (run / "training_args.json").write_text(json.dumps(recorded))
                self.must("train", "--resume", run)
                self.assertEqual(self.weights(f"{pattern}-stopped"), want)
                self.assertEqual((run / "config.json").read_text(),
                                 (self.dir / f"{pattern}-whole" / "config.json").read_text())

    def test_long_sequences(self):
        """Beyond 4,096 tokens: in chunks, whose activations are kept or computed again."""
        data = self.put("long.txt", text(6000))
        command = lambda out, *flags: [
            "train", "--data", data, "--out", self.dir / out, "--pattern", "gla lstm", "--layers", 4,
            "--d-model", 64, "--heads", 2, "--context", 12500, "--batch-size", 2, *flags]
        least = self.smallest_budget(command)
        self.same(command, {
            "kept": ["--threads", 1],
            "again": ["--gradient-checkpointing", "chunks", "--threads", 2],
            "disk": ["--gradient-checkpointing", "chunks,blocks", "--offload-states"],
            "earlier names": ["--gradient-checkpointing", "segments,blocks", "--spill-states"],
            "single": ["--batch-size", 1, "--gradient-accumulation-steps", 2],
            "budget": ["--memory", f"{least}M"]}, 2)
        self.assertIn("chunks", json.loads((self.dir / "budget" / "plan.json").read_text())
                      ["gradient_checkpointing"])

    def test_truncated_backpropagation(self):
        command = lambda out, *flags: self.lm(out, "--tbptt", 7, *flags)
        want = self.same(command, {
            "whole": ["--batch-size", 6, "--threads", 1],
            "parts": ["--batch-size", 2, "--gradient-accumulation-steps", 3, "--threads", 2],
            "blocks": ["--batch-size", 6, "--gradient-checkpointing", "blocks"]}, 10)
        exact = lambda out, *flags: self.lm(out, *flags)
        self.assertNotEqual(want, self.same(exact, {"exact": ["--batch-size", 6]}, 10))
        # As long as the sequence, or longer, it cuts nothing.
        self.same(exact, {"none": ["--batch-size", 6], "all": ["--batch-size", 6, "--tbptt", 24],
                          "more": ["--batch-size", 6, "--tbptt", 99]}, 10)

    def test_another_seed_is_another_model(self):
        self.must(*self.lm("a", "--max-steps", 3, "--seed", 1))
        self.must(*self.lm("b", "--max-steps", 3, "--seed", 2))
        self.assertNotEqual(self.weights("a"), self.weights("b"))


class Budgets(TrainCase):
    """The whole process stays within the memory that was named."""

    MODEL = ["--layers", 3, "--heads", 3, "--d-model", 192, "--context", 100]

    def peak(self, *arguments, limit=None):
        """Largest resident set of the program in bytes, which is more than this process's, for
        the system counts that too; with a limit on the memory that the program may write."""
        def enter():
            if limit:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        process = subprocess.Popen([cli_test.REFRAIN, *cli_test.override(arguments)], cwd=self.dir,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=enter)
        errors = process.stderr.read()
        process.stderr.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0, errors)
        return usage.ru_maxrss * 1024

    def test_peak_is_the_plan(self):
        self.measures_memory()
        command = lambda out, *flags: ["train", "--data", self.data, "--out", self.dir / out,
                                       *self.MODEL, "--batch-size", 16, "--max-steps", 3,
                                       "--threads", 2, *flags]
        line = self.refuses(command("no", "--memory", "1K"), says="needs at least")
        least = int(re.search(r"at least (\d+) MiB", line).group(1))
        for budget in (least, least + 10, least + 60):
            # What the system counts and is not resident: the threads' stacks.
            peak = self.peak(*command(str(budget), "--memory", f"{budget}M"),
                             limit=(budget + 24 << 20))
            plan = json.loads((self.dir / str(budget) / "plan.json").read_text())
            self.assertLessEqual(peak, budget << 20)
            self.assertLess(abs(peak / plan["bytes"]["total"] - 1), 0.05)

    def test_variable_lengths_stay_flat(self):
        self.measures_memory()
        draw = random.Random(2)
        pairs = "".join(" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) + "\tone two\n"
                        for _ in range(400))
        source = self.put("a.tsv", pairs)
        self.must("train", "--task", "translate", "--data", source, "--out", self.dir / "run",
                  *self.SMALL, "--tokenizer", "bpe:60", "--context", 256, "--max-tokens", 512,
                  "--skip-long", "--max-steps", 600, "--logging-steps", 50, "--valid-split", 0)
        peaks = [json.loads(line)["peak_memory_bytes"]
                 for line in (self.dir / "run" / "metrics.jsonl").read_text().splitlines()]
        self.assertLessEqual(peaks[-1], peaks[2] + (1 << 20))

    def test_nonsense(self):
        train = lambda memory: ["train", "--data", self.data, "--out", self.dir / "run",
                                *self.MODEL, "--memory", memory]
        for bad in ("0", "-5", "2.5.3G", "G", "1 G"):
            self.fails(*train(bad), says=["memory", f"'{bad}'", "800M or 2G"])
        self.refuses(train("1K"), says=["1 KiB is too little", "needs at least", "parameters"])
        self.refuses(train("900T"), says=["is more than the", "of this machine"])
        self.assertFalse((self.dir / "run").exists())

    def test_plan(self):
        self.measures_memory()
        os.environ["XDG_CACHE_HOME"] = str(self.dir / "cache")
        self.addCleanup(os.environ.pop, "XDG_CACHE_HOME")
        plan = lambda *flags: self.must("plan", "--vocab-size", 60, *self.MODEL, "--batch-size", 32,
                                        *flags)
        table = plan("--svg", self.dir / "curve.svg")
        self.assertIn("every plan gives the same weights", table)
        self.assertGreater(len(table.splitlines()), 5)
        picture = xml.etree.ElementTree.parse(self.dir / "curve.svg")
        self.assertGreater(len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))), 2)
        found = json.loads(plan("--json", "--budgets", "90M", "60M"))
        self.assertEqual(len(found["plans"]), 2)
        for one, budget in zip(found["plans"], (90, 60)):
            self.assertLessEqual(one["bytes"]["total"], budget << 20)
            self.assertGreater(one["predicted_seconds_per_step"], 0)
        self.assertTrue((self.dir / "cache" / "refrain" / "speed.json").exists())
        self.fails("plan", *self.MODEL, says="--vocab-size")
        self.fails("plan", "--vocab-size", 60, *self.MODEL, "--budgets", "1M", says="needs at least")


class Encoders(TrainCase):
    """Blocks of layer norms and biases, and attention whose queries read the whole sequence."""

    ENCODER = ["--norm", "layer_norm", "--feed-forward", "relu", "--feed-forward-bias",
               "--pattern", "attention_rnn", "--attention-rnn.bias"]
    TOKEN = ["--attention-rnn.query", "token"]

    def setUp(self):
        super().setUp()
        self.note = self.call("sample", "forecast", "--seed", 1, "--levels", 8, "--noise", 0.02,
                              "--train", 3000, "--test", 200, "--out", self.dir / "series").stderr

    def probe(self, out, *more):
        series = self.dir / "series"
        return ["train", "--task", "probe", "--data", series / "train.jsonl", "--valid",
                series / "test.jsonl", "--tokenizer", series, "--out", self.dir / out,
                *self.ENCODER, *more]

    def test_published_parameters(self):
        for flags, count in ([], 3_152_896), (self.TOKEN, 3_152_384):
            out = f"block-{count}"
            self.must(*self.probe(out, "--layers", 1, "--heads", 8, "--d-model", 512, "--d-ff",
                                  2048, "--batch-size", 1, "--max-steps", 1, *flags))
            info = json.loads(self.must("info", "-m", self.dir / out, "--json"))
            self.assertEqual(info["block_parameters"], [count])
            self.assertEqual(info["parameters"]["all"],
                             count + 2 * 512 + 2 * 512 * info["config"]["vocab_size"])

    def test_it_forecasts_better_than_the_last_value(self):
        naive = float(re.search(rb"the last value: loss ([0-9.]+)", self.note).group(1))
        self.must(*self.probe("run", *self.TOKEN, "--layers", 1, "--heads", 4, "--d-model", 64,
                              "--batch-size", 32, "--learning-rate", 3e-3, "--max-steps", 300))
        loss = json.loads((self.dir / "run" / "metrics.jsonl").read_text().splitlines()[-1])
        self.assertLess(loss["eval_loss"], 0.7 * naive)
        scored = json.loads(self.must("eval", "-m", self.dir / "run", "--data",
                                      self.dir / "series" / "test.jsonl", "--json"))
        self.assertGreater(scored["accuracy"], 0.4)

    def test_the_same_weights_however_the_work_is_cut(self):
        want = None
        for out, flags in {
                "one": ["--threads", 1, "--batch-size", 8],
                "two": ["--threads", 2, "--batch-size", 2, "--gradient-accumulation-steps", 4],
                "blocks": ["--batch-size", 4, "--gradient-accumulation-steps", 2,
                           "--gradient-checkpointing", "blocks"],
                "halves": ["--batch-size", 8, "--gradient-checkpointing", "mixers,feed_forwards"],
                "stopped": ["--batch-size", 8, "--stop-after", 2]}.items():
            self.must(*self.probe(out, *self.TOKEN, "--layers", 2, "--heads", 2, "--d-model", 32,
                                  "--max-steps", 5, *flags))
            if out == "stopped":
                self.must("train", "--resume", self.dir / out)
            want = want or self.weights(out)
            self.assertEqual(self.weights(out), want, out)

    def test_what_reads_ahead_is_no_language_model(self):
        self.refuses(self.lm("run", "--pattern", "attention_rnn", *self.TOKEN),
                     says="--task: expected probe, because attention_rnn as it is set reads later "
                          "tokens; found lm")
        self.must(*self.probe("run", *self.TOKEN, "--layers", 1, "--heads", 2, "--d-model", 16,
                              "--max-steps", 1))
        for prompt in ("<1>", "no such tokens", ""):
            self.fails("generate", "-m", self.dir / "run", "-p", prompt, "-n", 3, "--no-echo",
                       says=["run: expected a model that reads from left to right",
                             "attention_rnn reads later tokens", "refrain eval"])
        self.refuses(self.probe("chunks", *self.TOKEN, "--tbptt", 4), says="--tbptt: expected 0")
        self.fails("bench", "generate", "--mixers", "attention_rnn", *self.TOKEN[-2:],
                   says="generate: expected mixers that read from left to right")
        self.refuses(self.lm("bias", "--feed-forward-bias"), says="feed_forward_bias: expected")


class Runs(TrainCase):
    def test_learns_and_leaves_a_complete_run(self):
        self.must(*self.lm("run", "--max-steps", 60, "--learning-rate", 1e-2, "--eval-steps", 20,
                           "--save-steps", 20, "--save-total-limit", 2, "--logging-steps", 5))
        run = self.dir / "run"
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [r["loss"] for r in records if "loss" in r]
        self.assertLess(losses[-1], losses[0] - 0.5)
        for key in ("step", "epoch", "grad_norm", "learning_rate", "num_input_tokens_seen",
                    "tokens_per_second", "peak_memory_bytes"):
            self.assertIn(key, records[0])
        self.assertEqual([r["step"] for r in records if "eval_loss" in r], [20, 40, 60])
        self.assertEqual(sorted(p.name for p in run.glob("checkpoint-*")),
                         ["checkpoint-40", "checkpoint-60"])
        for where in (run, run / "best", run / "checkpoint-60"):
            self.load(where)
        score = json.loads(self.must("eval", "-m", run, "--data", self.data, "--json"))
        self.assertLess(score["loss"], losses[0])

    def test_going_on_longer_and_resume_auto(self):
        auto = self.lm("run", "--resume", "auto", "--max-steps", 10)
        self.must(*auto)
        self.must("train", "--resume", self.dir / "run", "--max-steps", 15)
        state = json.loads((self.dir / "run" / "trainer_state.json").read_text())
        self.assertEqual(state["global_step"], 15)
        before = self.weights("run")
        self.must(*self.lm("run", "--resume", "auto", "--max-steps", 15))  # nothing left to do
        self.assertEqual(self.weights("run"), before)

    def test_patience(self):
        self.must(*self.lm("run", "--max-steps", 400, "--learning-rate", 0, "--eval-steps", 2,
                           "--patience", 3))
        state = json.loads((self.dir / "run" / "trainer_state.json").read_text())
        self.assertEqual(state["global_step"], 8)  # best at 2, then 4, 6, 8 without gain

    def test_epochs_and_tokens(self):
        for length, batch in (("2e", 64), ("3Kt", 12)):
            self.must(*self.lm(f"run-{length}", "--max-steps", length, "--batch-size", batch))
        state = json.loads((self.dir / "run-2e" / "trainer_state.json").read_text())
        # The second epoch (from 0) has been used up.
        self.assertEqual((state["epoch"], 2 * state["batches_of_epoch"]), (1, state["global_step"]))
        state = json.loads((self.dir / "run-3Kt" / "trainer_state.json").read_text())
        self.assertGreaterEqual(state["num_input_tokens_seen"], 3000)
        self.assertLess(state["num_input_tokens_seen"], 3000 + 2 * 12 * 24)

    def test_prepared_tokens_are_the_text(self):
        self.must("prepare", "--data", self.data, "--tokenizer", "char", "--out",
                  self.dir / "text.tokens")
        self.must(*self.lm("text", "--max-steps", 5))
        self.must("train", "--data", self.dir / "text.tokens", "--tokenizer",
                  self.dir / "text.tokenizer", "--out", self.dir / "prepared", *self.SMALL,
                  "--max-steps", 5)
        self.assertEqual(self.weights("text"), self.weights("prepared"))

    def test_crlf_and_byte_order_mark(self):
        pairs = self.put("crlf.tsv", b"\xef\xbb\xbfone two\ttwo one\r\na b\tb a\r\n" * 20)
        self.must("train", "--task", "translate", "--data", pairs, "--out", self.dir / "run",
                  *self.SMALL, "--tokenizer", "char", "--max-steps", 3)
        self.assertNotIn("\\r", (self.dir / "run" / "tokenizer.json").read_text())


class Interruptions(TrainCase):
    def start(self, *arguments):
        return subprocess.Popen([cli_test.REFRAIN, *cli_test.override(arguments)], cwd=self.dir,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                env={**os.environ, "OMP_WAIT_POLICY": "passive"})

    def test_killed_at_random_moments(self):
        kills = int(os.environ.get("KILLS", "50"))
        draw = random.Random(11)
        # Saves after every step: most of the time goes into saving.
        command = self.lm("run", "--resume", "auto", "--max-steps", 100000, "--save-steps", 1,
                          "--save-total-limit", 2, "--threads", 1, "--eval-steps", 3)
        run, last = self.dir / "run", 0
        for kill in range(kills):
            process = self.start(*command)
            deadline = time.time() + 60
            while time.time() < deadline:  # until this process has saved once
                steps = [int(p.name[11:]) for p in run.glob("checkpoint-*") if p.name[11:].isdigit()]
                if max(steps, default=0) > last or process.poll() is not None:
                    break
                time.sleep(0.002)
            time.sleep(draw.random() * 0.05)
            process.kill()
            error = process.communicate()[1].decode()
            self.assertEqual(process.returncode, -signal.SIGKILL, error)
            complete = [p for p in run.glob("checkpoint-*")]
            self.assertTrue(complete, f"kill {kill}: no checkpoint")
            for path in complete:  # every one of them is whole
                state = json.loads((path / "trainer_state.json").read_text())
                self.assertEqual(path.name, f"checkpoint-{state['global_step']}")
                for name in ("model.safetensors", "optimizer.safetensors"):
                    blob = (path / name).read_bytes()
                    header = json.loads(blob[8:8 + int.from_bytes(blob[:8], "little")])
                    end = max(t["data_offsets"][1] for n, t in header.items() if n != "__metadata__")
                    self.assertEqual(len(blob), 8 + int.from_bytes(blob[:8], "little") + end)
            newest = max(int(p.name[11:]) for p in complete)
            self.assertGreater(newest, last)
            last = newest
            if kill % 10 == 0:
                # The run's own model follows the first checkpoint, which the first kill may part.
                if kill > 0 or (run / "model.safetensors").exists():
                    self.load("run")
                self.load(run / f"checkpoint-{newest}")
        # It goes on from there, and what crashes left is gone.
        self.must("train", "--resume", run, "--max-steps", last + 2, "--threads", 1)
        self.assertEqual([p.name for p in run.iterdir() if ".tmp-" in p.name or ".old-" in p.name], [])
        self.load("run")

    def test_killed_before_it_was_a_run(self):
        process = self.start(*self.lm("run", "--data", self.put("more.txt", text(30000)),
                                      "--tokenizer", "bpe:300", "--max-steps", 2))
        while not (self.dir / "run").exists() and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        self.assertFalse((self.dir / "run" / "training_args.json").exists())
        self.must(*self.lm("run", "--resume", "auto", "--max-steps", 2))
        self.load("run")
        self.assertFalse((self.dir / "run" / ".preparing").exists())

    def test_signals_save(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            out = f"run-{number}"
            process = self.start(*self.lm(out, "--max-steps", 1000000, "--logging-steps", 1))
            metrics = self.dir / out / "metrics.jsonl"
            while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            error = process.communicate(timeout=60)[1].decode()
            self.assertEqual(process.returncode, 128 + number, error)
            self.assertIn("go on with: refrain train --resume", error)
            state = json.loads((self.dir / out / "trainer_state.json").read_text())
            self.assertGreaterEqual(state["global_step"], 1)
            self.load(out)

    def test_full_disk_keeps_the_last_checkpoint(self):
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2))
        before = self.weights("run")

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        done = self.call("train", "--resume", self.dir / "run", preexec_fn=small_files)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(b"File too large", done.stderr)
        self.assertEqual(self.weights("run"), before)
        self.must("train", "--resume", self.dir / "run")
        self.load("run")


class Mistakes(TrainCase):
    def test_data(self):
        out = self.dir / "run"
        cases = {
            "empty": (b"", "empty"), "zero": (b"ab\0cd" * 99, "zero byte"),
            "latin1": ("caf\xe9 ".encode("latin1") * 99, "UTF-8")}
        for name, (content, says) in cases.items():
            with self.subTest(name):
                data = self.put(name + ".txt", content)
                self.refuses(["train", "--data", data, "--out", out, *self.SMALL], says)
        short = self.put("short.txt", "only this")
        self.refuses(["train", "--data", short, "--out", out, *self.SMALL], ["context"])
        a, b = self.put("a", "one\ntwo\nthree\n"), self.put("b", "eins\nzwei\n")
        self.refuses(["train", "--task", "translate", "--data", a, b, "--out", out], ["3", "line"])
        self.refuses(["train", "--data", self.dir / "none.txt", "--out", out], "No such file")

    def test_directories_of_others(self):
        other = self.dir / "other"
        other.mkdir()
        (other / "thesis.tex").write_text("x")
        self.refuses(self.lm("other", "--max-steps", 2), ["not empty", "thesis.tex"])
        self.assertEqual([p.name for p in other.iterdir()], ["thesis.tex"])
        self.refuses(self.lm("text.txt"), "found a file")
        self.must(*self.lm("run", "--max-steps", 2))
        before = self.weights("run")
        self.refuses(self.lm("run", "--max-steps", 3), "--resume")
        self.assertEqual(self.weights("run"), before)
        self.refuses(["train", "--resume", other], "run directory")

    def test_settings(self):
        for flags, says in {
                ("--heads", 3): "heads", ("--kv-heads", 4): "kv_heads", ("--layers", 0): "layers",
                ("--learning-rate", "nan"): "learning", ("--dropout", 1.5): "dropout",
                ("--attention-dropout", 1.5): "attention_dropout: expected 0 to 0.999",
                ("--attention-dropout", 0.1, "--pattern", "gla"): "--attention-dropout: expected a block",
                ("--max-steps", "5x"): "max_steps", ("--max-steps", 0): "max_steps",
                ("--mixer", "mamba"): "mamba", ("--mixer", "attention", "--pattern", "gla"): "--pattern",
                ("--initialisation", "xavier"): "initialisation: expected auto, normal or fan_in",
                ("--init-std", 0): "init_std: expected above 0",
                ("--block", "bare", "--init-std", 0.1): "init_std: has a meaning with",
                ("--clip-mode", "soft"): "clip_mode", ("--bf16", "--int16"): "int16", ("--attention.rope_pairing", "x"): "rope_pairing",
                ("--lr-scheduler-type", "cosin"): "cosine", ("--valid-split", 1): "valid-split",
                ("--gradient-checkpointing", "maybe"): "blocks", ("--batch-size", -1): "batch",
                ("--learning-rat", 1): "--learning-rate", ("--task", "poetry"): "translate",
                ("--vocab-size", 3): "vocab",
                ("--patience", 3): "eval_steps"}.items():
            with self.subTest(flags):
                self.refuses(self.lm("run", *flags), says)

    def test_what_may_not_change_in_a_run(self):
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2))
        for flags in (["--seed", 5], ["--d-model", 32], ["--learning-rate", 1]):
            self.refuses(["train", "--resume", self.dir / "run", *flags], flags[0])
        self.refuses(["train", "--resume", self.dir / "run", "--data", "b.txt"], "text.txt")
        for flags in (["--max-steps", 1], ["--stop-after", 2]):  # less than it has done
            self.refuses(["train", "--resume", self.dir / "run", *flags], [flags[0], "2 steps"])
        settings = self.dir / "run" / "training_args.json"
        good = settings.read_text()
        settings.write_text(good.replace('"layers": 2', '"layers": "two"'))
        self.refuses(["train", "--resume", self.dir / "run"], "layers")
        for wrong, says in ((good.replace('"seed"', '"zeed"'), ['"zeed"', '"seed"?']),
                            (good.replace('"seed": 1,', ""), ["the setting seed", "--seed"]),
                            (good.replace('"pattern"', '"patern"'), ['"patern"', '"pattern"?'])):
            self.assertNotEqual(wrong, good)
            settings.write_text(wrong)
            self.refuses(["train", "--resume", self.dir / "run"], ["training_args.json", *says])
        settings.write_text(good[:50])
        self.refuses(["train", "--resume", self.dir / "run"], "training_args.json")

    def test_damaged_checkpoint(self):
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2))
        weights = self.dir / "run" / "checkpoint-2" / "optimizer.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        self.refuses(["train", "--resume", self.dir / "run"], "optimizer.safetensors")

    def test_loss_that_is_no_number(self):
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2, "--learning-rate", 1e-3,
                           "--lr-scheduler-type", "constant"))
        # Weights that were damaged on disk: the next loss cannot be finite.
        path = self.dir / "run" / "checkpoint-2" / "model.safetensors"
        blob = bytearray(path.read_bytes())
        blob[-64:] = b"\x00\x00\xc0\x7f" * 16
        path.unlink()
        path.write_bytes(bytes(blob))
        self.refuses(["train", "--resume", self.dir / "run"], "model.safetensors: damaged")
        state = path.parent / "trainer_state.json"  # of an earlier version, without hashes
        state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items()
                                     if k != "hashes"}))
        before = self.weights("run/checkpoint-2")
        error = self.refuses(["train", "--resume", self.dir / "run"], ["step 3", "not a finite"])
        self.assertIn("step 3", error)
        self.assertEqual(self.weights("run/checkpoint-2"), before)
        self.assertEqual([p.name for p in (self.dir / "run").glob("checkpoint-*")], ["checkpoint-2"])


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

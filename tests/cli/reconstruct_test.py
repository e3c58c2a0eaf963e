#!/usr/bin/env python3
"""Tests of sequence autoencoders as their users meet them: training, its promise of bits,
reconstruction beside the original, scores, mistakes.

usage: reconstruct_test.py REFRAIN [unittest's arguments]
"""
import json
import os
import random
import re
import sys
import unittest

import cli_test
import train_test

WORDS = train_test.WORDS


def poems(count, seed=5):
    """Poems of two stanzas, three blank lines between them."""
    draw = random.Random(seed)
    line = lambda: " ".join(draw.choices(WORDS, k=6)).capitalize() + ",\n"
    stanza = lambda: line() + line()
    return "\n\n\n".join(stanza() + "\n" + stanza() for _ in range(count))


def glove(words, width, seed=1):
    draw = random.Random(seed)
    return "".join(" ".join([w, *(f"{draw.gauss(0, 1):.4f}" for _ in range(width))]) + "\n"
                   for w in words)


class ReconstructCase(train_test.TrainCase):
    SMALL = ["--autoencoder.hidden", 16, "--autoencoder.layers", 1, "--autoencoder.bottleneck", 8,
             "--autoencoder.heads", 2, "--embedding-width", 12, "--window", "6 9",
             "--min-window", 3, "--warmup-steps", 2, "--logging-steps", 1]

    def setUp(self):
        super().setUp()
        self.data = self.put("poems.txt", poems(30))

    def lm(self, out, *more):
        return ["train", "--task", "reconstruct", "--data", self.data, "--out", self.dir / out,
                *self.SMALL, *more]


class Promise(ReconstructCase):
    def test_bits(self):
        for decoder in ("plain", "cross_attention", "self_attention"):
            with self.subTest(decoder):
                command = lambda out, *flags: self.lm(
                    f"{decoder}-{out}", "--autoencoder.decoder", decoder, "--embeddings",
                    "learned" if decoder == "plain" else "random", *flags)
                want = None
                for out, flags in {
                        "one": ["--threads", 1, "--batch-size", 12],
                        "three": ["--threads", 3, "--batch-size", 12],
                        "micro": ["--batch-size", 4, "--gradient-accumulation-steps", 3]}.items():
                    self.must(*command(out, "--max-steps", 16, *flags))
                    got = self.weights(f"{decoder}-{out}")
                    want = want or got
                    self.assertEqual(got, want, out)
                self.must(*command("stopped", "--max-steps", 16, "--batch-size", 12,
                                   "--stop-after", 7))
                self.assertNotEqual(self.weights(f"{decoder}-stopped"), want)
                self.must("train", "--resume", self.dir / f"{decoder}-stopped", "--batch-size", 6,
                          "--gradient-accumulation-steps", 2)
                self.assertEqual(self.weights(f"{decoder}-stopped"), want)

    def test_bits_of_formats_and_dropout(self):
        for precision in ([], ["--bf16"], ["--int16"]):
            name = "".join(precision)
            command = lambda out, *flags: self.lm(name + out, "--dropout", 0.2, "--max-steps", 6,
                                                  *precision, *flags)
            with self.subTest(precision):
                self.must(*command("whole", "--threads", 1, "--batch-size", 12))
                want = self.weights(name + "whole")
                self.must(*command("again", "--batch-size", 4, "--gradient-accumulation-steps", 3,
                                   "--gradient-checkpointing", 4))
                self.assertEqual(self.weights(name + "again"), want)
                self.must(*command("stopped", "--batch-size", 12, "--stop-after", 3))
                self.must("train", "--resume", self.dir / (name + "stopped"))
                self.assertEqual(self.weights(name + "stopped"), want)
        plain = self.lm("plain", "--max-steps", 6, "--batch-size", 12)
        self.must(*plain)
        self.assertNotEqual(self.weights("plain"), self.weights("whole"))

    def test_epochs(self):
        self.must(*self.lm("run", "--max-steps", "2e"))
        last = [record for record in map(json.loads, (self.dir / "run" / "metrics.jsonl")
                                         .read_text().splitlines()) if "loss" in record][-1]
        self.assertGreater(last["seconds_per_epoch"], 0)
        self.assertAlmostEqual(last["epoch"], 2, delta=0.3)

    def test_recomputation(self):
        command = lambda out, *flags: self.lm(out, "--autoencoder.flash", "false", "--max-steps", 6,
                                              "--batch-size", 12, *flags)
        self.must(*command("kept"))
        for i, parts in enumerate(("3", "probabilities", "3,probabilities")):
            self.must(*command(f"again{i}", "--gradient-checkpointing", parts))
            self.assertEqual(self.weights(f"again{i}"), self.weights("kept"), parts)

    def test_begins_with_another(self):
        self.must(*self.lm("first", "--max-steps", 6, "--batch-size", 12))
        go_on = ["train", "--task", "reconstruct", "--data", self.data, "--init",
                 self.dir / "first", "--window", "6 9", "--min-window", 3, "--batch-size", 4]
        self.must(*go_on, "--out", self.dir / "second", "--max-steps", 4)
        self.must(*go_on, "--out", self.dir / "stopped", "--max-steps", 4, "--stop-after", 2)
        for name in ("vocab.txt", "config.json", "embeddings.safetensors"):
            self.assertEqual((self.dir / "first" / name).read_bytes(),
                             (self.dir / "second" / name).read_bytes(), name)
        first = json.loads((self.dir / "second" / "metrics.jsonl").read_text().splitlines()[0])
        (self.dir / "first").rename(self.dir / "moved")  # what has a checkpoint needs it no more
        self.must("train", "--resume", self.dir / "stopped")
        self.assertEqual(self.weights("stopped"), self.weights("second"))
        self.refuses([*go_on, "--out", self.dir / "run"], "--init: expected a directory with a")
        (self.dir / "moved").rename(self.dir / "first")
        # The weights are where it begins, not only the shapes.
        self.must(*self.lm("fresh", "--batch-size", 4, "--max-steps", 4))
        fresh = json.loads((self.dir / "fresh" / "metrics.jsonl").read_text().splitlines()[0])
        self.assertNotEqual(first["loss"], fresh["loss"])
        for flags, says in {
                ("--autoencoder.hidden", 32): "--autoencoder.hidden: expected 16, as --init",
                ("--embeddings", "learned"): "--embeddings: expected it or --init",
                ("--preset", "quality"): "--preset: expected it or --init"}.items():
            self.refuses([*go_on, "--out", self.dir / "run", *flags], says)
        self.must(*go_on, "--out", self.dir / "mse", "--max-steps", 1, "--autoencoder.loss", "mse")

    def test_budgets(self):
        self.measures_memory()
        # Wide enough that activations are most of what a run takes.
        command = lambda out, *flags: self.lm(
            out, "--autoencoder.hidden", 96, "--window", "60", "--batch-size", 64, "--max-steps", 3,
            "--eval-steps", 2, "--threads", 2, *flags)
        self.must(*command("free"))
        line = self.refuses(command("no", "--memory", "1K"), says=["1 KiB is too little",
                                                                   "needs at least", "a window"])
        self.assertFalse((self.dir / "no").exists())
        least = int(re.search(r"at least (\d+) MiB", line).group(1))
        micro = []
        for budget in (least, least + 4, least + 200):
            out = f"within{budget}"
            self.must(*command(out, "--memory", f"{budget}M"))
            self.assertEqual(self.weights(out), self.weights("free"))
            peak = max(json.loads(record).get("peak_memory_bytes", 0) for record in
                       (self.dir / out / "metrics.jsonl").read_text().splitlines())
            plan = json.loads((self.dir / out / "plan.json").read_text())
            self.assertLessEqual(peak, budget << 20)
            micro.append(plan["micro_batch_sequences"])
        # `plan` tells the same, before.
        plans = lambda *flags: json.loads(self.must("plan", "--json", *command("no")[1:], *flags))
        listed = plans()["plans"]
        self.assertFalse((self.dir / "no").exists())
        self.assertEqual(plans("--budgets", f"{least + 4}M")["plans"][0]["micro_batch_sequences"],
                         micro[1])
        totals = [plan["bytes"]["total"] for plan in listed]
        times = [plan["relative_time_per_step"] for plan in listed]
        self.assertEqual((totals, times), (sorted(totals), sorted(times, reverse=True)))
        self.assertEqual((listed[-1]["micro_batch_sequences"], times[-1]), (64, 1))
        self.assertLess(abs(totals[0] - (least << 20)), 8 << 20)
        self.fails("plan", *command("no")[1:], "--budgets", "1K", says="1 KiB is too little")
        self.fails("plan", *command("no")[1:], "--calibrate", says="--calibrate")
        text = self.must("plan", *command("no")[1:], "--svg", self.dir / "plan.svg")
        self.assertEqual(text.count("sequence"), len(listed))
        self.assertTrue((self.dir / "plan.svg").read_text().startswith("<svg"))
        self.assertLess(micro[0], 8)
        self.assertGreater(micro[1], micro[0])
        self.assertEqual(micro[2], 64)


class Use(ReconstructCase):
    def test_training_reconstruction_and_scores(self):
        self.must(*self.lm("run", "--max-steps", 60, "--batch-size", 16, "--eval-steps", 20,
                           "--learning-rate", 0.01))
        records = [json.loads(line) for line in
                   (self.dir / "run" / "metrics.jsonl").read_text().splitlines()]
        steps = [r for r in records if "loss" in r]
        self.assertEqual(len(steps), 60)
        self.assertLess(steps[-1]["loss"], 0.8 * steps[0]["loss"])
        found = [r for r in records if "eval_cosine" in r]
        self.assertEqual([r["step"] for r in found], [20, 40, 60])
        for name in ("vocab.txt", "embeddings.safetensors", "config.json", "model.safetensors"):
            self.assertTrue((self.dir / "run" / "best" / name).exists(), name)

        scores = json.loads(self.must("eval", "-m", self.dir / "run", "--data", self.data, "--json"))
        self.assertEqual(scores["task"], "reconstruct")
        self.assertGreater(scores["cosine"], 0.2)
        self.assertTrue(0 <= scores["recovery"] <= 1)
        self.assertIn("mean cosine", self.must("eval", "-m", self.dir / "run", "--data", self.data))

        text = "The quick brown fox, jumps over unheardof dogs\n"
        shown = self.must("reconstruct", "-m", self.dir / "run", "--attention-map",
                          self.dir / "map.svg", input=text)
        lines = shown.splitlines()
        self.assertRegex(lines[0], r"^window 1: 7 words, mean cosine -?0\.\d+, \d recovered$")
        self.assertEqual([line.split()[0] for line in lines[2:9]],
                         ["the", "quick", "brown", "fox", ",", "jumps", "over"])
        svg = (self.dir / "map.svg").read_text()
        self.assertTrue(svg.startswith("<svg") and svg.endswith("</svg>\n"))
        self.assertEqual(svg.count("<title>"), 49)
        rows = [json.loads(line) for line in self.must(
            "reconstruct", "-m", self.dir / "run", "--input", self.data, "--json",
            "--max-windows", 3).splitlines()]
        self.assertEqual(len(rows), 3)
        self.assertEqual(len(rows[0]["original"]), 9)
        self.assertEqual(len(rows[0]["original"]), len(rows[0]["cosine"]))

    def test_window_of_attention(self):
        window = ["--autoencoder.window", 3, "--autoencoder.stride", 5]
        self.must(*self.lm("run", "--max-steps", 4, "--batch-size", 12, *window))
        self.must(*self.lm("stopped", "--max-steps", 4, "--batch-size", 12, "--stop-after", 2,
                           *window))
        self.must("train", "--resume", self.dir / "stopped", "--batch-size", 4,
                  "--gradient-accumulation-steps", 3)
        self.assertEqual(self.weights("stopped"), self.weights("run"))
        config = json.loads((self.dir / "run" / "config.json").read_text())
        self.assertEqual((config["window"], config["stride"]), (3, 5))
        told = json.loads(self.must("info", "-m", self.dir / "run", "--json"))
        self.assertEqual((told["config"]["window"], told["config"]["stride"]), (3, 5))
        self.assertEqual(told["parameters"]["all"], sum(
            size for name, size in told["parameters"].items() if name != "all"))
        self.assertRegex(self.must("info", "-m", self.dir / "run"), r"(?m)^  window +3$")
        self.must("reconstruct", "-m", self.dir / "run", "--attention-map", self.dir / "map.svg",
                  input="The quick brown fox, jumps over")
        shares = [float(share) for share in
                  re.findall(r" reads .*: (\d\.\d+)</title>", (self.dir / "map.svg").read_text())]
        self.assertEqual(len(shares), 49)
        for i, share in enumerate(shares):
            t, s = divmod(i, 7)
            self.assertEqual(share > 0, abs(s - t) <= 1 or s == 4, (t, s))
        # Weights of a model that reads all words go on with a window.
        self.must(*self.lm("all", "--max-steps", 2))
        self.must("train", "--task", "reconstruct", "--data", self.data, "--init",
                  self.dir / "all", "--window", "6 9", "--min-window", 3, "--max-steps", 1,
                  "--out", self.dir / "near", *window)
        # A run of a version without windows.
        self.must(*self.lm("old", "--max-steps", 4, "--stop-after", 2))
        settings = self.dir / "old" / "training_args.json"
        settings.write_text(json.dumps(
            {name: value for name, value in json.loads(settings.read_text()).items()
             if name not in ("autoencoder.window", "autoencoder.stride")}))
        self.must("train", "--resume", self.dir / "old")

    def test_embeddings_of_a_file(self):
        path = self.put("glove.txt", glove(WORDS[:-1], 5))
        self.must(*[a for a in self.lm("run", "--max-steps", 3, "--embeddings", path)
                    if a not in ("--embedding-width", 12)])
        config = json.loads((self.dir / "run" / "config.json").read_text())
        self.assertEqual(config["width"], 5)
        vocabulary = (self.dir / "run" / "vocab.txt").read_text().split()
        self.assertNotIn(WORDS[-1], vocabulary)
        self.assertNotIn(",", vocabulary)
        self.must("reconstruct", "-m", self.dir / "run", input="the quick brown fox")

    def test_presets(self):
        for preset, heads in {"speed": 4, "balanced": 6, "quality": 8}.items():
            self.must("train", "--task", "reconstruct", "--data", self.data, "--out",
                      self.dir / preset, "--preset", preset, "--autoencoder.hidden", 32,
                      "--embedding-width", 4, "--max-steps", 1, "--batch-size", 2)
            config = json.loads((self.dir / preset / "config.json").read_text())
            self.assertEqual((config["heads"], config["head_dim"], config["flash"]),
                             (heads, 4, preset != "quality"))


class Mistakes(ReconstructCase):
    def test_settings(self):
        for flags, says in {
                ("--autoencoder.heads", 3): "expected a divisor of autoencoder.hidden = 16",
                ("--autoencoder.cell", "lstn"): "expected one of rnn, lstm, gru",
                ("--window", "2"): "window: expected 3 to 65536, found 2",
                ("--autoencoder.stride", 2): "autoencoder.stride: expected 0 where",
                ("--autoencoder.decoder", "plain", "--autoencoder.window", 4):
                    "--autoencoder.window: expected cross_attention or self_attention",
                ("--autoencoder.decoder", "self_attention", "--autoencoder.window", 4,
                 "--autoencoder.stride", 2): "--autoencoder.stride: expected cross_attention",
                ("--preset", "fast"): "expected speed, balanced or quality",
                ("--teacher-forcing", "1.1"): "teacher_forcing: expected 0 to 1",
                ("--gradient-checkpointing", "blocks"): "expected off, auto, or a list of a number",
                ("--bf16", "--int16"): "--bf16: expected it once, found --int16 too",
                ("--max-steps", "3x"): "max_steps: expected steps",
                ("--d-model", 8): "--d-model: has no meaning with --task reconstruct",
                ("--window", "500", "--min-window", "500"): "of at least 500 words",
                ("--valid-split", 0.999): "expected documents to learn from"}.items():
            with self.subTest(flags):
                self.refuses(self.lm("run", *flags), says)
        self.refuses(["train", "--data", self.data, "--out", self.dir / "run", "--preset", "speed"],
                     "--preset: has a meaning with --task reconstruct only")

    def test_other_data(self):
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2))
        text = self.data.read_text()
        self.data.write_text(text[::-1])
        error = self.call("train", "--resume", self.dir / "run").stderr.decode()
        self.assertIn("poems.txt: not the data this was trained on", error)
        self.data.write_text(text)
        self.must("train", "--resume", self.dir / "run")

    def test_objects(self):
        documents = self.data.read_text().split("\n\n\n")
        self.put("poems.JSON", json.dumps([{"text": poem} for poem in documents], indent=1))
        self.must(*self.lm("text", "--max-steps", 2))
        self.data = self.dir / "poems.JSON"
        self.must(*self.lm("objects", "--max-steps", 2))
        self.assertEqual(self.weights("objects"), self.weights("text"))

    def test_embeddings(self):
        for text, says in {
                "the 1 2\nquick 1 2 3\n": "line 2: expected 2 numbers behind the word, found 3",
                "the 1 2\nquick 1 two\n": 'line 2: expected a number, found "two"',
                "the 1 2\nthe 3 4\n": "line 2: the word \"the\" was on line 1 already",
                "": "expected a word on every line, found none",
                "unheard 1 2\n": "found none of its"}.items():
            with self.subTest(text):
                path = self.put("glove.txt", text)
                self.refuses(self.lm("run", "--embeddings", path, "--embedding-width", 0),
                             ["glove.txt", says])
        self.refuses(self.lm("run", "--embeddings", self.put("g.txt", "the 1 2\n")),
                     "line 1: expected 12 numbers behind the word, found 2")

    def test_use(self):
        self.must(*self.lm("run", "--max-steps", 1, "--autoencoder.decoder", "plain"))
        use = ["reconstruct", "-m", self.dir / "run"]
        self.fails(*use, "--attention-map", "a.svg", says="expected a model with cross attention",
                   input="the quick brown fox")
        self.fails(*use, says=["windows of at least 3 words", "found 2"], input="the quick")
        self.fails(*use, says=["expected words that have vectors", "2 are hidden"],
                   input="unheard words")
        self.fails("generate", "-m", self.dir / "run", "-p", "the",
                   says="found a sequence autoencoder")
        self.fails("reconstruct", "-m", self.dir, says="refrain.json")


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

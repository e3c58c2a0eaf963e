#!/usr/bin/env python3
"""Tests of models that are stored in few bits, as their users meet them.

usage: quantize_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import array
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import cli_test
from cli_test import PlainCase

WORDS = ("the old pilot heard rain on roofs and every street had a tune of its own if you lose "
         "your way follow one that brought here by morning gutters were singing").split()
TYPES = {"bf16": 2.0, "f16": 2.0, "q8_0": 34 / 32, "q4": 20 / 32}  # bytes a weight


class Quantize(PlainCase):
    """One model that has learnt something, in all types."""

    @classmethod
    def setUpClass(cls):
        cls._folder = tempfile.TemporaryDirectory()
        cls.made = pathlib.Path(cls._folder.name)
        draw = random.Random(1)
        # The next word follows from the last one, nine times in ten.
        text, word = [], 0
        for _ in range(6000):
            word = (7 * word + 3) % len(WORDS) if draw.random() < 0.9 else draw.randrange(len(WORDS))
            text.append(WORDS[word])
        cls.text = cls.made / "text.txt"
        cls.text.write_text(" ".join(text))
        for name, mixer in (("model", "attention"), ("recurrent", "gla")):
            done = subprocess.run(
                [cli_test.REFRAIN, "train", "--data", cls.text, "--out", cls.made / name, "--mixer",
                 mixer, "--layers", "2", "--d-model", "64", "--heads", "2", "--context", "64",
                 "--batch-size", "16", "--max-steps", "120", "--learning-rate", "5e-3",
                 "--warmup-steps", "5", "--valid-split", "0", "--tokenizer", "char"],
                capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

    @classmethod
    def tearDownClass(cls):
        cls._folder.cleanup()

    def weights(self, model):
        return (pathlib.Path(model) / "model.safetensors").stat().st_size

    def test_quantises_and_says_what_it_costs(self):
        for type, size in TYPES.items():
            with self.subTest(type):
                said = self.must("quantize", "-m", self.made / "model", "-o", type, "--type", type,
                                 "--data", self.text)
                self.assertRegex(said, r"weights, MiB +[\d.]+ +[\d.]+\n")
                self.assertRegex(said, r"perplexity +[\d.]+ +[\d.]+ +[+-][\d.]+ %\n")
                self.assertIn(f"matrices are stored as {type}; ", said)
                scores = json.loads(self.must("quantize", "-m", self.made / "model", "-o", "again",
                                              "--type", type, "--data", self.text, "--json"))
                for file in ("config.json", "model.safetensors", "tokenizer.json"):
                    self.assertEqual((self.dir / type / file).read_bytes(),
                                     (self.dir / "again" / file).read_bytes())
                shutil.rmtree(self.dir / "again")
                before, after = (scores["scores"][of]["perplexity"] for of in ("f32", type))
                self.assertLess(before, 2)  # it has learnt something
                self.assertLess(abs(after / before - 1), 0.04 if type == "q4" else 0.005)
                self.assertNotEqual(after, before)
                self.assertIn("norm.weight", scores["tensors"]["f32"])
                self.assertIn("layers.0.mixer.qkv_proj.weight", scores["tensors"][type])
                rows = json.loads(self.must("info", "-m", self.made / "model", "--json"))["bytes"]
                self.assertLess(abs(scores["bytes"]["f32"] / rows - 1), 0.02)  # whole panels
                info = json.loads(self.must("info", "-m", type, "--json"))
                self.assertEqual((info["storage"], info["bytes"]), (type, scores["bytes"][type]))
                # The embedding and the head, a panel of 32 rows, are small.
                of = info["parameters"]
                self.assertEqual(info["bytes"], size * (of["mixers"] + of["feed_forward"]) +
                                 4 * (of["norms"] + of["embedding"] + 32 * 64))
                self.assertLess(abs(self.weights(self.dir / type) - info["bytes"]), 8192)
                # What it was scored as, it is.
                again = json.loads(self.must("eval", "-m", type, "--data", self.text, "--json"))
                self.assertEqual(again["loss"], scores["scores"][type]["loss"])

    def test_what_it_writes_runs_everywhere(self):
        for name in ("model", "recurrent"):
            for type in TYPES:
                with self.subTest(f"{name} {type}"):
                    out = f"{name}-{type}"
                    self.must("quantize", "-m", self.made / name, "-o", out, "--type", type)
                    one = self.must("generate", "-m", out, "-p", "the ", "-n", 40, "--temp", 0,
                                    "-t", 1)
                    self.assertEqual(one, self.must("generate", "-m", out, "-p", "the ", "-n", 40,
                                                    "--temp", 0, "-t", 2))
                    first = self.must("generate", "-m", out, "-p", "the ", "-n", 25, "--temp", 0,
                                      "--state-out", "a.state")
                    rest = self.must("generate", "-m", out, "-n", 15, "--temp", 0, "--state-in",
                                     "a.state")
                    self.assertEqual(first + rest, one)
                    self.assertIn("all agree", self.must("verify", "-m", out))
                    self.fails("generate", "-m", self.made / name, "-n", 5, "--state-in", "a.state",
                               says="the state of another model")

    def test_mistakes(self):
        model = self.made / "model"
        self.must("quantize", "-m", model, "-o", "q", "--type", "q8_0")
        for type in ("q3", "f32", "Q8_0", ""):
            self.fails("quantize", "-m", model, "-o", "out", "--type", type,
                       says="--type: expected bf16, f16, q8_0 or q4, found")
        self.fails("quantize", "-m", "q", "-o", "out", says="found a quantised model's (q8_0)")
        self.fails("quantize", "-m", model, "-o", "q", says="q")
        self.fails("quantize", "-m", "none", "-o", "out", says="none")
        self.fails("quantize", "-m", model, "-o", "out", "--data", "none.txt", says="none.txt")
        self.fails("convert", "--from", "hf", "q", "--out", "out", says="quantised model's (q8_0)")
        # A file that was damaged, or made to be.
        file = self.dir / "q" / "model.safetensors"
        whole = file.read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        header = whole[8:8 + length].decode()
        for old, new in (('"q8_0"', '"q4"'), ('"q8_0"', '"f32"'), ("refrain-panels-1", "refrain-panels-9"),
                         ("U8", "I8"), ("norm.weight", "nerm.weight")):
            changed = header.replace(old, new)
            changed += " " * (-(8 + len(changed)) % 64)
            file.write_bytes(struct.pack("<Q", len(changed)) + changed.encode() + whole[8 + length:])
            self.fails("generate", "-m", "q", "-p", "the", says="q/")
        file.write_bytes(whole[:-64])
        self.fails("generate", "-m", "q", "-p", "the", says="truncated")

    def test_translators_are_scored_by_their_translations(self):
        pairs = "".join(f"{a} {b}\t{b} {a}\n" for a in WORDS[:6] for b in WORDS[:6])
        self.put("pairs.tsv", pairs)
        self.must("train", "--task", "translate", "--data", "pairs.tsv", "--out", "runs/tr",
                  "--layers", 1, "--d-model", 64, "--heads", 2, "--context", 64, "--max-steps", 2,
                  "--tokenizer", "char", "--source-tag", "<a>", "--target-tag", "<b>")
        said = self.must("quantize", "-m", "runs/tr", "-o", "small/tr-q8", "--data", "pairs.tsv")
        self.assertRegex(said, r"BLEU +[\d.]+ +[\d.]+ ")
        self.assertRegex(said, r"chrF +[\d.]+ +[\d.]+ ")
        self.must("translate", "-m", "small/tr-q8", "--input", self.put("lines", "the old\n"))

    def test_weights_that_the_type_cannot_hold(self):
        shutil.copytree(self.made / "model", self.dir / "large")
        file = self.dir / "large" / "model.safetensors"
        whole = file.read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        header = json.loads(whole[8:8 + length])
        name = next(n for n in header if n.endswith("down_proj.weight"))
        begin, end = (8 + length + at for at in header[name]["data_offsets"])
        values = array.array("f", whole[begin:end])
        large = array.array("f", (x * 1e8 for x in values)).tobytes()
        file.write_bytes(whole[:begin] + large + whole[end:])
        for type in ("f16", "q4"):
            self.fails("quantize", "-m", "large", "-o", "out", "--type", type,
                       says=["down_proj.weight", f"that {type} can hold"])
        self.must("quantize", "-m", "large", "-o", "out", "--type", "bf16")

    def test_shapes_are_those_of_the_settings(self):
        self.must("quantize", "-m", self.made / "model", "-o", "q", "--type", "f16")
        config = self.dir / "q" / "config.json"
        settings = json.loads(config.read_text())
        self.assertEqual(settings["quantization_config"],
                         {"quant_method": "refrain", "storage": "f16"})
        self.must("generate", "-m", "q", "-p", "the", "-n", 2)
        settings["intermediate_size"] -= 1  # as many panels, whose rows would be others
        config.write_text(json.dumps(settings))
        self.fails("generate", "-m", "q", "-p", "the", says="expected shape")
        settings["intermediate_size"] += 1
        settings["quantization_config"]["quant_method"] = "another"
        config.write_text(json.dumps(settings))
        self.fails("generate", "-m", "q", "-p", "the", says="quantization_config")

    def test_models_with_nothing_to_quantise(self):
        self.must("train", "--data", self.text, "--out", "small", "--layers", 1, "--d-model", 16,
                  "--heads", 1, "--d-ff", 32, "--context", 16, "--max-steps", 1, "--tokenizer", "char")
        self.fails("quantize", "-m", "small", "-o", "out", says="nothing to store as q8_0")


if __name__ == "__main__":
    cli_test.REFRAIN = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()

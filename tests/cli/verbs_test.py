#!/usr/bin/env python3
"""Tests of verbs whose arguments do not fit each other: outputs that would replace what they are
made from, models of another kind than a verb's, text that a tokenizer does not have.

usage: verbs_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import json
import os
import pathlib
import shutil
import sys
import unittest

import cli_test
import reconstruct_test
from cli_test import Case


class Outputs(Case):
    """Nothing is written over an input, nor over a file of a trained model."""

    def setUp(self):
        super().setUp()
        self.mine = self.dir / "mine"  # a model that a mistake may spoil
        shutil.copytree(self.translator, self.mine)
        self.text = self.put("t.txt", "the cat sat on the mat\n" * 20)

    def refuses(self, flag, *arguments, at=None):
        """Refused by the flag's name before work: what is at the place stays as it was."""
        before = {f: f.read_bytes() for f in self.dir.rglob("*") if f.is_file()}
        self.fails(*arguments, says=[flag + ":", *([str(at)] if at else [])])
        for file, content in before.items():
            self.assertEqual(file.read_bytes(), content, file)

    def test_files_of_the_model_that_is_read(self):
        for name in ("model.safetensors", "config.json", "tokenizer.json", "refrain.json"):
            target = self.mine / name
            self.refuses("--state-out", "generate", "-m", self.mine, "-p", "a", "-n", 1,
                         "--state-out", target, at=target)
            self.refuses("--out", "logits", "-m", self.mine, "--ids", "1 2", "--out", target)
            self.refuses("--output", "translate", "-m", self.mine, "--output", target)
            self.refuses("--out", "prepare", "--data", self.text, "--tokenizer", self.mine,
                         "--out", target)

    def test_other_names_of_an_input(self):
        os.link(self.mine / "model.safetensors", self.dir / "hard")
        os.symlink("mine/model.safetensors", self.dir / "soft")
        for name in ("hard", "soft", "mine/../mine/model.safetensors"):
            self.refuses("--out", "logits", "-m", self.mine, "--ids", "1", "--out", name)
        os.link(self.text, self.dir / "text")
        self.refuses("--out", "prepare", "--data", self.text, "--tokenizer", self.mine,
                     "--out", "text", at=self.text)
        self.refuses("--output", "translate", "-m", self.mine, "--input", self.text, "--output",
                     "text")
        self.refuses("--out", "tokenizer", "train", "--kind", "char", "--out", "d", "--data",
                     self.tokenizer_as_text())

    def tokenizer_as_text(self):
        (self.dir / "d").mkdir()
        os.link(self.text, self.dir / "d" / "tokenizer.json")
        return self.text

    def test_files_of_other_models(self):
        other = self.dir / "other"
        shutil.copytree(self.model, other)
        self.refuses("--state-out", "generate", "-m", self.mine, "-p", "a", "-n", 1, "--state-out",
                     other / "model.safetensors", at=other)
        self.refuses("--out", "tokenizer", "train", "--kind", "char", "--data", self.text, "--out",
                     other, at=other)
        self.refuses("--out", "sample", "copy", "--train", 2, "--test", 1, "--out", other)
        self.refuses("--svg", "plan", "--vocab-size", 5, "--layers", 1, "--svg",
                     other / "tokenizer.json", at=other)

    def test_files_of_a_run(self):
        self.must("train", "--data", self.text, "--out", "run", "--layers", 1, "--d-model", 8,
                  "--heads", 1, "--context", 8, "--batch-size", 2, "--max-steps", 1)
        for name in ("data/train.tokens", "checkpoint-1/optimizer.safetensors",
                     "training_args.json", "metrics.jsonl"):
            self.refuses("--out", "prepare", "--data", self.text, "--tokenizer", "run", "--out",
                         "run/" + name)
        self.refuses("--out", "prepare", "--data", self.text, "--tokenizer", self.mine, "--out",
                     "run/data/train.tokens")
        self.refuses("--out", "tokenizer", "train", "--kind", "char", "--data", self.text, "--out",
                     "run")

    def test_what_may_be_replaced(self):
        # A model's directory may hold other files, and a state goes on in its own file.
        state = self.mine / "my.state"
        for _ in range(2):
            self.must("generate", "-m", self.mine, "-p", "a", "-n", 2, "--state-out", state)
        self.must("generate", "-m", self.mine, "-p", "a", "-n", 2, "--state-in", state,
                  "--state-out", state)
        for _ in range(2):
            self.must("logits", "-m", self.mine, "--ids", "1", "--out", "model.safetensors")
            self.must("tokenizer", "train", "--kind", "char", "--data", self.text, "--out", "tok")
            self.must("prepare", "--data", self.text, "--tokenizer", "char", "--out", "a.tokens")
        self.must("prepare", "--data", self.text, "--tokenizer", self.mine, "--out", "/dev/null")


class Prepared(Case):
    """A token file and the tokenizer that is made for it are a pair."""

    def setUp(self):
        super().setUp()
        self.old = self.put("old.txt", "one two three\n" * 30)
        self.new = self.put("new.txt", "four five six, seven\n" * 30)
        self.must("prepare", "--data", self.old, "--tokenizer", "char", "--out", "a.tokens")
        self.pair = self.dir / "a.tokenizer"

    def files(self):
        return {f: f.read_bytes() for f in self.dir.rglob("*") if f.is_file()}

    def refused(self, *says, out="a.tokens"):
        before = self.files()
        self.fails("prepare", "--data", self.new, "--tokenizer", "char", "--out", out, says=says)
        self.assertEqual(self.files(), before)

    def test_the_pair_is_replaced_together(self):
        self.must("prepare", "--data", self.new, "--tokenizer", "char", "--out", "a.tokens")
        self.must("train", "--data", "a.tokens", "--tokenizer", "a.tokenizer", "--out", "r",
                  "--layers", 1, "--d-model", 8, "--heads", 1, "--context", 8, "--batch-size", 2,
                  "--max-steps", 1)

    def test_a_tokenizer_that_cannot_be_written_leaves_the_old_pair(self):
        shutil.rmtree(self.pair)
        self.pair.write_text("a file")
        self.refused("--out", "a.tokenizer")
        self.pair.unlink()
        self.pair.mkdir()
        (self.pair / "notes.txt").write_text("mine")
        self.refused("--out", "notes.txt")

    def test_a_token_file_that_cannot_be_written_leaves_the_old_pair(self):
        self.new.write_bytes(b"four five \xff six\n" * 30)  # found when the ids are made
        before = self.files()
        done = self.call("prepare", "--data", self.new, "--tokenizer", "char", "--out", "a.tokens")
        self.assertEqual(done.returncode, 2)
        self.assertEqual(self.files(), before)

    def test_no_directory_beside_a_device(self):
        self.refused("--out", "/dev/stdout", out="/dev/stdout")
        self.assertFalse(pathlib.Path("/dev/stdout.tokenizer").exists())
        self.refused("a.tokenizer", out="a.tokenizer")
        done = self.must("prepare", "--data", self.old, "--tokenizer", self.pair, "--out",
                         self.dir / "b.tokens")
        self.assertEqual(done, "")


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

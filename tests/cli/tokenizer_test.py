#!/usr/bin/env python3
"""Tests of tokenizers that do not fit their model, and of what their files ask for.

usage: tokenizer_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import json
import pathlib
import shutil
import sys
import unittest

import cli_test
from cli_test import Case


class Padded(Case):
    """A model whose vocabulary was padded: its last ids have no token."""

    MISSING = 30  # of those that the model finds likely

    def setUp(self):
        super().setUp()
        self.padded = self.dir / "padded"
        shutil.copytree(self.model, self.padded)
        file = self.padded / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocab = tokenizer["model"]["vocab"]
        self.size = len(vocab)
        self.tokens = self.size - self.MISSING
        for token in [t for t, i in vocab.items() if i >= self.tokens]:
            del vocab[token]
        tokenizer["model"]["merges"] = []
        file.write_text(json.dumps(tokenizer))

    def test_generate_draws_only_tokens(self):
        for settings in (["--temp", 0], ["--temp", 2, "--top-k", 0, "--top-p", 1, "--min-p", 0],
                         ["--top-k", 1], ["--repeat-penalty", 100], ["--ignore-eos"]):
            out = json.loads(self.must("generate", "-m", self.padded, "-p", "a", "-n", 60, "--json",
                                       "--logprobs", 100, *settings))
            for place in out["tokens"]:
                ids = [place["id"], *(top["id"] for top in place["top"])]
                self.assertLess(max(ids), self.tokens)
                self.assertEqual(len(ids), 101)

    def test_translate_draws_only_tokens(self):
        (self.padded / "refrain.json").write_text(
            '{"task": "translate", "source_tag": "<s>", "target_tag": "<unk>"}')
        out = self.must("translate", "-m", self.padded, "--beam-size", 3, input="a\n")
        self.assertEqual(out.count("\n"), 1)

    def test_ids_without_a_token_in_prompts(self):
        # As where config.json names an id that begins texts and the tokenizer does not have it.
        for name in ("config.json", "generation_config.json"):
            file = self.padded / name
            settings = json.loads(file.read_text())
            settings["bos_token_id"] = self.size - 1
            file.write_text(json.dumps(settings))
        out = json.loads(self.must("generate", "-m", self.padded, "-p", "", "-n", 5, "--json",
                                   "--state-out", "s"))
        self.assertEqual(out["prompt_tokens"], 1)
        self.must("generate", "-m", self.padded, "-p", "", "-n", 5, "--state-in", "s")

    def test_decode_refuses_what_there_is_not(self):
        self.assertEqual(self.must("tokenizer", "decode", "-m", self.padded,
                                   input=str(self.tokens - 1)), "d")
        self.fails("tokenizer", "decode", "-m", self.padded, input=f"1\n{self.tokens}",
                   says=f"line 2: token id {self.tokens} is not one of the vocabulary's 0 to "
                        f"{self.tokens - 1}")


class Files(Case):
    def test_truncation_and_padding_are_left_aside_with_a_note(self):
        folder = self.dir / "model"
        shutil.copytree(self.model, folder)
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        tokenizer["truncation"] = {"direction": "Right", "max_length": 2, "stride": 0,
                                   "strategy": "LongestFirst"}
        tokenizer["padding"] = {"strategy": {"Fixed": 8}, "pad_id": 0, "pad_token": "<unk>"}
        file.write_text(json.dumps(tokenizer))
        text = "the cat sat on the mat"
        ids = self.must("tokenizer", "encode", "-m", self.model, input=text)
        done = self.call("tokenizer", "encode", "-m", folder, input=text)
        self.assertEqual(done.stdout.decode(), ids)
        for key in ("truncation", "padding"):
            self.assertIn(f"tokenizer.json: {key} is left aside", done.stderr.decode())
        self.assertIn("is left aside", self.call("generate", "-m", folder, "-p", text, "-n", 1)
                      .stderr.decode())

    def test_other_models_are_refused_for_their_type(self):
        for kind in ("WordPiece", "Unigram"):
            file = self.put("t.json", json.dumps(
                {"version": "1.0", "padding": {"pad_id": 0}, "model": {
                    "type": kind, "max_input_chars_per_word": 100, "unk_id": 0, "vocab": []}}))
            self.fails("tokenizer", "encode", "-m", file, input="a",
                       says=f'model: type: expected "BPE" or "WordLevel", found "{kind}"')

    def test_llama2c_files_are_read_by_the_library(self):
        tokens = (self.made / "tok.bin").read_bytes()
        for name, blob, says in (("cut", tokens[:-1], "truncated at piece"),
                                 ("long", tokens + b"x", "found 1 bytes more")):
            self.fails("convert", "--from", "llama2c", self.made / "model.bin", "--tokenizer",
                       self.put(name, blob), "--out", "out", says=[name, says])


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

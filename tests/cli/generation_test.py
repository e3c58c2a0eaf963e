#!/usr/bin/env python3
"""Tests of generation, scoring and translation as their users meet them.

usage: generation_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import json
import os
import pathlib
import struct
import sys
import unittest

import cli_test
from cli_test import DATA, SHAPE, Case


class Generation(Case):
    def text(self, *arguments, **options):
        return self.must("generate", "-m", self.model, "-n", 20, "--ignore-eos", "--top-k", 8,
                         *arguments, **options)

    def test_prompts(self):
        greedy = self.text("-p", "the cat", "--temp", 0)
        self.assertTrue(greedy.startswith("the cat"))
        self.assertGreater(len(greedy), len("the cat"))
        for arguments in (["-t", 1], ["-t", 2], ["-s", 9]):
            self.assertEqual(self.text("-p", "the cat", "--temp", 0, *arguments), greedy)
        self.assertEqual(self.text("-p", "-", "--temp", 0, input="the cat"), greedy)
        rest = self.text("-p", "the cat", "--temp", 0, "--no-echo")
        self.assertEqual("the cat" + rest, greedy)
        empty = json.loads(self.text("-p", "", "--temp", 0, "--json"))
        self.assertEqual((empty["prompt_tokens"], len(empty["tokens"])), (1, 20))

    def test_sampling(self):
        one = self.text("-p", "a", "-s", 1, "--temp", 2)
        self.assertEqual(one, self.text("-p", "a", "-s", 1, "--temp", 2))
        self.assertNotEqual(one, self.text("-p", "a", "-s", 2, "--temp", 2))
        self.assertEqual(self.text("-p", "a", "--top-k", 1), self.text("-p", "a", "--temp", 0))

    def test_json(self):
        found = json.loads(self.text("-p", "the", "--temp", 0, "--json", "--logprobs", 3))
        self.assertEqual(found["stop_reason"], "length")
        self.assertEqual(len(found["tokens"]), 20)
        for token in found["tokens"]:
            self.assertEqual(len(token["top"]), 3)
            self.assertEqual(token["top"][0]["id"], token["id"])
            self.assertAlmostEqual(token["top"][0]["logprob"], token["logprob"], places=6)
        self.assertEqual("the" + found["text"], self.text("-p", "the", "--temp", 0))

    def test_stops(self):
        full = json.loads(self.text("-p", "the", "--temp", 0, "--json"))["text"]
        stop = full[3:6]
        cut = full[:full.index(stop)]
        found = json.loads(self.text("-p", "the", "--temp", 0, "--json", "--stop", stop, "never"))
        self.assertEqual((found["text"], found["stop_reason"]), (cut, "stop"))
        self.assertEqual(self.text("-p", "the", "--temp", 0, "--no-echo", "--stop", stop), cut)
        # What only begins like a stop is printed in the end.
        self.assertEqual(self.text("-p", "the", "--temp", 0, "--no-echo", "--stop", full[-1] + "☃"),
                         full)
        unsure = json.loads(self.text("-p", "the", "--json", "--min-confidence", 1,
                                      "--patience-tokens", 2))
        self.assertEqual(unsure["stop_reason"], "unsure")
        self.assertLessEqual(len(unsure["tokens"]), 2)

    def test_states(self):
        for options in (["--temp", 0], ["--temp", 1.5, "-s", 4]):
            whole = self.text("-p", "the cat", *options)
            first = self.text("-p", "the cat", "-n", 8, "--state-out", "a.state", *options)
            rest = self.text("-n", 12, "--state-in", "a.state", *options)
            self.assertEqual(first + rest, whole)
        self.fails("generate", "-m", self.model, "--state-in", "none", says="none")
        state = (self.dir / "a.state").read_bytes()
        for broken in (b"", state[:50], state[:-1], state[:-1] + bytes([state[-1] ^ 1])):
            self.fails("generate", "-m", self.model, "--state-in", self.put("b.state", broken),
                       says="b.state")
        self.fails("generate", "-m", self.model, "-p", "a", "--state-out", "none/a.state",
                   "--json", says="none/a.state")

    def test_cache_types(self):
        greedy = ["-p", "the cat", "--temp", 0]
        self.assertEqual(self.text(*greedy, "--cache-type", "f32"), self.text(*greedy))
        for kind in ("bf16", "q8_0"):
            cached = ["--temp", 0, "--cache-type", kind]
            whole = self.text("-p", "the cat", *cached, "-t", 1)
            self.assertEqual(self.text("-p", "the cat", *cached, "-t", 2), whole)
            first = self.text("-p", "the cat", "-n", 8, "--state-out", "a.state", *cached)
            rest = self.text("-n", 12, "--state-in", "a.state", *cached)
            self.assertEqual(first + rest, whole)
            self.fails("generate", "-m", self.model, "-n", 1, "--state-in", "a.state",
                       says=f"expected a state with a cache in f32, found one in {kind}")
            self.assertIn("all agree", self.must("verify", "-m", self.model, "--tokens", 40,
                                                 "--gradient-tokens", 4, "--cache-type", kind))
            text = self.put("a.txt", "the cat and the dog, and then the end.\n" * 9)
            self.must("eval", "-m", self.model, "--data", text, "--cache-type", kind)
        for verb in (["generate", "-p", "a"], ["verify"], ["eval", "--data", "a.txt"],
                     ["translate"]):
            self.fails(*verb, "-m", self.model, "--cache-type", "q4",
                       says="--cache-type: expected f32, bf16 or q8_0, found \"q4\"")

    def draft(self, seed=2):
        """A model with other weights and the same tokenizer."""
        cli_test.write_model(self.dir / "small.bin", seed)
        self.must("convert", "--from", "llama2c", "small.bin", "--tokenizer",
                  self.made / "tok.bin", "--out", "small")
        return self.dir / "small"

    def test_drafts(self):
        small = self.draft()
        for options in (["--temp", 0], ["--temp", 1, "-s", 3], ["--temp", 1, "-s", 4, "-c", 9],
                        ["--temp", 0, "--repeat-penalty", 1.3],
                        ["--temp", 1, "--min-confidence", 0.9, "--patience-tokens", 3]):
            generate = ["generate", "-m", self.model, "-p", "the cat", "-n", 40, *options]
            plain = self.must(*generate, "--state-out", "a.state")
            for draft in (small, self.model):
                for more in ([], ["--draft-tokens", 1], ["--draft-tokens", 32]):
                    self.assertEqual(self.must(*generate, "--draft", draft, *more,
                                               "--state-out", "b.state"), plain)
                    self.assertEqual((self.dir / "b.state").read_bytes(),
                                     (self.dir / "a.state").read_bytes())

    def test_drafts_are_told(self):
        options = ["-p", "the", "--temp", 0, "--json", "-n", 40]
        plain = json.loads(self.text(*options))
        self.assertNotIn("draft_proposed", plain)
        found = json.loads(self.text(*options, "--draft", self.model))
        self.assertGreater(found["draft_proposed"], 10)
        self.assertEqual(found["draft_accepted"], found["draft_proposed"])
        self.assertEqual(found["tokens"], plain["tokens"])
        done = self.call("generate", "-m", self.model, "-p", "the", "-n", 9, "--draft",
                         self.draft())
        self.assertRegex(done.stderr.decode(), r"; draft: \d+ of \d+ tokens accepted; stopped: ")

    def test_bad_drafts(self):
        generate = ("generate", "-m", self.model, "-p", "the")
        self.fails(*generate, "--draft", "none", says="none")
        small = self.draft()
        self.fails(*generate, "--draft", small, "--draft-tokens", 0, says="--draft-tokens: ")
        self.fails(*generate, "--draft", small, "--draft-tokens", 33, says="--draft-tokens: ")
        self.fails(*generate, "--draft-tokens", 3,
                   says="--draft-tokens: expected --draft with it, found none")
        path = small / "tokenizer.json"
        said = f"--draft {small}: not the tokenizer of {self.model}: "
        written = path.read_text()
        tokenizer = json.loads(written)
        vocab = tokenizer["model"]["vocab"]
        vocab["q"], vocab["z"] = vocab["z"], vocab["q"]
        path.write_text(json.dumps(tokenizer))
        self.fails(*generate, "--draft", small, says=[said, 'expected "q", found "z"'])
        self.put("t.txt", "the cat sat\n" * 50)
        self.must("train", "--data", "t.txt", "--out", "other", "--layers", 1, "--d-model", 16,
                  "--heads", 2, "--context", 16, "--max-steps", 1)
        self.fails(*generate, "--draft", "other",
                   says=["--draft other: not the tokenizer", "tokens, found"])

    def test_context(self):
        long = self.text("-p", "the cat", "--temp", 0, "-n", 3 * SHAPE["context"])
        self.assertGreater(len(long), 3 * SHAPE["context"] // 4)
        for flag in (["-c", -1], ["-c", 2**40], ["-n", -1], ["--temp", -1], ["--top-p", 2],
                     ["--repeat-penalty", 0], ["--logprobs", -1]):
            self.fails("generate", "-m", self.model, "-p", "a", *flag)

    def test_output_errors(self):
        with open("/dev/full", "wb") as full:
            self.fails("generate", "-m", self.model, "-p", "a", stdout=full,
                       says="standard output")
            self.fails("info", "-m", self.model, stdout=full, says="standard output")
        reader, writer = os.pipe()
        os.close(reader)
        # Who reads has seen enough (| head): no mistake, nothing to say.
        with os.fdopen(writer, "wb") as pipe:
            done = self.call("generate", "-m", self.model, "-p", "a", stdout=pipe)
            self.assertEqual((done.returncode, done.stderr), (141, b""))
        self.fails("logits", "-m", self.model, "--ids", "1", "--out", "/dev/full",
                   says="/dev/full")

    @unittest.skipUnless(DATA, "REFRAIN_DATA does not name the real material")
    def test_stories(self):
        stories = pathlib.Path(DATA) / "stories260K"
        self.must("convert", "--from", "llama2c", stories / "stories260K.bin", "--tokenizer",
                  stories / "tok512.bin", "--out", "stories")
        done = self.call("generate", "-m", "stories", "-p", "", "-n", 200, "--temp", 0)
        self.assertEqual(done.stdout, (stories / "expected_stdout_200.txt").read_bytes())
        ids = (stories / "ref_tokens.txt").read_text().split(" total")[0]
        self.must("logits", "-m", "stories", "--ids", ids, "--out", "l.safetensors")
        blob = (self.dir / "l.safetensors").read_bytes()
        data = blob[8 + struct.unpack("<Q", blob[:8])[0]:]
        found = struct.unpack(f"<{len(data) // 4}f", data)
        expected = (stories / "ref_logits_runc.f32").read_bytes()
        expected = struct.unpack(f"<{len(expected) // 4}f", expected)
        self.assertEqual(len(found), len(expected))
        self.assertLess(max(abs(a - b) for a, b in zip(found, expected)), 1e-4)


class Scores(Case):
    def test_text(self):
        text = self.put("a.txt", "the cat and the dog, and then the end.\n" * 30)
        found = json.loads(self.must("eval", "-m", self.model, "--data", text, "--json"))
        self.assertEqual(found["task"], "lm")
        self.assertGreater(found["loss"], 0)
        self.assertAlmostEqual(found["perplexity"], 2.718281828459045 ** found["loss"], delta=
                               1e-6 * found["perplexity"])
        nats = found["loss"] * found["tokens"]
        self.assertAlmostEqual(found["bits_per_byte"], nats / 0.6931471805599453 /
                               text.stat().st_size, places=6)
        self.must("prepare", "--data", text, "--tokenizer", self.model, "--out", "a.tokens")
        again = json.loads(self.must("eval", "-m", self.model, "--data", "a.tokens", "--json"))
        self.assertEqual((again["loss"], again["tokens"]), (found["loss"], found["tokens"]))
        shorter = json.loads(self.must("eval", "-m", self.model, "--data", text, "-c", 4, "--json"))
        self.assertEqual(shorter["tokens"], found["tokens"])
        self.assertNotEqual(shorter["loss"], found["loss"])
        piped = json.loads(self.must("eval", "-m", self.model, "--data", "-", "--json",
                                     input=text.read_bytes()))
        self.assertEqual(piped["loss"], found["loss"])
        self.assertIn("bits per byte", self.must("eval", "-m", self.model, "--data", text))

    def test_bad_input(self):
        text = self.put("a.txt", "the cat")
        score = ("eval", "-m", self.model, "--data")
        self.fails(*score, "none.txt", says="none.txt")
        self.fails(*score, ".")
        self.fails(*score, self.put("empty.txt", ""), says="empty.txt")
        self.fails(*score, self.put("binary.txt", b"a\0b"), says="binary.txt")
        self.fails(*score, text, "-c", "-3", says="--context")
        self.fails(*score, text, "-c", 2**60, says="--context")
        self.fails(*score, text, "--task", "sing", says="--task")
        self.fails(*score, text, text, "--task", "translate", says="source-tag")
        self.fails("eval", "-m", self.translator, "--data", text, self.put("b.txt", "a\nb\n"),
                   says=["a.txt", "b.txt"])
        self.fails("eval", "-m", self.translator, "--data", text)
        self.fails("translate", "-m", self.model, says="source-tag", input="a")
        self.fails("translate", "-m", self.translator, "--source-tag", "<xx>", input="a",
                   says=['"<xx>"', "one direction, <en> to <ja>"])
        self.fails("translate", "-m", self.translator, "--source-tag", "<xx>", "--target-tag",
                   "<ja>", input="a", says=['no token "<xx>"', "directions are <en> to <ja>"])
        self.fails("translate", "-m", self.translator, "--input", "none", says="none")
        self.fails("translate", "-m", self.translator, "--max-tokens", 8, says="line 2",
                   input="a\n" + "the cat " * 9)
        self.fails("translate", "-m", self.translator, "--output", "none/out", says="none/out",
                   input="a\n")
        self.must("prepare", "--data", text, "--tokenizer", "char", "--out", "char.tokens")
        self.fails(*score, "char.tokens", says="char.tokens")
        tokens = (self.dir / "char.tokens").read_bytes()
        self.fails(*score, self.put("cut.tokens", tokens[:-5]), says="cut.tokens")


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

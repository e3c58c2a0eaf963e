#!/usr/bin/env python3
"""Tests of what the program is given to read: files of every kind, streams, token files.

usage: data_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import unittest

import cli_test
from cli_test import Case, PlainCase

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench" / "rivals" / "pytorch"))
import tokens as rivals_tokens


class Temporaries(Case):
    def test_no_temporary_directory(self):
        text = self.put("a.txt", "the cat")
        self.fails("eval", "-m", self.model, "--data", text,
                   env={"TMPDIR": str(self.dir / "none")},
                   says=f"temporary directory in {self.dir}/none: No such file or directory")


SMALL = ("--layers", 1, "--d-model", 16, "--heads", 2, "--context", 16, "--batch-size", 4,
         "--max-steps", 2)


class Streams(Case):
    """What can be read only once."""

    def pipe(self, name, content):
        """A named pipe that gives `content` to who opens it first, and nothing later."""
        path = self.dir / name
        os.mkfifo(path)
        def feed():
            with open(path, "wb") as to:
                to.write(content)
        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        return path

    def test_training_a_tokenizer(self):
        text = "".join(f"the cat sat on the mat {n}\n" for n in range(60))
        file = self.put("a.txt", text)
        for what in ("char", "bpe:60", "byte-bpe:280"):
            self.must("prepare", "--data", file, "--tokenizer", what, "--out", "file.tokens")
            expected = (self.dir / "file.tokens").read_bytes()
            pipe = self.pipe("pipe", text.encode())
            for source, given in (("-", text), ("/dev/stdin", text), (pipe, "")):
                self.must("prepare", "--data", source, "--tokenizer", what, "--out", "new.tokens",
                          input=given)
                self.assertEqual((self.dir / "new.tokens").read_bytes(), expected, source)
            pipe.unlink()
        self.must("train", "--data", file, "--out", "from-file", *SMALL)
        self.must("train", "--data", self.pipe("pipe", text.encode()), "--out", "from-pipe", *SMALL)
        for name in ("data/train.tokens", "model.safetensors"):
            self.assertEqual((self.dir / "from-pipe" / name).read_bytes(),
                             (self.dir / "from-file" / name).read_bytes(), name)
        self.fails("prepare", "--data", "-", "--tokenizer", "char", "--out", "none.tokens",
                   says="standard input: no text found")
        self.fails("prepare", "--data", "-", "--tokenizer", "char", "--out", "none.tokens",
                   input="a", env={"TMPDIR": str(self.dir / "none")},
                   says=f"temporary file in {self.dir}/none: No such file or directory")

    def test_scoring_pairs(self):
        source, target = "the cat\nthe dog\n", "a cat\na dog\n"
        score = ("eval", "-m", self.translator, "--max-tokens", 60, "--json", "--data")
        expected = json.loads(self.must(*score, self.put("a", source), self.put("b", target)))
        found = json.loads(self.must(*score, "-", "b", input=source))
        self.assertEqual((found["loss"], found["pairs"]), (expected["loss"], expected["pairs"]))
        pairs = "the cat\ta cat\nthe dog\ta dog\n".encode()
        found = json.loads(self.must(*score, self.pipe("pairs.tsv", pairs)))
        self.assertEqual((found["loss"], found["pairs"]), (expected["loss"], expected["pairs"]))


class Documents(PlainCase):
    def ids(self, *arguments, tokenizer="char"):
        """What prepare makes of it: the bytes, and what it said."""
        done = self.call("prepare", "--data", *arguments, "--tokenizer", tokenizer, "--out",
                         "new.tokens")
        self.assertEqual(done.returncode, 0, done.stderr)
        return (self.dir / "new.tokens").read_bytes(), done.stderr.decode()

    def test_names_of_files(self):
        lines = '{"text": "the cat"}\n{"text": "sat"}\n'
        expected, _ = self.ids(self.put("a.jsonl", lines))
        for name in ("a.JSONL", "b.json", "b.Json"):
            self.assertEqual(self.ids(self.put(name, lines))[0], expected, name)
        listed = self.put("c.json", '[\n  {"text": "the cat"},\n  {"text": "sat"}\n]\n')
        self.assertEqual(self.ids(listed)[0], expected)
        self.fails("prepare", "--data", self.put("d.json", '{"data": "the cat"}'), "--tokenizer",
                   "char", "--out", "d.tokens", says=["d.json", "line 1", 'expected "text"'])
        self.fails("prepare", "--data", self.put("e.JSON", "the cat"), "--tokenizer", "char",
                   "--out", "e.tokens", says=["e.JSON: line 1: expected an object"])

    def test_an_end_token(self):
        self.put("a.jsonl", '{"text": "the cat"}\n{"text": "sat"}\n')
        self.put("a.txt", "the cat")
        self.put("b.txt", "sat")
        for kind, end in (("char", "</s>"), ("bpe:40", "</s>"), ("byte-bpe:270", "<|endoftext|>")):
            for data in (["a.jsonl"], ["a.txt", "b.txt"]):
                self.must("tokenizer", "train", "--kind", kind, "--data", *data, "--out", "t")
                found = self.must("tokenizer", "encode", "-m", "t", "--parse-special", input=end)
                self.assertEqual(len(found.split()), 1, (kind, data))
                self.assertNotIn("nothing between", self.ids(*data, tokenizer="t")[1])
        # One of the user's own, and none where there is one document.
        self.must("tokenizer", "train", "--kind", "char", "--data", "a.jsonl", "--special",
                  "<|endoftext|>", "--out", "t")
        self.assertGreater(len(self.must("tokenizer", "encode", "-m", "t", "--parse-special",
                                         input="</s>").split()), 1)
        self.must("tokenizer", "train", "--kind", "char", "--data", "a.txt", "--out", "t")
        _, said = self.ids("a.jsonl", tokenizer="t")
        self.assertEqual(said.count("nothing between them"), 1, said)
        self.assertNotIn("nothing between", self.ids("a.txt", tokenizer="t")[1])

    def test_errors_name_the_users_files(self):
        self.put("one.txt", "a")
        self.put("more.txt", "a cat and a dog\n" * 20)
        done = self.call("train", "--data", "one.txt", "--valid", "more.txt", "--out", "new",
                         *SMALL)
        self.assertEqual(done.returncode, 2)
        self.assertIn("one.txt: 1 ids of text", done.stderr.decode().splitlines()[-1])
        self.must("train", "--data", "more.txt", "--out", "run", *SMALL)
        self.fails("eval", "-m", "run", "--data", "one.txt", says="one.txt: 1 ids of text")
        self.fails("eval", "-m", "run", "--data", "-", input="a",
                   says="standard input: 1 ids of text")


class TokenFiles(PlainCase):
    def prepare(self, name, text, tokenizer):
        self.put("text", text)
        self.must("prepare", "--data", "text", "--tokenizer", tokenizer, "--out", name)
        return self.dir / name

    def test_replaced(self):
        text = "the cat sat on the mat\n" * 30
        first = self.prepare("a.tokens", text, "char")
        other = self.prepare("b.tokens", text.replace("cat sat", "sat cat"), "a.tokenizer")
        self.assertEqual(first.stat().st_size, other.stat().st_size)
        self.must("train", "--data", first, "--tokenizer", "a.tokenizer", "--out", "run", *SMALL,
                  "--stop-after", 1)
        kept = first.read_bytes()
        first.write_bytes(other.read_bytes())
        self.fails("train", "--resume", "run", says=["a.tokens: not the data", "fingerprint"])
        first.write_bytes(kept)
        self.must("train", "--resume", "run")

    def test_read_and_written_by_the_tables_beside_pytorch(self):
        text = "the cat sat on the mat\n" * 30
        for tokenizer in ("char", "byte-bpe:280"):
            file = self.prepare("a.tokens", text, tokenizer)
            ids, header = rivals_tokens.read(file)
            encoded = self.must("tokenizer", "encode", "-m", "a.tokenizer", input=text)
            self.assertEqual(list(ids), [int(id) for id in encoded.split()])
            run = "run-" + tokenizer.partition(":")[0]
            self.must("train", "--data", file, "--tokenizer", "a.tokenizer", "--out", run, *SMALL)
            rivals_tokens.write(self.dir / "part.tokens", ids[:100], header)
            self.assertEqual(list(rivals_tokens.read(self.dir / "part.tokens")[0]),
                             list(ids[:100]))
            scores = self.must("eval", "-m", run, "--data", "part.tokens", "--json")
            self.assertEqual(json.loads(scores)["tokens"], 99)

    def test_changed_behind_its_back(self):
        file = self.prepare("a.tokens", "the cat sat on the mat\n" * 30, "char")
        self.must("train", "--data", file, "--tokenizer", "a.tokenizer", "--out", "run", *SMALL,
                  "--stop-after", 1)
        content = bytearray(file.read_bytes())
        content[64 + 2 * 40] ^= 1
        file.write_bytes(content)
        self.fails("eval", "-m", "run", "--data", file, says=["a.tokens: damaged", "place 0"])


MOST = 24  # MiB


class Memory(PlainCase):
    """Texts that are not held whole."""

    def streamed(self, *arguments, input):
        """What the program prints, and the most memory it had, in MiB, with all input read."""
        with open(self.dir / "output", "wb") as output:
            process = subprocess.Popen([cli_test.REFRAIN, *arguments], stdin=subprocess.PIPE,
                                       stdout=output, cwd=self.dir)
            process.stdin.write(input.encode())
            process.stdin.flush()  # but for what a pipe holds
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            process.stdin.close()
            self.assertEqual(process.wait(120), 0)
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return (self.dir / "output").read_bytes().decode(), int(kib) / 1024

    def test_encode_and_decode(self):
        self.measures_memory()
        draw = random.Random(1)
        words = ["the", "cat", "sat", "  on", "\r\n", "<mat>", "\n\n", "12,7"]
        small = " ".join(draw.choice(words) for _ in range(2000))
        text = small * 3000
        self.put("small", small)
        for kind in ("byte-bpe:300",):
            self.must("tokenizer", "train", "--kind", kind, "--data", "small", "--out", "t",
                      "--special", "<mat>")
            part = self.must("tokenizer", "encode", "-m", "t", "--parse-special", input=small)
            ids, most = self.streamed("tokenizer", "encode", "-m", "t", "--parse-special",
                                      input=text)
            self.assertEqual(ids.count("\n"), 1)
            self.assertTrue(ids.startswith(part[:-20]))
            self.assertLess(most, MOST, kind)
            back, most = self.streamed("tokenizer", "decode", "-m", "t", "--with-special",
                                       input=ids)
            self.assertTrue(back == text)
            self.assertLess(most, MOST, kind)

    def test_decode_names_the_line(self):
        self.put("a.txt", "the cat")
        self.must("tokenizer", "train", "--kind", "char", "--data", "a.txt", "--out", "t")
        self.fails("tokenizer", "decode", "-m", "t", input="1 2\n3\n4 x",
                   says='standard input: line 3: expected a token id, found "x"')
        self.assertEqual(self.must("tokenizer", "decode", "-m", "t", input=""), "")


class Limits(Case):
    def test_prompt(self):
        self.fails("generate", "-m", self.model, "-p", "-", input=b"the cat " * 2 ** 23 + b"s",
                   says="standard input: longer than 67108864 bytes")


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

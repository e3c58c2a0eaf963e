#!/usr/bin/env python3
"""Tests of the program as its users meet it: what it prints, leaves and refuses.

usage: cli_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]

Standard library only. Models are tiny llama2.c files with random weights, written here and
converted by the program itself. REFRAIN_DATA names the folder of real material; what needs it is
skipped without it.
"""
import functools
import json
import math
import mmap
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

REFRAIN = None  # the program; set by main()
DATA = os.environ.get("REFRAIN_DATA")

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)),
          "▁", *"abcdefghijklmnopqrstuvwxyz.,", "<en>", "<ja>", "th", "the", "▁the", "an"]
SHAPE = dict(dim=16, hidden=24, layers=2, heads=2, kv_heads=1, context=32)


def write_model(path, seed=1):
    s, vocab = SHAPE, len(PIECES)
    kv = s["dim"] // s["heads"] * s["kv_heads"]
    head = s["dim"] // s["heads"]
    draw = random.Random(seed)
    normal = lambda n: [draw.gauss(0, 0.4) for _ in range(n)]
    ones = lambda n: [1.0] * n
    layers = s["layers"]
    # Byte tokens get logit 0, below the likely ones: what is generated is text.
    values = [0.0] * (259 * s["dim"]) + normal((vocab - 259) * s["dim"]) + ones(layers * s["dim"])
    for rows in (s["dim"], kv, kv, s["dim"]):
        values += normal(layers * rows * s["dim"])
    values += ones(layers * s["dim"]) + normal(3 * layers * s["dim"] * s["hidden"])
    values += ones(s["dim"]) + [0.0] * (s["context"] * head)
    header = struct.pack("<7i", s["dim"], s["hidden"], layers, s["heads"], s["kv_heads"], vocab,
                         s["context"])
    path.write_bytes(header + struct.pack(f"<{len(values)}f", *values))


def write_tokenizer(path):
    blob = struct.pack("<i", max(len(p.encode()) for p in PIECES))
    for i, piece in enumerate(PIECES):
        text = piece.replace("▁", " ").encode()
        # Short pieces first; the tags are whole tokens that no merge leads to.
        blob += struct.pack("<fi", -float(i), len(text)) + text
    path.write_bytes(blob)


@functools.cache
def sanitized():
    """Whether the program was built with a sanitizer, whose memory would be counted as its own."""
    with open(REFRAIN, "rb") as file, \
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
        return any(program.find(name) >= 0 for name in (b"__asan_init", b"__tsan_init"))


@functools.cache
def emulated():
    """Whether the program is a script that calls an emulator."""
    with open(REFRAIN, "rb") as file:
        return file.read(2) == b"#!"


def patience():
    """How many seconds a call may take: under a sanitizer or an emulator, more."""
    return 1200 if sanitized() or emulated() else 120


def instruction_sets():
    """What REFRAIN_ISA may be here, from the least on."""
    done = subprocess.run([REFRAIN, "--version"], env={**os.environ, "REFRAIN_ISA": "none"},
                          capture_output=True, text=True)
    return re.search(r"REFRAIN_ISA: expected (.*), found 'none'", done.stderr)[1].replace(
        " or ", ", ").split(", ")


class Case(unittest.TestCase):
    """A test in a folder of its own; nothing may be left in its temporary folder."""

    @classmethod
    def setUpClass(cls):
        cls._models = tempfile.TemporaryDirectory()
        made = pathlib.Path(cls._models.name)
        write_model(made / "model.bin")
        write_tokenizer(made / "tok.bin")
        done = subprocess.run(
            [REFRAIN, "convert", "--from", "llama2c", made / "model.bin", "--tokenizer",
             made / "tok.bin", "--out", made / "model"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (made / "translator").mkdir()
        for file in (made / "model").iterdir():
            shutil.copy(file, made / "translator")
        (made / "translator" / "refrain.json").write_text(
            '{"task": "translate", "source_tag": "<en>", "target_tag": "<ja>"}')
        cls.model, cls.translator, cls.made = made / "model", made / "translator", made

    @classmethod
    def tearDownClass(cls):
        cls._models.cleanup()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        self.tmp = self.dir / ".tmp"
        self.tmp.mkdir()

    def measures_memory(self):
        if sanitized():
            self.skipTest("a sanitizer's memory counts as well")

    def temporaries(self):
        """What is in the temporary folder, but for what the thread sanitizer maps."""
        return [f.name for f in self.tmp.iterdir() if not f.name.startswith("tsan.rodata.")]

    def tearDown(self):
        self.assertEqual(self.temporaries(), [], "left in the temporary folder")
        self.assertEqual([f.name for f in self.dir.iterdir()
                          if ".tmp-" in f.name or ".old-" in f.name], [], "left behind")

    def call(self, *arguments, input=b"", **options):
        if isinstance(input, str):
            input = input.encode()
        options.setdefault("stdout", subprocess.PIPE)
        env = {**os.environ, "TMPDIR": str(self.tmp),
               # Tests run side by side: threads that wait must not keep a core busy.
               "OMP_WAIT_POLICY": "passive", **options.pop("env", {})}
        arguments = map(str, arguments) if options.pop("as_is", False) else override(arguments)
        return subprocess.run([REFRAIN, *arguments], input=input, cwd=self.dir,
                              stderr=subprocess.PIPE, timeout=patience(), env=env,
                              **options)

    def must(self, *arguments, **options):
        done = self.call(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def fails(self, *arguments, says=(), **options):
        """Exit 2, nothing printed, one line on standard error with all of `says`, no new files."""
        before = sorted(self.dir.rglob("*"))
        done = self.call(*arguments, **options)
        error = done.stderr.decode()
        self.assertEqual(done.returncode, 2, error)
        self.assertEqual(done.stdout or b"", b"")
        self.assertTrue(error.startswith("refrain"), error)
        self.assertEqual(error.count("\n"), 1, error)
        self.assertTrue(error.endswith("\n"), error)
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, error)
        self.assertEqual(sorted(self.dir.rglob("*")), before, "files changed")
        return error

    def put(self, name, content):
        path = self.dir / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def broken_model(self, **files):
        """A copy of the model with some files replaced (None: removed)."""
        path = self.dir / "broken"
        shutil.copytree(self.model, path)
        for name, content in files.items():
            file = path / name.replace("__", ".")
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


LISTS = {"--data", "--valid", "--tags", "--stop", "--input", "--budgets", "--sections",
         "--special", "--from", "--references"}


def override(arguments):
    """A later flag in the place of an earlier one of its name: tests build on each other's."""
    arguments = [str(argument) for argument in arguments]
    is_flag = lambda text: text.startswith("--") or re.fullmatch("-[a-zA-Z]", text) is not None
    parts = [[]]
    for argument in arguments:
        if is_flag(argument):
            parts.append([])
        parts[-1].append(argument)
    name = lambda part: part[0].split("=")[0].replace("_", "-") if part else ""
    last = {name(part): i for i, part in enumerate(parts)}
    return [word for i, part in enumerate(parts) if name(part) in LISTS or last[name(part)] == i
            for word in part]


class PlainCase(Case):
    """A test that needs no converted models."""

    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass


class Flags(Case):
    def test_version_and_help(self):
        self.assertRegex(self.must("--version"), r"^refrain \d+\.\d+\.\d+\n$")
        help = self.must("--help")
        for verb in ("tokenizer train", "prepare", "sample calendar", "convert", "info", "eval",
                     "generate", "translate", "reconstruct", "score", "verify", "logits"):
            self.assertIn(verb, help)
            own = self.must(*verb.split(), "--help")
            self.assertIn("--threads N", own)
            self.assertIn("usage: refrain " + verb, own)
            self.assertLessEqual(max(map(len, own.splitlines())), 100)
        self.assertIn("tokenizer encode", self.must("tokenizer", "--help"))
        self.assertRegex(self.must("generate", "-h"), r"--top-k N .*\[40\]")

    def test_unknown(self):
        self.fails(says="expected a verb")
        self.fails("genrate", says=["unknown verb 'genrate'", "did you mean 'generate'?"])
        self.fails("sharpen", says="unknown verb 'sharpen'")
        self.fails("tokenizer", says="train, encode, decode")
        self.fails("tokenizer", "trian", says="did you mean 'train'?")
        self.fails("generate", "--tmep", "0", says=["unknown flag '--tmep'", "'--temp'"])
        self.fails("generate", "-x", says="unknown flag '-x'")
        self.fails("generate", "surplus", says="expected a flag, found 'surplus'")
        self.fails("--verson", says="expected a verb, found '--verson'")

    def test_instruction_sets(self):
        with unittest.mock.patch.dict(os.environ, REFRAIN_ISA="avx3"):
            self.fails("info", says=["REFRAIN_ISA: expected ", ", found 'avx3'"])
        for name in instruction_sets():
            with unittest.mock.patch.dict(os.environ, REFRAIN_ISA=name):
                self.must("--version")

    def test_values(self):
        self.fails("generate", "--temp", says="--temp: expected a value")
        self.fails("generate", "--temp", "--top-k", "3", says="found the flag --top-k")
        self.fails("generate", "--temp", "warm", says="--temp: expected a number, found 'warm'")
        self.fails("generate", "--temp", "nan", says="--temp")
        self.fails("generate", "--top-k=1.5", says="expected a whole number")
        self.fails("generate", "--top-k", "99999999999999999999", says="out of range")
        self.fails("generate", "--json=maybe", says="expected true or false")
        self.fails("generate", "--no-json=true", says="expected no value")
        self.fails("generate", "--help=1", says="expected no value")
        self.fails("generate", says="--model is missing")
        self.fails("eval", "--data", says="expected one value or more")
        self.fails("info", "-m", "x", "--threads", "-1", says="--threads")
        self.fails("generate", "-m", self.model, "--stop", "", "-p", "a", says="stop")
        self.fails("generate", "-m", self.model, "--logprobs", "3", "-p", "a", says="expected --json")

    def settings(self, *arguments, **options):
        return json.loads(self.must("generate", *arguments, "--dump-config", **options))

    def test_spellings(self):
        for arguments in (["--top-k", "7"], ["--top_k", "7"], ["--top-k=7"], ["--top_k=7"]):
            self.assertEqual(self.settings(*arguments)["top_k"], 7)
        short = self.settings("-m", "M", "-p", "P", "-n", "3", "-c", "4", "-t", "5", "-s", "6")
        self.assertEqual([short[k] for k in ("model", "prompt", "max_new_tokens", "context",
                                             "threads", "seed")], ["M", "P", 3, 4, 5, 6])
        self.assertEqual(self.settings("-p", "--- a")["prompt"], "--- a")
        self.assertEqual(self.settings("-p", "-")["prompt"], "-")
        self.assertEqual(self.settings("--prompt=--temp=1")["prompt"], "--temp=1")
        self.assertEqual(self.settings("--stop", "a", "b", "--stop=c")["stop"], ["a", "b", "c"])
        self.assertEqual(self.settings("--seed", "-5")["seed"], -5)
        self.assertEqual(self.settings("--temp", ".5")["temp"], 0.5)
        for arguments, json_, echo in ((["--json", "--no-echo"], True, False),
                                       (["--json", "false", "--echo"], False, True),
                                       (["--json=true", "--no-echo", "-p", "x"], True, False)):
            found = self.settings(*arguments)
            self.assertEqual((found["json"], found["echo"]), (json_, echo))

    def test_repeated(self):
        """Which of two values is meant, nobody knows."""
        for arguments, says in {
                ("--top-k", "9", "--top-k", "7"): "--top-k: expected it once, found it again",
                ("--top-k", "7", "--top_k=7"): "--top-k: expected it once, found --top_k too",
                ("-n", "3", "--max-new-tokens", "4"): "-n: expected it once, found --max-new",
                ("--json", "--no-json"): "--json: expected it once, found --no-json too",
                ("--config", "a", "--config", "b"): "--config: expected it once, found it again",
        }.items():
            self.fails("generate", *arguments, says=says, as_is=True)
        self.assertEqual(self.settings("--stop", "a", "--stop", "b", as_is=True)["stop"],
                         ["a", "b"])
        file = self.put("k.json", '{"top_k": 3}')
        self.assertEqual(self.settings("--config", file, "--top-k", 7, as_is=True)["top_k"], 7)

    def test_config_files(self):
        flat = self.put("a.json", '{"top_k": 3, "min-p": 0.25, "stop": ["x", "y"], "json": true}')
        toml = self.put("a.toml", """
            # settings
            top_k = 3   # of forty
            min-p = 2.5e-1
            json = true
            prompt = "a # \\"b\\" \\u00e9"
            stop = [ "x",
                     'y', ]  # two
            """)
        for file in (flat, toml):
            found = self.settings("--config", file, "--stop", "z", "--top-p", "0.5")
            self.assertEqual((found["top_k"], found["min_p"], found["stop"], found["json"],
                              found["top_p"]), (3, 0.25, ["z"], True, 0.5))
            self.assertEqual(self.settings("--config", file)["stop"], ["x", "y"])
            self.assertEqual(self.settings("--top-k", "5", "--config", file)["top_k"], 5)
        self.assertEqual(self.settings("--config", toml)["prompt"], 'a # "b" é')
        dumped = self.put("dumped.json", self.must("generate", "--temp", "0.3", "--dump-config"))
        self.assertEqual(self.settings("--config", dumped), self.settings("--temp", "0.3"))

    def test_bad_config_files(self):
        for name, content, says in (
                ("a.json", '{"top_q": 1}', ["unknown setting 'top_q'", "did you mean 'top_"]),
                ("a.json", '{"top_k": "x"}', "top_k: expected a whole number"),
                ("a.json", '{"top_k": [1]}', "found a list"),
                ("a.json", '{"top_k": null}', "top_k"),
                ("a.json", '{"top": {"k": 1}}', "top.k"),
                ("a.json", '[1]', "expected an object"),
                ("a.json", '{"top_k": 1', "a.json"),
                ("a.json", "[" * 100000, "a.json"),
                ("a.json", '{"config": "a.json"}', "unknown setting"),
                ("a.json", b'{"prompt": "\xff"}', "a.json"),
                ("a.toml", "top_k", "line 1: key-value pair"),
                ("a.toml", "top_k = 1\ntop_k = 2", ["line 2", "cannot redefine", "'top_k'"]),
                ("a.toml", "top_k = 1 2", "line 1"),
                ("a.toml", "top_k = 1979-05-27", "line 1"),
                ("a.toml", 'prompt = "a', "line 1"),
                ("a.toml", 'prompt = "\\q"', "line 1"),
                ("a.toml", "stop = [1, [2]]", "line 1"),
                ("a.toml", "stop = [", "line 1"),
                ("a.toml", "stop = [}", "expected TOML"),
                ("a.toml", "top_k = 1\n[\u0117]\n", "expected TOML"),
                ("a.toml", "[[a]]", "line 1"),
                ("a.toml", "a." * 100000 + "b = 1", "line 1"),
                ("a.toml", b"prompt = '\xff'", "UTF-8"),
                ("a.toml", "top_k = inf", "line 1"),
        ):
            with self.subTest(content=content[:40]):
                self.fails("generate", "--config", self.put(name, content), "--dump-config",
                           says=says)
        self.fails("generate", "--config", "none.json", says="none.json")
        self.fails("generate", "--config", says="expected a value")

    def test_verbose(self):
        done = self.call("info", "-m", self.model, "--verbose", "-t", "1")
        self.assertEqual(done.returncode, 0)
        self.assertIn('"threads":1', done.stderr.decode())
        self.assertIn("MiB", done.stderr.decode())


class Tokenizers(Case):
    TEXT = "the cat and the dog\nthe end é 漢字\n"

    def test_train_encode_decode(self):
        data = self.put("a.txt", self.TEXT * 20)
        for kind in ("char", "bpe:60", "byte-bpe:300"):
            with self.subTest(kind=kind):
                self.must("tokenizer", "train", "--kind", kind, "--data", data, "--out", "tok",
                          "--special", "<en>", "</s>")
                self.assertTrue((self.dir / "tok" / "tokenizer.json").exists())
                lines = self.must("tokenizer", "encode", "-m", "tok", "--lines", input=self.TEXT)
                self.assertEqual(len(lines.splitlines()), 2)
                back = self.must("tokenizer", "decode", "-m", "tok", "--lines", input=lines)
                self.assertEqual(back, self.TEXT)
                ids = self.must("tokenizer", "encode", "-m", "tok/tokenizer.json", "--input", data)
                back = self.must("tokenizer", "decode", "-m", "tok", input=ids)
                if kind != "bpe:60":  # which keeps words, not white space
                    self.assertEqual(back, self.TEXT * 20)
                self.assertEqual(back.split(), (self.TEXT * 20).split())
                special = self.must("tokenizer", "encode", "-m", "tok", "--parse-special",
                                    input="<en>").split()
                self.assertEqual(special, ["0"])
                self.assertGreater(
                    len(self.must("tokenizer", "encode", "-m", "tok", input="<en>").split()), 1)
                self.assertEqual(self.must("tokenizer", "decode", "-m", "tok", input="0"), "")
                self.assertEqual(self.must("tokenizer", "decode", "-m", "tok", "--with-special",
                                           input="0"), "<en>")

    def test_bad_input(self):
        data = self.put("a.txt", self.TEXT)
        train = ("tokenizer", "train", "--data", data, "--out", "tok")
        self.fails(*train, "--kind", "word", says="word")
        self.fails(*train, "--kind", "bpe:1", says="too small")
        self.fails(*train, says="--kind is missing")
        self.fails("tokenizer", "train", "--kind", "char", "--data", "none.txt", "--out", "tok",
                   says="none.txt")
        self.fails("tokenizer", "train", "--kind", "char", "--data", ".", "--out", "tok")
        self.fails("tokenizer", "train", "--kind", "char", "--out", "tok", "--data",
                   self.put("bad.txt", b"a\xffb"))
        self.fails("tokenizer", "encode", "-m", "none", says="none")
        self.fails("tokenizer", "decode", "-m", self.model, input="1 two", says=["line 1", "two"])
        self.fails("tokenizer", "decode", "-m", self.model, input="1 9999999", says="9999999")
        lost_id = {"type": "BPE", "vocab": {"a": 5}, "merges": []}
        for content in ("", "{", "[]", '{"model": 1}', "[" * 100000, b"\xff\xfe",
                        json.dumps({"version": "1.0", "model": lost_id})):
            with self.subTest(content=content[:20]):
                self.fails("tokenizer", "encode", "-m", self.put("t.json", content), says="t.json")


class Data(Case):
    def test_sample(self):
        sizes = ("--train", 50, "--dev", 5, "--test", 5)
        self.must("sample", "calendar", "--seed", 3, "--out", "a", *sizes)
        self.must("sample", "calendar", "--seed", 3, "--out", "b", *sizes)
        for name in ("train", "dev", "test"):
            for side in ("en", "ja"):
                text = (self.dir / "a" / f"{name}.{side}").read_text()
                self.assertEqual(len(text.splitlines()), 50 if name == "train" else 5)
                self.assertEqual(text, (self.dir / "b" / f"{name}.{side}").read_text())
        self.fails("sample", "calendar", "--out", "c", "--train", "-1")
        self.fails("sample", "calendar", "--out", "c", "--seed", "-1", says="--seed")
        self.fails("sample", "calendar", "--out", self.put("file", "") / "c")

    def test_probes(self):
        for kind in ("recall", "multi-query-recall", "induction", "copy", "selective-copy",
                     "recall-after-gap"):
            self.must("sample", kind, "--train", 20, "--test", 5, "--out", kind)
            lines = (self.dir / kind / "train.jsonl").read_text().splitlines()
            self.assertEqual(len(lines), 20)
            self.assertEqual(set(json.loads(lines[0])), {"input", "target"})
        self.fails("sample", "recall", "--vocab", 3, "--out", "x", says=("recall: vocab", "found 3"))
        self.fails("sample", "copy", "--out", "x", "--seed=-1", says="--seed")
        train = ("train", "--task", "probe", "--data", "copy/train.jsonl", "--valid",
                 "copy/test.jsonl", "--layers", 1, "--heads", 2, "--d-model", 16, "--max-steps", 2)
        self.fails(*train, "--out", "run", says=("--tokenizer char", "no text"))
        self.must(*train, "--tokenizer", "copy", "--out", "run", "--mixer", "attention_rnn")
        scores = json.loads(self.must("eval", "-m", "run", "--data", "copy/test.jsonl", "--json"))
        self.assertEqual((scores["task"], scores["tokens"], scores["sequences"]), ("probe", 50, 5))
        self.assertEqual(scores["accuracy"], scores["right"] / 50)
        self.assertIn("accuracy", self.must("eval", "-m", "run", "--data", "copy/test.jsonl"))
        bad = self.put("bad.jsonl", '{"input": [1], "target": [10]}\n')
        self.fails("eval", "-m", "run", "--data", bad, says=("bad.jsonl: line 1", "-1 to 9"))
        self.must("prepare", "--task", "probe", "--data", "copy/test.jsonl", "--tokenizer", "copy",
                  "--out", "p.tokens")
        again = json.loads(self.must("eval", "-m", "run", "--data", "p.tokens", "--json"))
        self.assertEqual(again["loss"], scores["loss"])

    def test_prepare(self):
        text = self.put("a.txt", "the cat and the dog\n" * 50)
        self.must("prepare", "--data", text, "--tokenizer", "bpe:40", "--out", "a.tokens")
        self.assertTrue((self.dir / "a.tokenizer" / "tokenizer.json").exists())
        first = (self.dir / "a.tokens").read_bytes()
        self.must("prepare", "--data", text, "--tokenizer", "a.tokenizer", "--out", "b.tokens")
        self.assertEqual(first, (self.dir / "b.tokens").read_bytes())
        self.put("a.en", "the cat\n\nthe dog\n")
        self.put("a.ja", "neko\n\ninu\n")
        done = self.call("prepare", "--task", "translate", "--data", "a.en", "a.ja", "--tokenizer",
                         "char", "--out", "p.tokens")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("2 pairs", done.stderr.decode())

    def test_bad_input(self):
        prepare = ("prepare", "--tokenizer", "char", "--out", "a.tokens", "--data")
        self.fails(*prepare, "none.txt", says="none.txt")
        self.fails(*prepare, ".")
        self.fails(*prepare, self.put("empty.txt", ""), says="empty.txt")
        self.fails(*prepare, self.put("binary.txt", b"a\0b\n" * 20), says="binary.txt")
        self.fails(*prepare, self.put("latin.txt", b"caf\xe9 au lait\n"))
        self.fails(*prepare, self.put("a.jsonl", '{"text": "a"}\n{"text": 1}\n'), says="line 2")
        self.fails(*prepare, self.put("a.gz", b"\x1f\x8b\x08\0broken"), says="a.gz")
        self.fails(*prepare, "-", input="", says="standard input: no text found")
        en, ja = self.put("a.en", "a\nb\nc\n"), self.put("a.ja", "a\nb\n")
        self.fails(*prepare, en, ja, "--task", "translate", says=["a.en", "3", "a.ja", "2"])
        self.fails(*prepare, en, "--task", "translate", says="expected a file of source lines")
        self.fails(*prepare, self.put("a.tsv", "a\tb\nc\n"), "--task", "translate", says="line 2")
        self.fails(*prepare, en, "--task", "sing", says="sing")
        self.fails("prepare", "--tokenizer", "none", "--data", en, "--out", "a.tokens", says="none")
        self.fails("prepare", "--tokenizer", "char", "--data", en, "--out", "none/a.tokens",
                   says="none/a.tokens")
        self.fails("prepare", "--tokenizer", "char", "--data", en, "--out", f"{en.parent}/./a.en",
                   says="--out")
        self.assertEqual(en.read_text(), "a\nb\nc\n")
        self.must("prepare", "--tokenizer", "char", "--data", en, "--out", "a.tokens")
        self.fails("prepare", "--tokenizer", "char", "--data", "a.tokens", "--out", "b.tokens",
                   says="token file a.tokens")

    @unittest.skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable(self):
        path = self.put("secret.txt", "text")
        path.chmod(0)
        self.fails("prepare", "--tokenizer", "char", "--out", "a.tokens", "--data", path,
                   says="secret.txt")


class Models(Case):
    def test_convert(self):
        out = self.dir / "again"
        self.must("convert", "--from", "hf", self.model, "--out", out)
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            self.assertEqual((out / name).read_bytes(), (self.model / name).read_bytes(), name)
        config = json.loads((out / "config.json").read_text())
        self.assertEqual(config["architectures"], ["LlamaForCausalLM"])
        self.assertEqual(config["vocab_size"], len(PIECES))
        self.fails("convert", "--from", "hf", self.model, "--out", out, says="empty directory")

    def test_bad_conversions(self):
        model, tok = self.made / "model.bin", self.made / "tok.bin"
        convert = lambda m, t: ("convert", "--from", "llama2c", m, "--tokenizer", t, "--out", "out")
        blob, tokens = model.read_bytes(), tok.read_bytes()
        for cut in (0, 3, 27, 28, 1000, len(blob) - 4):
            self.fails(*convert(self.put("cut.bin", blob[:cut]), tok), says="cut.bin")
        self.fails(*convert(self.put("long.bin", blob + b"1234"), tok), says="long.bin")
        for i in range(7):
            for value in (0, -2**31, 2**31 - 1):
                header = bytearray(blob)
                struct.pack_into("<i", header, 4 * i, value)
                self.fails(*convert(self.put("lie.bin", bytes(header)), tok), says="lie.bin")
        for cut in (0, 3, 4, 100, len(tokens) - 1):
            self.fails(*convert(model, self.put("cut.tok", tokens[:cut])), says="cut.tok")
        self.fails(*convert(model, self.put("long.tok", tokens + b"1")), says="long.tok")
        lie = bytearray(tokens)
        struct.pack_into("<i", lie, 8, 2**31 - 1)
        self.fails(*convert(model, self.put("lie.tok", bytes(lie))), says="lie.tok")
        struct.pack_into("<fi", lie, 4, float("nan"), 3)
        self.fails(*convert(model, self.put("nan.tok", bytes(lie))), says="nan.tok")
        self.fails("convert", "--from", "llama2c", model, "--out", "out", says="--tokenizer")
        self.fails("convert", "--from", "gguf", model, "--out", "out", says="GGUF")
        self.fails("convert", "--from", "hf", "--out", "out", says="--from")
        self.fails("convert", "--from", "hf", "none", "--out", "out", says="none")
        self.fails("convert", "--from", "hf", self.model, "--out", self.put("file", "x"))

    def torch_gru(self, vocab):
        """The state_dict of an embedding, an nn.GRU(4, 6) and an output, as safetensors."""
        shapes = {"emb.weight": (vocab, 4), "rnn.weight_ih_l0": (18, 4),
                  "rnn.weight_hh_l0": (18, 6), "rnn.bias_ih_l0": (18,), "rnn.bias_hh_l0": (18,),
                  "fc.weight": (vocab, 6), "fc.bias": (vocab,)}
        draw, header, data = random.Random(3), {}, b""
        for name, shape in shapes.items():
            size = math.prod(shape)
            header[name] = {"dtype": "F32", "shape": shape,
                            "data_offsets": [len(data), len(data) + 4 * size]}
            data += struct.pack(f"<{size}f", *(draw.gauss(0, 1) for _ in range(size)))
        text = json.dumps(header).encode()
        return self.put(f"gru{vocab}.safetensors", struct.pack("<Q", len(text)) + text + data)

    def test_convert_torch_cells(self):
        weights = self.torch_gru(len(PIECES))
        convert = ("convert", "--from", "torch-gru", weights, "--out")
        self.must(*convert, "model", "--tokenizer", self.model)
        about = json.loads(self.must("info", "-m", "model", "--json"))["config"]
        self.assertEqual((about["block"], about["pattern"], about["d_model"]), ("bare", "gru", 6))
        said = self.call("generate", "-m", "model", "--prompt", "the", "--max-new-tokens", "5")
        self.assertEqual(said.returncode, 0, said.stderr)
        self.must("verify", "-m", "model")
        self.must(*convert, "no_tokenizer")
        self.must("logits", "-m", "no_tokenizer", "--ids", "1 2 3", "--out", "logits")
        self.fails("convert", "--from", "torch-lstm", weights, "--out", "out",
                   says=("gru", "weight_ih_l0", "[24, 4]", "[18, 4]"))
        self.fails("convert", "--from", "torch-gru", self.torch_gru(9), "--out", "out",
                   "--tokenizer", self.model, says=("--tokenizer", "9", str(len(PIECES))))
        self.fails("convert", "--from", "torch-gru", self.model / "model.safetensors", "--out",
                   "out", says="expected no tensor of this name")

    def test_info(self):
        about = json.loads(self.must("info", "-m", self.model, "--json"))
        s, vocab = SHAPE, len(PIECES)
        kv = s["dim"] // s["heads"] * s["kv_heads"]
        expected = {"embedding": vocab * s["dim"], "norms": (2 * s["layers"] + 1) * s["dim"],
                    "mixers": s["layers"] * s["dim"] * (2 * s["dim"] + 2 * kv),
                    "feed_forward": s["layers"] * 3 * s["dim"] * s["hidden"]}
        expected["all"] = sum(expected.values())
        self.assertEqual(about["parameters"], expected)
        a_block = (expected["mixers"] + expected["feed_forward"]) // s["layers"] + 2 * s["dim"]
        self.assertEqual(about["block_parameters"], s["layers"] * [a_block])
        self.assertEqual(about["bytes"], 4 * expected["all"])
        self.assertEqual(about["state_bytes_per_token"], s["layers"] * 2 * kv * 4)
        self.assertEqual(about["tokenizer"]["tokens"], vocab)
        self.assertEqual(json.loads(self.must("info", "-m", self.translator, "--json"))["task"],
                         {"task": "translate", "source_tag": "<en>", "target_tag": "<ja>"})
        self.assertIn("state_bytes_per_token", self.must("info", "-m", self.model))

    def test_logits(self):
        self.must("logits", "-m", self.model, "--ids", "1 5, 9", "--out", "l.safetensors")
        blob = (self.dir / "l.safetensors").read_bytes()
        size = struct.unpack("<Q", blob[:8])[0]
        about = json.loads(blob[8:8 + size])["logits"]
        self.assertEqual((about["dtype"], about["shape"]), ("F32", [3, len(PIECES)]))
        self.assertEqual(len(blob) - 8 - size, 3 * len(PIECES) * 4)
        for ids in ("", "x", "-1", "999999", "1.5"):
            self.fails("logits", "-m", self.model, f"--ids={ids}", "--out", "m.safetensors",
                       says="--ids")

    def test_broken_directories(self):
        weights = (self.model / "model.safetensors").read_bytes()
        config = json.loads((self.model / "config.json").read_text())
        header = struct.unpack("<Q", weights[:8])[0]
        tensors = json.loads(weights[8:8 + header])

        def with_header(change, data=weights[8 + header:]):
            changed = json.loads(json.dumps(tensors))
            change(changed)
            text = json.dumps(changed).encode()
            return struct.pack("<Q", len(text)) + text + data

        def lie_shape(t):
            t["model.norm.weight"]["shape"] = [2**62, 8]

        def overlap(t):
            t["model.norm.weight"]["data_offsets"] = [0, SHAPE["dim"] * 4]

        def outside(t):
            t["model.norm.weight"]["data_offsets"] = [2**40, 2**40 + SHAPE["dim"] * 4]

        def strange_type(t):
            t["model.norm.weight"]["dtype"] = "I32"

        broken = [dict(model__safetensors=w) for w in (
            b"", weights[:7], weights[:100], weights[:-1], weights + b"x",
            struct.pack("<Q", 2**63) + weights[8:], with_header(lie_shape), with_header(overlap),
            with_header(outside), with_header(strange_type),
            with_header(lambda t: t.pop("model.norm.weight")), None)]
        changes = [dict(vocab_size=5), dict(hidden_size="x"), dict(hidden_size=2**40),
                   dict(num_hidden_layers=-1), dict(num_hidden_layers=3),
                   dict(num_attention_heads=0), dict(num_hidden_layers=1e300),
                   dict(model_type="bert"), dict(hidden_act="gelu"), dict(attention_bias=True)]
        broken += [dict(config__json=json.dumps({**config, **c})) for c in changes]
        broken += [dict(config__json=c) for c in ("", "[]", "{", "[" * 100000, '{"a": 1, "a": 2}',
                                                   b"\xff", None)]
        for files in broken:
            with self.subTest(str(files)[:120]):
                path = self.broken_model(**files)
                self.fails("info", "-m", path, says="broken")
                shutil.rmtree(path)
        for content in ("{", '{"task": "sing"}', '{"task": "translate"}'):
            path = self.broken_model(refrain__json=content)
            self.fails("eval", "-m", path, "--data", self.put("a.txt", "the"), says="refrain.json")
            shutil.rmtree(path)
        path = self.broken_model(tokenizer__json=None)
        self.fails("generate", "-m", path, says="tokenizer.json")
        self.fails("info", "-m", "none", says="none")
        self.fails("info", "-m", self.model / "config.json")

    def test_verify(self):
        table = self.must("verify", "-m", self.model, "--tokens", 40, "--gradient-tokens", 12)
        self.assertIn("all agree", table)
        text = self.put("a.txt", "the cat and the dog, and then the end.\n" * 3)
        found = json.loads(self.must("verify", "-m", self.model, "--data", text, "--json",
                                     "--gradient-tokens", 8))
        self.assertTrue(found["passed"])
        compared = {(c["what"], c["between"]) for c in found["comparisons"]}
        self.assertIn(("logits", "stepped, float64"), compared)
        self.assertIn(("states", "chunked, stepped"), compared)
        self.assertIn(("gradient", "mixers, float64"), compared)
        self.assertTrue(any(c["difference"] > 0 for c in found["comparisons"]))
        done = self.call("verify", "-m", self.model, "--tolerance", "1e-12", "--tokens", 16)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"do not agree", done.stdout)
        self.fails("verify", "-m", self.model, "--tokens", 1, says="--tokens")
        self.fails("verify", "-m", self.model, "--data", self.put("e.txt", ""), says="e.txt")


if __name__ == "__main__":
    REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

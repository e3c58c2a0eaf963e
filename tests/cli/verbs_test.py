#!/usr/bin/env python3
"""Tests of verbs whose arguments do not fit each other: outputs that would replace what they are
made from, models of another kind than a verb's, text that a tokenizer does not have.

usage: verbs_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import cli_test
import reconstruct_test
import train_test
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

    def test_names_that_a_model_does_not_have_yet(self):
        state = ("generate", "-m", self.mine, "-p", "a", "-n", 1, "--state-out")
        for name in ("added_tokens.json", "embeddings.safetensors", "vocab.txt", "data.json",
                     "training_args.json", ".refrain.lock", "model-00001-of-00002.safetensors",
                     "checkpoint-7", "best"):
            self.assertFalse((self.mine / name).exists())
            self.refuses("--state-out", *state, self.mine / name, at=self.mine)
            self.assertFalse((self.mine / name).exists(), name)
        (self.mine / "refrain.json").unlink()
        self.refuses("--state-out", *state, self.mine / "refrain.json", at=self.mine)
        # The settings alone are a model that somebody is about to copy.
        alone = self.dir / "alone"
        alone.mkdir()
        shutil.copy(self.mine / "config.json", alone)
        self.refuses("--state-out", *state, alone / "model.safetensors", at=alone)

    def test_files_that_an_index_names(self):
        weights = (self.mine / "model.safetensors").read_bytes()
        size = int.from_bytes(weights[:8], "little")
        names = [n for n in json.loads(weights[8:8 + size]) if n != "__metadata__"]
        (self.mine / "model.safetensors").rename(self.mine / "part.safetensors")
        index = self.mine / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {n: "part.safetensors" for n in names}}))
        logits = ("logits", "-m", self.mine, "--ids", "1 2", "--out")
        self.must(*logits, self.mine / "logits.safetensors")  # it is read so
        for name in ("part.safetensors", "model.safetensors"):  # which would hide the index
            self.refuses("--out", *logits, self.mine / name, at=self.mine)
        self.refuses("--out", "logits", "-m", self.model, "--ids", "1 2", "--out",
                     self.mine / "part.safetensors", at=self.mine)
        index.write_text("{")
        self.refuses("--out", "logits", "-m", self.model, "--ids", "1 2", "--out",
                     self.mine / "other.safetensors", at=self.mine)

    def test_names_of_a_run(self):
        self.must("train", "--data", self.text, "--out", "run", "--layers", 1, "--d-model", 8,
                  "--heads", 1, "--context", 8, "--batch-size", 2, "--max-steps", 1)
        os.symlink("run/checkpoint-1", self.dir / "linked")
        for name in ("run/data.json", "run/.refrain.lock", "run/plan.json", "run/best",
                     "run/checkpoint-9", "run/data/valid.tokens", "run/checkpoint-1/new",
                     "linked/optimizer.safetensors", "linked/new"):
            self.refuses("--state-out", "generate", "-m", self.mine, "-p", "a", "-n", 1,
                         "--state-out", name)

    def test_outputs_that_cannot_be_written_are_refused_first(self):
        # Before anything is read: the models are none.
        self.put("file", "x")
        for flag, *verb in (("--state-out", "generate", "-p", "a"), ("--out", "logits", "--ids", 1),
                            ("--output", "translate"), ("--attention-map", "reconstruct")):
            for place in ("none/x", "file/x", ".", "x" * 300):
                self.fails(*verb, "-m", "no-model", flag, place, says=[flag + ":", place])
        self.fails("plan", "--vocab-size", 0, "--svg", "none/x", says=["--svg:", "none/x"])
        for verb in (("prepare", "--tokenizer", "char", "--data", "no-text"),):
            self.fails(*verb, "--out", "none/x.tokens", says=["--out:", "none/x.tokens"])
        for verb in (("tokenizer", "train", "--kind", "char", "--data", "no-text"),
                     ("sample", "copy")):
            self.fails(*verb, "--out", "file/x", says=["--out:", "file"])
        self.assertEqual([f for f in self.dir.iterdir() if ".tmp-" in f.name], [])

    def test_text_and_status_on_one_terminal(self):
        ours, theirs = os.openpty()
        done = subprocess.run([cli_test.REFRAIN, "generate", "-m", str(self.mine), "-p", "the",
                               "-n", "1", "--temp", "0"], stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):  # a terminal gives what it has, which may be less
                shown += part
        except OSError:  # and an error at the end
            pass
        os.close(ours)
        shown = shown.decode()
        self.assertEqual(done.returncode, 0, shown)
        self.assertRegex(shown, r"(?s)^the.*\r\nprompt: \d+ tokens")

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


class Kinds(reconstruct_test.ReconstructCase):
    """A verb that is given a model of another kind says what it is and which verb reads it."""

    def setUp(self):
        super().setUp()
        self.must(*self.lm("autoencoder", "--max-steps", 1))
        self.text = self.put("t.txt", "the cat sat on the mat\n" * 30)
        self.must("train", "--data", self.text, "--out", "lm", "--layers", 1, "--d-model", 8,
                  "--heads", 1, "--context", 8, "--batch-size", 2, "--max-steps", 1)

    def test_an_autoencoder(self):
        self.assertRegex(self.must("info", "-m", "autoencoder"), r"(?m)^task +reconstruct$")
        for verb in (["generate", "-p", "a"], ["verify"], ["translate"],
                     ["logits", "--ids", "1", "--out", "o"]):
            self.fails(*verb, "-m", "autoencoder", says=["autoencoder:", "sequence autoencoder",
                                                         "refrain reconstruct"])
        self.fails("convert", "--from", "hf", "autoencoder", "--out", "c",
                   says=["sequence autoencoder", "refrain reconstruct"])
        self.fails("tokenizer", "encode", "-m", "autoencoder", input="a",
                   says=["expected a tokenizer", "sequence autoencoder"])

    def test_a_language_model(self):
        self.fails("reconstruct", "-m", "lm", input="a",
                   says=["expected a sequence autoencoder", "refrain generate"])
        for verb in (["translate"], ["eval", "--task", "translate", "--data", self.text, self.text]):
            self.fails(*verb, "-m", "lm", says=["trained on pairs", "the task lm",
                                                "refrain generate", "--source-tag"])

    def test_one_document_trains_an_autoencoder(self):
        text = self.put("one.txt", "the quick brown fox jumps over the lazy dog\n" * 20)
        done = self.call("train", "--task", "reconstruct", "--data", text, "--out", "one",
                         *self.SMALL, "--max-steps", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"1 documents to learn from, 1 held out", done.stderr)
        self.assertIn(b"validation loss", done.stderr)
        few = self.put("few.txt", "one two three four five\n")
        self.refuses(["train", "--task", "reconstruct", "--data", few, "--out", "few", *self.SMALL],
                     says=["--data: expected documents to learn from", "--valid-split 0"])


class Unknown(train_test.TrainCase):
    """Characters that a tokenizer does not have are told, once."""

    SMALL = ["--layers", 1, "--d-model", 8, "--heads", 1, "--context", 8, "--batch-size", 2,
             "--max-steps", 1]

    def told(self, *arguments, **options):
        done = self.call(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [line for line in done.stderr.decode().splitlines() if "does not have" in line]

    def test_prompts_and_texts(self):
        text = self.put("t.txt", "the cat sat on the mat\n" * 30)
        odd = self.put("odd.txt", "the Ω cat é Ω\n" * 5)
        for kind, reads in (("char", "left out|read as"), ("bpe:40", "read as <unk>")):
            self.must("train", "--data", text, "--tokenizer", kind, "--out", kind, *self.SMALL)
            for verb in (["generate", "-p", "the Ω cat é Ω", "-n", 1], ["eval", "--data", odd],
                         ["verify", "--data", odd, "--tokens", 8]):
                line, = self.told(*verb, "-m", kind)
                self.assertRegex(line, f'2 characters that the tokenizer does not have .({reads})')
                self.assertIn('"é", "Ω"', line)
            self.assertEqual(self.told("generate", "-m", kind, "-p", "the cat", "-n", 1), [])
            self.assertEqual(self.told("eval", "-m", kind, "--data", text), [])
        line, = self.told("prepare", "--data", odd, "--tokenizer", "./char", "--out", "x.tokens")
        self.assertIn("odd.txt", line)

    def test_words_end_in_other_tokens(self):
        # "w" is known inside words only.
        text = self.put("t.txt", "two two\n" * 30)
        self.must("train", "--data", text, "--tokenizer", "bpe:40", "--out", "m", *self.SMALL)
        self.assertEqual(self.told("generate", "-m", "m", "-p", "two", "-n", 1), [])
        tokens = json.loads((self.dir / "m" / "tokenizer.json").read_text())["model"]["vocab"]
        line = self.told("generate", "-m", "m", "-p", "w", "-n", 1)
        self.assertEqual(len(line), 0 if "w</w>" in tokens else 1)

    def test_added_tokens_have_their_own_characters(self):
        self.must("sample", "recall", "--train", 20, "--test", 5, "--pairs", 1, "--out",
                  "copy")
        self.must("train", "--task", "probe", "--data", "copy/train.jsonl", "--tokenizer", "copy",
                  "--out", "probe", *self.SMALL)
        self.assertEqual(self.told("generate", "-m", "probe", "-p", "<3><1>", "-n", 1), [])
        text = self.put("t.txt", "the cat sat on the mat\n" * 30)
        for kind in ("char", "bpe:40"):
            self.must("tokenizer", "train", "--kind", kind, "--data", text, "--out", kind,
                      "--special", "[Q]")
            self.must("train", "--data", text, "--tokenizer", f"./{kind}", "--out", "run-" + kind,
                      *self.SMALL)
            generate = ("generate", "-m", "run-" + kind, "-n", 1, "-p")
            self.assertEqual(self.told(*generate, "the cat[Q]"), [])
            line, = self.told(*generate, "the[Q] Ω")
            self.assertIn("1 character that", line)
        odd = self.put("odd.txt", "[Q]\n" * 5)  # text, which stays text
        self.assertIn('"["', self.told("eval", "-m", "run-char", "--data", odd)[0])

    def test_bytes_are_never_unknown(self):
        text = self.put("t.txt", "the cat sat on the mat\n" * 30)
        self.must("train", "--data", text, "--tokenizer", "byte-bpe:260", "--out", "m", *self.SMALL)
        self.assertEqual(self.told("generate", "-m", "m", "-p", "Ω", "-n", 1), [])


class Plans(train_test.TrainCase):
    """`plan` takes what `train` takes, and tells what `train --memory` will do."""

    MODEL = ["--layers", 2, "--d-model", 32, "--heads", 2, "--context", 32, "--batch-size", 4]

    def setUp(self):
        super().setUp()
        os.environ["XDG_CACHE_HOME"] = str(self.dir / "cache")
        self.addCleanup(os.environ.pop, "XDG_CACHE_HOME")
        self.text = self.put("t.txt", "the cat sat on the mat\n" * 200)

    def plans(self, *arguments):
        return json.loads(self.must("plan", "--json", *arguments))["plans"]

    def test_a_train_command(self):
        train = ["--data", self.text, "--out", "run", "--tokenizer", "bpe:60", *self.MODEL]
        plans = self.plans(*train)
        self.assertFalse((self.dir / "run").exists())
        config = self.put("c.json", self.must("train", *train, "--dump-config"))
        same = lambda all: [(p["micro_batch_sequences"], p["gradient_checkpointing"],
                             p["bytes"]["saved"]) for p in all]
        self.assertEqual(same(self.plans("--config", config)), same(plans))
        budget = plans[-1]["bytes"]["total"] + (1 << 20)
        self.must("train", *train, "--memory", budget, "--max-steps", 1)
        made = json.loads((self.dir / "run" / "plan.json").read_text())
        self.assertEqual(same([made]), same(plans[-1:]))
        self.assertEqual(same(self.plans("--config", self.dir / "run" / "training_args.json",
                                         "--budgets", budget))[:1], same([made]))
        self.fails("plan", *self.MODEL, "--data", self.text, "--resume", "run", says="--resume")
        self.fails("plan", *self.MODEL, says=["--vocab-size", "--data"])
        self.fails("plan", "--task", "reconstruct", says="--data")

    def test_budgets(self):
        self.measures_memory()
        model = ["--vocab-size", 60, *self.MODEL]
        listed = self.plans(*model)
        for plan in listed:
            self.assertGreater(plan["logits_rows"], 0)
        # Each plan that a budget finds is listed.
        key = lambda p: (p["micro_batch_sequences"], p["gradient_checkpointing"], p["logits_rows"])
        least, most = (listed[i]["bytes"]["total"] for i in (0, -1))
        for i in range(9):
            budget = least + (most - least) * i // 8 + (64 << 10)
            self.assertIn(key(self.plans(*model, "--budgets", budget)[0]), map(key, listed))
        # Those that fit are told, and the one that does not.
        done = self.call("plan", *model, "--json", "--budgets", "200M", "1M", "100M")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(json.loads(done.stdout)["plans"]), 2)
        self.assertRegex(done.stderr.decode(), r"^--budgets: 1 MiB is too little: .*at least \d+ MiB")
        self.fails("plan", *model, "--budgets", "1M", "2M", says="--budgets: 1 MiB is too little")
        self.fails("plan", *model, "--memory", "1M", says="--memory: 1 MiB is too little")

    def test_the_least_budget_is_enough(self):
        self.measures_memory()
        big = self.put("big.txt", "".join(f"word{i} the cat {i * 7919 % 9973} sat\n"
                                          for i in range(60_000)))
        poems = self.put("poems.txt", reconstruct_test.poems(30))
        lm = lambda text, *flags: ["--data", text, *self.MODEL, *flags]
        commands = {
            "char": lm(self.text), "bpe": lm(self.text, "--tokenizer", "bpe:60", "--mixer", "gla"),
            "lstm": lm(self.text, "--mixer", "lstm", "--block", "bare"),
            # Reading takes more than training.
            "reading": lm(big, "--tokenizer", "byte-bpe:600"),
            "autoencoder": ["--task", "reconstruct", "--data", poems,
                            *reconstruct_test.ReconstructCase.SMALL]}
        for name, flags in commands.items():
            with self.subTest(name):
                command = lambda out, memory: ["train", *flags, "--max-steps", 2, "--out", out,
                                               "--memory", memory]
                line = self.refuses(command("no", "1M"), says="needs at least")
                least = int(re.search(r"at least (\d+) MiB", line).group(1))
                self.assertEqual("reading the data has taken" in line, name == "reading", line)
                for again in range(3):
                    self.must(*command(f"{name}{again}", f"{least}MiB"))
                # What is resident varies by pages: a little less than a MiB less may do.
                self.refuses(command("no", f"{least - 2}MiB"), says="needs at least")


class Endless(Case):
    """A stream without an end does not fill the disk."""

    def test_streams(self):
        inside = """set -e
            mkdir small; mount -t tmpfs -o size=96m none small; mkdir small/tmp
            export TMPDIR=$PWD/small/tmp
            set +e
            "$@" train --data /dev/zero --out small/run --tokenizer bpe:300
            echo $?; ls -A small small/tmp
            yes | "$@" train --data - --out small/run --tokenizer tokenizer
            echo $?; ls -A small small/tmp
            yes | "$@" prepare --data - --out small/x.tokens --tokenizer tokenizer
            echo $?; ls -A small small/tmp; df --output=pcent small | tail -1"""
        if self.unshared("mkdir m; mount -t tmpfs -o size=1m none m").returncode != 0:
            self.skipTest("no file system can be mounted here")
        self.must("tokenizer", "train", "--kind", "char", "--data", self.put("t", "y\n" * 9), "--out",
                  "tokenizer")
        done = self.unshared(inside)
        errors = done.stderr.splitlines()
        self.assertEqual(len(errors), 3, done.stderr)
        for line, what in zip(errors, ("/dev/zero", "the ids of the text", "the ids of the text")):
            self.assertRegex(line, f"^refrain .*: {what}: fills the disk: .* expected .* or more$")
        self.assertEqual(done.stdout.split(), 3 * ["2", "small:", "tmp", "small/tmp:"] + ["0%"])

    def unshared(self, script):
        return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script,
                               "sh", cli_test.REFRAIN], cwd=self.dir, text=True, timeout=120,
                              capture_output=True)

    def test_lost_and_found_is_nothing(self):
        for out in ("run", "converted"):
            (self.dir / out / "lost+found").mkdir(parents=True)
        text = self.put("t.txt", "the cat sat on the mat\n" * 30)
        self.must("train", "--data", text, "--out", "run", "--layers", 1, "--d-model", 8, "--heads",
                  1, "--context", 8, "--batch-size", 2, "--max-steps", 1)
        self.assertTrue((self.dir / "run" / "lost+found").is_dir())
        (self.dir / "converted" / "mine").touch()
        self.fails("convert", "--from", "hf", self.model, "--out", "converted", says="empty")


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

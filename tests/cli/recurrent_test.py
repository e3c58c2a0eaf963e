#!/usr/bin/env python3
"""Tests of the settings by which recurrent models are trained: descent, streams, minutes.

usage: recurrent_test.py REFRAIN [unittest's arguments]
"""
import json
import os
import re
import subprocess
import sys
import unittest

import cli_test
import train_test


class Descent(train_test.TrainCase):
    def records(self, out, key):
        lines = (self.dir / out / "metrics.jsonl").read_text().splitlines()
        return [r[key] for r in map(json.loads, lines) if key in r]

    def command(self, out, *more):
        return self.lm(out, "--pattern", "lstm", "--block", "bare", "--optimizer", "sgd",
                       "--learning-rate", 2, "--warmup-steps", 0, *more)

    def test_is_exact(self):
        """Threads, micro-batches and stops change no bit; moments are kept when there are any."""
        for momentum in (0, 0.9):
            with self.subTest(momentum):
                command = lambda out, *flags: self.command(
                    f"{out}-{momentum}", "--momentum", momentum, "--max-steps", 12, *flags)
                want = None
                for out, flags in {"one": ["--threads", 1, "--batch-size", 4],
                                   "two": ["--threads", 2, "--batch-size", 2,
                                           "--gradient-accumulation-steps", 2]}.items():
                    self.must(*command(out, *flags))
                    want = want or self.weights(f"{out}-{momentum}")
                    self.assertEqual(self.weights(f"{out}-{momentum}"), want)
                stopped = self.dir / f"stopped-{momentum}"
                self.must(*command("stopped", "--batch-size", 4, "--stop-after", 5))
                moments = next(stopped.glob("checkpoint-*")) / "optimizer.safetensors"
                self.assertEqual(moments.stat().st_size > 1000, momentum > 0)
                self.must("train", "--resume", stopped)
                self.assertEqual(self.weights(stopped.name), want)

    def test_moments_take_no_memory(self):
        model = lambda *flags: json.loads(self.must(
            "plan", "--vocab-size", 1000, "--pattern", "lstm", *flags, "--json",
            env={"XDG_CACHE_HOME": str(self.dir / "cache")}))["plans"][-1]["bytes"]["model"]
        adam, momentum, plain = (model(), model("--optimizer", "sgd", "--momentum", 0.5),
                                 model("--optimizer", "sgd"))
        self.assertEqual(adam - momentum, momentum - plain)
        self.assertEqual(adam, 2 * plain)

    def test_rate_falls_on_a_plateau(self):
        """An evaluation without a better loss divides the rate, in a run that goes on too."""
        command = lambda out, *flags: self.command(
            out, "--learning-rate", 100, "--max-grad-norm", 2, "--lr-scheduler-type",
            "reduce_lr_on_plateau", "--lr-decay", 2, "--eval-steps", 3, "--logging-steps", 1,
            "--max-steps", 18, *flags)
        self.must(*command("whole"))
        rates, losses = self.records("whole", "learning_rate"), self.records("whole", "eval_loss")
        rate, best = 100, float("inf")
        for i, loss in enumerate(losses):
            self.assertEqual(rates[3 * i:3 * i + 3], 3 * [rate])
            rate = rate if loss < best else rate / 2
            best = min(best, loss)
        self.assertLess(rate, 100)
        self.must(*command("stopped", "--stop-after", 11))
        self.must("train", "--resume", self.dir / "stopped")
        self.assertEqual(self.records("stopped", "learning_rate"), rates)
        self.assertEqual(self.weights("stopped"), self.weights("whole"))
        self.refuses(self.lm("run", "--lr-scheduler-type", "reduce_lr_on_plateau"), "eval_steps")


class Minutes(train_test.TrainCase):
    def test_time_limits_the_run_and_its_schedule(self):
        self.must(*self.lm("run", "--max-steps", "0.03m", "--logging-steps", 1))
        records = [json.loads(l) for l in
                   (self.dir / "run" / "metrics.jsonl").read_text().splitlines()]
        rates = [r["learning_rate"] for r in records if "learning_rate" in r]
        self.assertGreater(len(rates), 10)
        # Cosine: down to nearly nothing, each rate below the one before.
        self.assertEqual(sorted(rates[2:], reverse=True), rates[2:])
        self.assertLess(rates[-1], 0.05 * max(rates))
        self.assertIn("eval_loss", records[-1])
        state = json.loads((self.dir / "run" / "trainer_state.json").read_text())
        self.assertGreaterEqual(state["seconds"], 1.8)
        # The time is used up; with more of it the run goes on.
        self.must("train", "--resume", self.dir / "run")
        again = json.loads((self.dir / "run" / "trainer_state.json").read_text())
        self.assertEqual(again, state)
        self.must("train", "--resume", self.dir / "run", "--max-steps", "0.04m")
        more = json.loads((self.dir / "run" / "trainer_state.json").read_text())
        self.assertGreater(more["global_step"], state["global_step"])
        self.assertGreaterEqual(more["seconds"], 2.4)
        self.assertLess(more["seconds"] - state["seconds"], 1.6)

    def test_stopped_runs_count_what_they_used(self):
        done = self.call(*self.lm("run", "--max-steps", "30m", "--stop-after", 5))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr.decode(), r"parameters, 30m\n")
        state = json.loads((self.dir / "run" / "trainer_state.json").read_text())
        self.assertGreater(state["seconds"], 0)
        done = self.call("train", "--resume", self.dir / "run", "--stop-after", 6)
        self.assertRegex(done.stderr.decode(), r"going on after step 5 of 30m")
        more = json.loads((self.dir / "run" / "trainer_state.json").read_text())
        self.assertGreater(more["seconds"], state["seconds"])


class Streams(train_test.TrainCase):
    def command(self, out, *more):
        return self.lm(out, "--pattern", "lstm gla", "--carry-state", "--tbptt", 9, *more)

    def last(self, out, key):
        lines = (self.dir / out / "metrics.jsonl").read_text().splitlines()
        return [r[key] for r in map(json.loads, lines) if key in r][-1]

    def test_are_exact(self):
        """Threads, micro-batches, recomputation, budgets and stops change no bit."""
        self.data = self.put("short.txt", train_test.text(40))  # so that a run has several epochs
        command = lambda out, *flags: self.command(out, "--max-steps", 60, "--dropout", 0.1, *flags)
        line = self.refuses(command("no", "--batch-size", 6, "--memory", "1K"), "needs at least")
        least = re.search(r"at least (\d+) MiB", line)[1]
        want = None
        for out, flags in {
                "one": ["--batch-size", 6, "--threads", 1],
                "parts": ["--batch-size", 2, "--gradient-accumulation-steps", 3, "--threads", 2],
                "blocks": ["--batch-size", 6, "--gradient-checkpointing", "blocks"],
                "least": ["--batch-size", 6, "--memory", f"{least}M"]}.items():
            self.must(*command(out, *flags))
            want = want or self.weights(out)
            self.assertEqual(self.weights(out), want, out)
        epochs = json.loads((self.dir / "one" / "trainer_state.json").read_text())["epoch"]
        self.assertGreater(epochs, 1)
        # In the middle of an epoch, and several times.
        self.must(*command("stopped", "--batch-size", 6, "--stop-after", 5))
        for after in (6, 31, 0):
            self.must("train", "--resume", self.dir / "stopped", "--stop-after", after,
                      "--batch-size", 3, "--gradient-accumulation-steps", 2)
        self.assertEqual(self.weights("stopped"), want)
        self.assertEqual(self.last("stopped", "eval_loss"), self.last("one", "eval_loss"))
        # The state is what makes the difference.
        self.must(*self.lm("windows", "--pattern", "lstm gla", "--context", 9,
                           "--max-steps", 60, "--dropout", 0.1, "--batch-size", 6))
        self.assertNotEqual(self.weights("windows"), want)

    def test_a_run_goes_on_with_the_states_it_had(self):
        self.must(*self.command("run", "--max-steps", 20, "--stop-after", 5))
        streams = self.dir / "run" / "checkpoint-5" / "streams.safetensors"
        kept = streams.read_bytes()
        changed = bytearray(kept)
        changed[-40] ^= 1
        streams.write_bytes(changed)
        self.refuses(["train", "--resume", self.dir / "run"], ["streams.safetensors", "damaged"])
        streams.write_bytes(kept)
        self.must("train", "--resume", self.dir / "run")

    def test_refusals(self):
        self.refuses(self.lm("run", "--carry-state"), ["--carry-state", "attention"])
        self.refuses(self.command("run", "--max-tokens", 64), "carry_state")
        self.data = self.put("short.txt", "a b c")
        self.refuses(self.command("run", "--valid-split", 0), "streams")

    def test_evaluation(self):
        """The run's evaluation is `eval` with as many streams, the text's end being its data."""
        train = self.put("train.txt", train_test.text(200))
        valid = self.put("valid.txt", train_test.text(40, seed=9))
        self.must("train", "--data", train, "--valid", valid, "--out", self.dir / "run",
                  *self.SMALL, "--pattern", "lstm", "--carry-state", "--tbptt", 9, "--batch-size",
                  3, "--max-steps", 30)
        score = lambda *flags: json.loads(self.must(
            "eval", "-m", self.dir / "run", "--data", valid, "--json", *flags))
        whole, streams, windows = score(), score("--streams", 3), score("--context", 24)
        self.assertAlmostEqual(streams["loss"], self.last("run", "eval_loss"), places=6)
        self.assertAlmostEqual(whole["loss"], score("--context", 100000)["loss"], places=6)
        self.assertLess(whole["loss"], windows["loss"])
        self.assertEqual(whole["tokens"], windows["tokens"])
        self.fails("eval", "-m", self.dir / "run", "--data", valid, "--context", 24, "--streams", 2,
                   says="--streams")
        self.fails("eval", "-m", self.dir / "run", "--data", valid, "--streams", 0,
                   says="--streams")
        self.must(*self.lm("attention", "--max-steps", 1))
        self.fails("eval", "-m", self.dir / "attention", "--data", valid, "--streams", 2,
                   says="--streams")

    def test_memory_does_not_grow_with_the_text(self):
        self.measures_memory()
        self.must(*self.lm("run", "--pattern", "lstm", "--max-steps", 2))
        peaks = []
        for lines in (3000, 30000):
            text = self.put("text", train_test.text(lines))
            self.must("prepare", "--tokenizer", "run", "--data", text, "--out", "tokens")
            process = subprocess.Popen([cli_test.REFRAIN, "eval", "-m", "run", "--data", "tokens",
                                        "--streams", "64"], cwd=self.dir,
                                       stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 0)
            peaks.append(usage.ru_maxrss)
        self.assertLess(peaks[1] - peaks[0], 2048)


class Words(train_test.TrainCase):
    def test_a_vocabulary_of_words(self):
        self.must(*self.lm("run", "--pattern", "gru", "--tokenizer", "word:100", "--max-steps", 3))
        info = self.load("run")
        self.assertEqual(info["config"]["vocab_size"], 1 + len(set(train_test.WORDS)))
        words = json.loads((self.dir / "run" / "tokenizer.json").read_text())
        self.assertEqual(words["model"]["type"], "WordLevel")
        self.assertEqual(words["pre_tokenizer"], {"type": "WhitespaceSplit"})
        text = self.must("generate", "-m", self.dir / "run", "-p", "the fox", "-n", 5)
        self.assertTrue(set(text.split()) <= set(words["model"]["vocab"]), text)
        done = self.call("generate", "-m", self.dir / "run", "-p", "the zebra", "-n", 2)
        self.assertIn('1 word that the tokenizer does not have (read as <unk>): "zebra"',
                      done.stderr.decode())
        self.must("eval", "-m", self.dir / "run", "--data", self.data)
        # Two documents have an end token between them.
        other = self.put("other.txt", train_test.text(5))
        self.must("tokenizer", "train", "--kind", "word:12", "--data", self.data, other, "--out",
                  "words")
        words = json.loads((self.dir / "words" / "tokenizer.json").read_text())["model"]["vocab"]
        self.assertEqual(len(words), 12)
        self.assertIn("</s>", words)
        self.refuses(self.lm("run2", "--tokenizer", "word:0"), "word:N")

    def test_rare_characters_are_unknown(self):
        self.data = self.put("text.txt", train_test.text(100) + "".join(map(chr, range(0x4e00,
                                                                                       0x4e80))))
        done = self.call(*self.lm("run", "--tokenizer", "bpe:90", "--max-steps", 1))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr.decode(), r"bpe:90: \d+ of the text's \d+ characters, "
                                               r"[\d.]+ % of it, are <unk>")
        self.assertEqual(self.load("run")["config"]["vocab_size"], 90)
        self.must("tokenizer", "train", "--kind", "bpe:400", "--character-coverage", 0.9, "--data",
                  self.data, "--out", "some")
        vocabulary = json.loads((self.dir / "some" / "tokenizer.json").read_text())["model"]["vocab"]
        self.assertNotIn("一", vocabulary)
        for flags, says in ((["--tokenizer", "bpe:90", "--character-coverage", 2], "0 to 1"),
                            (["--character-coverage", 0.5], "expected a tokenizer bpe:N")):
            self.refuses(self.lm("none", *flags), ["--character-coverage", says])


class Bare(train_test.TrainCase):
    def command(self, out, *more):
        return self.lm(out, "--pattern", "lstm gru", "--block", "bare", "--tie-embeddings",
                       "--dropout", 0.2, *more)

    def test_dropout_and_tied_weights(self):
        """On the input, between layers and on the output; and every promise holds."""
        want = None
        for out, flags in {"one": ["--batch-size", 4, "--threads", 1],
                           "parts": ["--batch-size", 2, "--gradient-accumulation-steps", 2],
                           "blocks": ["--batch-size", 4, "--gradient-checkpointing", "blocks"]
                           }.items():
            self.must(*self.command(out, "--max-steps", 12, *flags))
            want = want or self.weights(out)
            self.assertEqual(self.weights(out), want, out)
        self.must(*self.command("stopped", "--max-steps", 12, "--batch-size", 4, "--stop-after", 5))
        self.must("train", "--resume", self.dir / "stopped")
        self.assertEqual(self.weights("stopped"), want)
        info = self.load("one")
        plain = self.lm("plain", "--pattern", "lstm gru", "--block", "bare", "--max-steps", 1)
        self.must(*plain)
        tied, free = (info["parameters"], self.load("plain")["parameters"])
        vocab, width = info["config"]["vocab_size"], info["config"]["d_model"]
        self.assertEqual(free["all"] - tied["all"], vocab * width)
        self.assertEqual(tied["head"], vocab)  # its bias

    def test_only_what_a_stack_has_is_listed(self):
        self.must(*self.command("run", "--max-steps", 1))
        config = json.loads((self.dir / "run" / "config.json").read_text())
        for listed in (config, self.load("run")["config"]):
            for absent in ("d_ff", "feed_forward", "rms_norm_eps", "kv_heads"):
                self.assertNotIn(absent, listed)
            self.assertIn("d_model", listed)
        # Files that have them are read as before.
        self.must("eval", "-m", self.dir / "run", "--data", self.data)
        before = self.must("eval", "-m", self.dir / "run", "--data", self.data, "--json")
        config.update(d_ff=64, feed_forward="swiglu", rms_norm_eps=1e-5, kv_heads=2)
        (self.dir / "run" / "config.json").write_text(json.dumps(config))
        after = self.must("eval", "-m", self.dir / "run", "--data", self.data, "--json")
        self.assertEqual(json.loads(before)["loss"], json.loads(after)["loss"])
        # A block with heads that share keys, or with norms, has those settings.
        self.must(*self.lm("normed", "--pattern", "lstm attention", "--max-steps", 1))
        self.assertTrue({"d_ff", "kv_heads", "rms_norm_eps"} <= set(self.load("normed")["config"]))


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

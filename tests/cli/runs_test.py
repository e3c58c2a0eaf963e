#!/usr/bin/env python3
"""Tests of what happens to a run: nothing that was trained is lost, whoever and whatever comes.

usage: runs_test.py REFRAIN [unittest's arguments]

Classes with a task of their own run all of it for the language model and for the autoencoder.
"""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import unittest

import cli_test
import reconstruct_test
import train_test


class Both:
    """Of each task: a run, and what it leaves."""

    def start(self, *arguments, **options):
        return subprocess.Popen([cli_test.REFRAIN, *cli_test.override(arguments)], cwd=self.dir,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                env={**os.environ, "TMPDIR": str(self.tmp),
                                     "OMP_WAIT_POLICY": "passive"}, **options)

    def state(self, out="run"):
        return json.loads((self.dir / out / "trainer_state.json").read_text())

    def records(self, out="run"):
        return [json.loads(l) for l in (self.dir / out / "metrics.jsonl").read_text().splitlines()]

    def wait_for(self, path, process):
        deadline = time.time() + 60
        while not path.exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.005)

    def endless(self, out="run", *flags, **options):
        process = self.start(*self.lm(out, "--max-steps", 10000000, "--logging-steps", 1, *flags),
                             **options)
        self.wait_for(self.dir / out / "metrics.jsonl", process)
        return process

    def write_state(self, out, change):
        """Changes the newest checkpoint's state, as another time or version would have left it."""
        step = self.state(out)["global_step"]
        path = self.dir / out / f"checkpoint-{step}" / "trainer_state.json"
        state = json.loads(path.read_text())
        change(state)
        path.write_text(json.dumps(state))

    def test_held_out_data_is_tried_first(self):
        short = self.put("short.txt", "a")
        self.refuses(self.lm("run", "--valid", short, "--max-steps", 2), "expected")
        self.assertFalse((self.dir / "run").exists())

    def test_evaluations_need_held_out_data(self):
        for flags in (["--patience", 2, "--eval-steps", 2], ["--eval-steps", 2]):
            self.refuses(self.lm("run", "--valid-split", 0, *flags),
                         [flags[0], "--valid-split"])
            self.assertFalse((self.dir / "run").exists())

    def test_no_record_costs_a_step(self):
        """metrics.jsonl takes nothing more: the steps are there all the same."""
        self.must(*self.lm("free", "--max-steps", 4))
        want = self.weights("free")
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 1, "--logging-steps", 100))
        metrics = self.dir / "run" / "metrics.jsonl"
        metrics.write_text(json.dumps({"step": 1, "padding": 300000 * "x"}) + "\n")
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (250000, 250000))
        # The record of a step, then that of an evaluation.
        for flags, step in ((["--logging-steps", 2], 2),
                            (["--logging-steps", 100, "--eval-steps", 3], 3)):
            done = self.call("train", "--resume", self.dir / "run", *flags, preexec_fn=limit)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(b"File too large", done.stderr)
            self.assertIn(f"saved after step {step}".encode(), done.stderr)
            self.assertEqual(self.state()["global_step"], step)
            self.assertEqual([r["step"] for r in self.records()], [1])
        self.must("train", "--resume", self.dir / "run")
        self.assertEqual(self.weights("run"), want)
        self.assertEqual([r["step"] for r in self.records() if "eval_loss" in r], [3, 4])

    def test_an_evaluation_that_is_due_is_made_up_for(self):
        """Killed between a checkpoint and its evaluation."""
        self.must(*self.lm("run", "--max-steps", 6, "--eval-steps", 3, "--save-steps", 3))
        want = [(r["step"], r["eval_loss"]) for r in self.records() if "eval_loss" in r]
        self.assertEqual([step for step, _ in want], [3, 6])
        before = self.state()
        self.assertEqual(before["evaluated_global_step"], 6)

        def not_yet(state):
            state.update(evaluated_global_step=3, best_global_step=3, best_metric=want[0][1])

        self.write_state("run", not_yet)
        self.must("train", "--resume", self.dir / "run")
        self.assertEqual(self.state(), before)
        self.assertEqual([(r["step"], r["eval_loss"]) for r in self.records() if "eval_loss" in r],
                         want)
        # Of an earlier version, which evaluated before it saved: nothing is left to do.
        self.write_state("run", lambda state: state.pop("evaluated_global_step"))
        self.must("train", "--resume", self.dir / "run")
        self.assertEqual(len([r for r in self.records() if "eval_loss" in r]), 2)

    def test_states_without_a_best(self):
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2))
        self.assertIsNone(self.state()["best_metric"])
        self.write_state("run", lambda state: state.update(best_metric=None, best_global_step=2))
        self.must("train", "--resume", self.dir / "run", "--stop-after", 3)
        self.write_state("run", lambda state: state.pop("best_metric"))
        self.must("train", "--resume", self.dir / "run")
        self.assertEqual(self.state()["best_global_step"], 4)
        self.assertGreater(self.state()["best_metric"], 0)

    def test_states_that_no_run_comes_to(self):
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2))
        path = self.dir / "run" / "checkpoint-2" / "trainer_state.json"
        good = path.read_text()
        for key, value in (("epoch", 1), ("batches_of_epoch", 2 ** 20), ("global_step", -2),
                           ("num_input_tokens_seen", 10 ** 12), ("best_global_step", 3),
                           ("evaluations_without_gain", 9), ("evaluated_global_step", 3)):
            best = {"best_metric": 1.0} if key == "best_global_step" else {}
            self.write_state("run", lambda state: state.update({**best, key: value}))
            self.refuses(["train", "--resume", self.dir / "run"],
                         ["checkpoint-2/trainer_state.json", key])
            path.write_text(good)
        self.must("train", "--resume", self.dir / "run")

    def test_damage_and_copies(self):
        """A file of a run is no other file's, and one that was damaged is named."""
        self.must(*self.lm("run", "--max-steps", 6, "--stop-after", 2))
        run = self.dir / "run"
        blob = bytearray((run / "model.safetensors").read_bytes())
        blob[-3] ^= 1
        with open(run / "model.safetensors", "r+b") as file:  # as cp writes
            file.write(blob)
        self.must("train", "--resume", run, "--stop-after", 4)
        for path in (run / "checkpoint-4").glob("*.safetensors"):
            good = path.read_bytes()
            path.write_bytes(good[:-2] + bytes([good[-2] ^ 16]) + good[-1:])
            self.refuses(["train", "--resume", run],
                         [f"{path}: damaged", "goes on after step 2"])
            path.write_bytes(good)
        for path in run.glob("embeddings.safetensors"):  # read from the run itself
            good = path.read_bytes()
            path.write_bytes(good[:-2] + bytes([good[-2] ^ 16]) + good[-1:])
            self.refuses(["train", "--resume", run], f"{path}: damaged")
            path.write_bytes(good)
        self.must("train", "--resume", run)

    def test_weights_that_are_no_numbers_are_not_saved(self):
        """Decay without measure: every gradient is finite, and the weights are not."""
        run = self.lm("run", "--max-steps", 400, "--save-steps", 1, "--eval-steps", 1,
                      "--learning-rate", 1000, "--weight-decay", 1000, "--decay-all",
                      "--warmup-steps", 0, "--lr-scheduler-type", "constant")
        done = self.call(*run)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(b"not a finite number", done.stderr)
        for path in (self.dir / "run").rglob("model.safetensors"):
            blob = path.read_bytes()
            header = json.loads(blob[8:8 + int.from_bytes(blob[:8], "little")])
            data = memoryview(blob[8 + int.from_bytes(blob[:8], "little"):]).cast("f")
            self.assertGreater(len(header), 1)
            self.assertTrue(all(x - x == 0 for x in data), path)

    def test_patience_ends_a_run_for_good(self):
        self.must(*self.lm("run", "--max-steps", 60, "--learning-rate", 0, "--eval-steps", 2,
                           "--patience", 2))
        self.assertEqual(self.state()["global_step"], 6)
        records = self.records()
        for _ in range(2):
            self.must("train", "--resume", self.dir / "run")
            self.assertEqual((self.state()["global_step"], self.records()), (6, records))
        self.must("train", "--resume", self.dir / "run", "--patience", 3)
        self.assertEqual(self.state()["global_step"], 8)

    def test_records_of_a_run_without_a_checkpoint(self):
        process = self.endless()
        process.kill()
        process.communicate()
        self.assertEqual(list((self.dir / "run").glob("checkpoint-*")), [])
        self.must("train", "--resume", self.dir / "run", "--max-steps", 3)
        self.assertEqual([r["step"] for r in self.records() if "loss" in r], [1, 2, 3])

    def test_one_process_at_a_time(self):
        process = self.endless()
        holder = f"in use by process {process.pid} on {os.uname().nodename}"
        for command in (["train", "--resume", self.dir / "run"],
                        self.lm("run", "--resume", "auto")):
            done = self.call(*command)
            self.assertEqual(done.returncode, 2)
            self.assertIn(holder, done.stderr.decode())
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1].decode()
        self.assertEqual(process.returncode, 128 + signal.SIGTERM, error)
        self.assertFalse((self.dir / "run" / ".refrain.lock").exists())
        # The lock of one that was killed is free.
        (self.dir / "run" / ".refrain.lock").write_text(f"{process.pid} elsewhere\n")
        done = self.call("train", "--resume", self.dir / "run", "--max-steps",
                         self.state()["global_step"] + 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"on elsewhere did not let go", done.stderr)

    def test_signals(self):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                out = f"run {number}"
                process = self.endless(out)
                process.send_signal(number)
                error = process.communicate(timeout=60)[1].decode()
                self.assertEqual(process.returncode, 128 + number, error)
                self.assertIn(f"--resume '{self.dir / out}'", error)
                self.assertGreaterEqual(self.state(out)["global_step"], 1)
        self.must(*self.lm("stopped", "--max-steps", 4, "--stop-after", 2))

    def test_ignored_signals_stay_ignored(self):
        process = self.endless(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)

    def test_total_batch(self):
        self.must(*self.lm("run", "--max-steps", 4, "--batch-size", 4, "--stop-after", 2))
        resume = ["train", "--resume", self.dir / "run"]
        self.refuses([*resume, "--batch-size", 8], ["--batch-size", "4 x 1 = 4", "8 x 1 = 8"])
        self.refuses([*resume, "--gradient-accumulation-steps", 2], ["4 x 2 = 8"])
        self.must(*resume, "--batch-size", 2, "--gradient-accumulation-steps", 2)

    def test_file_size_limit(self):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        self.must(*self.lm("run", "--max-steps", 4, "--stop-after", 2))
        done = self.call("train", "--resume", self.dir / "run", preexec_fn=limit)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(b"File too large", done.stderr)


class LanguageModel(Both, train_test.TrainCase):
    SMALL = [*train_test.TrainCase.SMALL, "--d-model", 32]

    def test_damage_to_the_run_s_copy_of_the_text(self):
        self.must(*self.lm("run", "--max-steps", 6, "--stop-after", 2))
        tokens = self.dir / "run" / "data" / "train.tokens"
        good = tokens.read_bytes()
        self.must("prepare", "--data", self.put("other.txt", train_test.text(300, 4)),
                  "--tokenizer", self.dir / "run", "--out", self.dir / "other.tokens")
        for bad in (good[:-9], good[:70] + bytes([good[70] ^ 1]) + good[71:],
                    (self.dir / "other.tokens").read_bytes()):
            tokens.write_bytes(bad)
            self.refuses(["train", "--resume", self.dir / "run"], f"train: {tokens}: ")
        tokens.write_bytes(good)
        self.must("train", "--resume", self.dir / "run")

    def test_pairs_that_are_all_too_long(self):
        pairs = self.put("a.tsv", "one two\ttwo one\n" * 30)
        long = self.put("b.tsv", "one two three four five six seven\tone\n" * 3)
        self.refuses(["train", "--task", "translate", "--data", pairs, "--valid", long, "--out",
                      self.dir / "run", *self.SMALL, "--skip-long", "--max-steps", 2],
                     ["held-out data", "24 tokens"])

    def test_total_batch_of_tokens(self):
        pairs = self.put("a.tsv", "one two\ttwo one\n" * 30)
        self.must("train", "--task", "translate", "--data", pairs, "--out", self.dir / "run",
                  *self.SMALL, "--max-tokens", 64, "--max-steps", 4, "--stop-after", 2)
        resume = ["train", "--resume", self.dir / "run"]
        self.refuses([*resume, "--max-tokens", 128], ["--max-tokens", "64 x 1", "128 x 1"])
        self.refuses([*resume, "--max-tokens", 0], ["--max-tokens", "tokens", "sequences"])
        self.must(*resume, "--max-tokens", 32, "--gradient-accumulation-steps", 2)

    def test_a_loss_that_is_no_number_is_not_the_best(self):
        self.must(*self.lm("run", "--max-steps", 1, "--learning-rate", 1000, "--warmup-steps", 0,
                           "--lr-scheduler-type", "constant", "--clip-mode", "none",
                           "--pattern", "simple_rnn"))
        state = self.state()
        if state["best_metric"] is None:
            self.assertEqual(state["best_global_step"], 0)
            self.assertFalse((self.dir / "run" / "best").exists())
        self.must("train", "--resume", self.dir / "run")


    def test_a_signal_in_an_evaluation(self):
        """It does not wait for the rest: the steps are saved, and the run that goes on evaluates."""
        held_out = self.put("held-out.txt", train_test.text(300) * 150)
        process = self.start(*self.lm("run", "--valid", held_out, "--max-steps", 3,
                                      "--logging-steps", 1))
        self.wait_for(self.dir / "run" / "metrics.jsonl", process)
        while len(self.records()) < 3 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)  # some seconds of evaluation have begun
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1].decode()
        self.assertEqual(process.returncode, 128 + signal.SIGTERM, error)
        self.assertEqual(self.state()["global_step"], 3)
        self.assertFalse([r for r in self.records() if "eval_loss" in r])
        (self.dir / "held-out.txt").write_text("what is held out is in the run")
        self.must("train", "--resume", self.dir / "run")
        self.assertEqual([r["step"] for r in self.records() if "eval_loss" in r], [3])


class Autoencoder(Both, reconstruct_test.ReconstructCase):
    pass


class Places(Both, train_test.TrainCase):
    """Where a run may be made, and what is never touched."""
    # Each test of Both is run by the two tasks.
    for name in [n for n in vars(Both) if n.startswith("test_")]:
        locals()[name] = None
    del name

    def test_a_left_over_preparing_is_no_licence(self):
        for kind in ("file", "folder", "marked"):
            with self.subTest(kind):
                run = self.dir / kind
                run.mkdir()
                if kind == "file":
                    (run / ".preparing").touch()
                else:
                    (run / ".preparing").mkdir()
                    if kind == "marked":
                        (run / ".preparing" / ".refrain").touch()
                        (run / ".preparing" / "config.json").write_text("{}")
                (run / "tokenizer.json").write_text("mine")
                self.refuses(self.lm(kind, "--max-steps", 1), ["not empty", "tokenizer.json"])
                self.assertEqual((run / "tokenizer.json").read_text(), "mine")
                self.assertEqual(sorted(p.name for p in run.iterdir()),
                                 [".preparing", "tokenizer.json"])
                (run / "tokenizer.json").unlink()
                self.must(*self.lm(kind, "--max-steps", 1))
                self.assertFalse((run / ".preparing").exists())
                self.load(kind)
        other = self.dir / "other"
        (other / ".preparing").mkdir(parents=True)
        (other / ".preparing" / "thesis").write_text("mine")
        self.refuses(self.lm("other", "--max-steps", 1), [".preparing"])
        self.assertEqual((other / ".preparing" / "thesis").read_text(), "mine")

    def test_killed_while_it_moves_in(self):
        """Some of what was prepared is in its place: the next process brings the rest."""
        self.must(*self.lm("whole", "--max-steps", 2))
        self.must(*self.lm("run", "--max-steps", 2, "--stop-after", 1))
        run = self.dir / "run"
        for path in list(run.iterdir()):
            if path.name.startswith(("checkpoint", "model", "trainer", "metrics", "best")):
                subprocess.run(["rm", "-r", path], check=True)
        (run / ".preparing").mkdir()
        (run / ".preparing" / ".refrain").touch()
        for name in ("training_args.json", "tokenizer.json", "data"):
            (run / name).rename(run / ".preparing" / name)
        self.must(*self.lm("run", "--resume", "auto", "--max-steps", 2, "--stop-after", 0))
        self.assertFalse((run / ".preparing").exists())
        self.assertEqual(self.weights("run"), self.weights("whole"))

    def test_two_that_begin_at_once(self):
        big = self.put("more.txt", train_test.text(20000))
        command = self.lm("run", "--data", big, "--tokenizer", "bpe:200", "--max-steps", 2)
        first = self.start(*command)
        self.wait_for(self.dir / "run" / ".refrain.lock", first)
        second = self.start(*command)
        error = second.communicate(timeout=100)[1].decode()
        self.assertEqual(second.returncode, 2, error)
        first_error = first.communicate(timeout=100)[1].decode()
        self.assertEqual(first.returncode, 0, first_error + error)
        self.assertRegex(error, "in use by|holds a run already")
        self.load("run")

    def test_symbolic_links(self):
        (self.dir / "place").mkdir()
        for name, to in (("there", "place"), ("not-yet", "new")):
            (self.dir / name).symlink_to(to)
            self.refuses(self.lm(name, "--max-steps", 1, "--valid", self.put("e.txt", "")), "no text")
            self.assertTrue((self.dir / name).is_symlink())
            self.must(*self.lm(name, "--max-steps", 1))
            self.assertTrue((self.dir / name).is_symlink())
            self.assertTrue((self.dir / to / "model.safetensors").exists())
            self.must("train", "--resume", self.dir / name, "--max-steps", 2)
            self.load(name)

    def test_what_lies_in_best_stays(self):
        mine = self.dir / "mine"
        (mine / "folder").mkdir(parents=True)
        for name in ("note", "folder/deep"):
            (mine / name).write_text("mine")
        self.must(*self.lm("run", "--max-steps", 20, "--stop-after", 4, "--eval-steps", 1))
        (self.dir / "run" / "best" / "README.md").write_text("a card")
        self.must("train", "--resume", self.dir / "run", "--stop-after", 8)
        self.assertEqual((self.dir / "run" / "best" / "README.md").read_text(), "a card")
        shutil.rmtree(self.dir / "run" / "best")
        (self.dir / "run" / "best").symlink_to(mine)
        self.must("train", "--resume", self.dir / "run")
        self.assertTrue((mine / "model.safetensors").exists())
        for name in ("note", "folder/deep"):
            self.assertEqual((mine / name).read_text(), "mine")

    def test_names_that_lead_elsewhere(self):
        self.must(*self.lm("run", "--max-steps", 6, "--stop-after", 2, "--eval-steps", 1))
        run, disk = self.dir / "run", self.dir / "disk"
        disk.mkdir()
        for name in ("best", "trainer_state.json"):
            (run / name).rename(disk / name)
            (run / name).symlink_to(disk / name)
        # One that leads to a checkpoint must not lead what is written there.
        (run / "model.safetensors").unlink()
        (run / "model.safetensors").symlink_to("checkpoint-2/model.safetensors")
        before = self.weights("run/checkpoint-2")
        self.must("train", "--resume", run, "--stop-after", 4, "--save-total-limit", 3)
        self.assertEqual(self.weights("run/checkpoint-2"), before)
        self.assertEqual(self.weights("run"), self.weights("run/checkpoint-4"))
        self.assertEqual(json.loads((disk / "trainer_state.json").read_text())["global_step"], 4)
        self.assertTrue((run / "best").is_symlink())
        self.load("disk/best")

    def test_modes_stay(self):
        self.must(*self.lm("run", "--max-steps", 6, "--stop-after", 2, "--eval-steps", 1))
        run = self.dir / "run"
        for name in ("model.safetensors", "trainer_state.json", "metrics.jsonl", "best",
                     "best/model.safetensors"):
            (run / name).chmod(0o700 if name == "best" else 0o600)
        self.must("train", "--resume", run)
        for name in ("model.safetensors", "trainer_state.json", "metrics.jsonl",
                     "best/model.safetensors"):
            self.assertEqual((run / name).stat().st_mode & 0o777, 0o600, name)
        self.assertEqual((run / "best").stat().st_mode & 0o777, 0o700)

    def test_nothing_stays_of_a_copy_that_failed(self):
        process = self.endless()
        run = self.dir / "run"
        (run / "model.safetensors").mkdir()
        (run / "model.safetensors" / "x").touch()
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1].decode()
        self.assertEqual(process.returncode, 2, error)
        self.assertEqual([p.name for p in run.iterdir() if ".tmp-" in p.name], [])
        self.assertEqual(len(list(run.glob("checkpoint-*"))), 1)

    def test_what_is_in_the_way_is_found_first(self):
        self.must(*self.lm("run", "--max-steps", 6, "--stop-after", 2))
        run = self.dir / "run"
        (run / "metrics.jsonl").unlink(missing_ok=True)
        os.mkfifo(run / "metrics.jsonl")
        self.refuses(["train", "--resume", run], "run/metrics.jsonl: expected a file, or nothing")
        (run / "metrics.jsonl").unlink()
        (run / "checkpoint-5").mkdir()
        self.refuses(["train", "--resume", run], "checkpoint-5: is in the way")
        self.assertEqual(len(list(run.glob("checkpoint-*"))), 2)

    def test_a_run_that_is_removed_while_it_trains(self):
        process = self.endless("run", "--save-steps", 50)
        while (self.dir / "run").exists():
            subprocess.run(["rm", "-rf", self.dir / "run"], stderr=subprocess.DEVNULL)
        error = process.communicate(timeout=60)[1].decode().splitlines()
        self.assertEqual(process.returncode, 2, error)
        said = [line for line in error if line.startswith("refrain train:")]
        self.assertEqual(len(said), 1, error)
        self.assertIn("was removed", said[0])
        self.assertNotIn("go on with", "".join(error))
        self.assertFalse((self.dir / "run").exists())

    def test_no_checkpoint_yet(self):
        process = self.endless()
        process.kill()
        process.communicate()
        (self.dir / "run" / "checkpoint-999999999").mkdir()
        done = self.call("train", "--resume", self.dir / "run", "--max-steps", 3)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"run: no checkpoint yet: begins with step 1 of 3\n", done.stderr)
        self.assertIn(b"checkpoint-999999999: left aside: not a checkpoint (no model.safeten",
                      done.stderr)

    def test_checkpoints_by_the_clock(self):
        """What is killed has lost minutes: by default; here they are short."""
        process = self.endless("run", "--save-minutes", 0.001)
        self.wait_for(self.dir / "run" / "trainer_state.json", process)
        process.kill()
        process.communicate()
        self.must("train", "--resume", self.dir / "run", "--save-minutes", 0, "--max-steps",
                  self.state()["global_step"] + 1)
        self.refuses(self.lm("other", "--save-minutes", 1, "--save-steps", 5), "--save-minutes")

    def test_outputs_of_other_verbs(self):
        real = self.put("real.tokens", "old")
        real.chmod(0o600)
        (self.dir / "t.tokens").symlink_to("real.tokens")
        self.must("prepare", "--data", self.data, "--tokenizer", "char", "--out",
                  self.dir / "t.tokens")
        self.assertTrue((self.dir / "t.tokens").is_symlink())
        self.assertEqual(real.stat().st_mode & 0o777, 0o600)
        self.assertEqual(real.read_bytes()[:8], b"RFTOKENS")

    def test_temporary_folders_of_what_is_killed(self):
        self.must(*self.lm("run", "--max-steps", 1))
        big = self.put("big.txt", train_test.text(100000))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            process = self.start("eval", "-m", self.dir / "run", "--data", big)
            deadline = time.time() + 60
            while not self.temporaries() and process.poll() is None and \
                    time.time() < deadline:
                time.sleep(0.001)
            process.send_signal(number)
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, -number)
            self.assertEqual(self.temporaries(), [])


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

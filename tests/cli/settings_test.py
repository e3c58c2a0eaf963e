#!/usr/bin/env python3
"""Tests of settings as users give them: what --dump-config prints runs, settings without effect are
refused by name, files of settings, too few threads; and models that are no numbers.

usage: settings_test.py REFRAIN [unittest's arguments]
"""
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import unittest

import cli_test
import reconstruct_test


class SettingsCase(cli_test.Case):
    SMALL = ["--layers", 1, "--d-model", 16, "--heads", 2, "--context", 16, "--batch-size", 4,
             "--max-steps", 2]

    def setUp(self):
        super().setUp()
        self.put("t.txt", "".join(f"the cat sat on the mat {i}\n" for i in range(60)))
        self.put("a.en", "the cat\nthe dog\na tree\n" * 20)
        self.put("a.ja", "neko\ninu\nki\n" * 20)
        self.put("poems.txt", reconstruct_test.poems(8))

    def probes(self):
        if not (self.dir / "probe").exists():
            self.must("sample", "recall", "--out", "probe", "--train", 40, "--test", 10,
                      "--pairs", 3)

    def autoencoder(self):
        self.must("train", "--task", "reconstruct", "--data", "poems.txt", "--out", "auto",
                  *reconstruct_test.ReconstructCase.SMALL, "--max-steps", 2)
        return self.dir / "auto"


class Dumps(SettingsCase):
    """What a verb dumps, it runs: dump, run, dump is a fixed point."""

    def fixed(self, verb, arguments, runs=True):
        """With --config or on the command line: the same settings, and the same refusals."""
        dumped = self.must(*verb, *arguments, "--dump-config")
        file = self.put("dumped.json", dumped)
        self.assertEqual(self.must(*verb, "--config", file, "--dump-config"), dumped)
        if runs:
            self.must(*verb, "--config", file)
        self.assertEqual(self.must(*verb, "--config", file, "--dump-config"), dumped)
        return json.loads(dumped)

    def verbs(self):
        words = [line.split() for line in self.must("--help").splitlines() if line[:2] == "  "]
        return [line[:2] if line[0] in ("sample", "tokenizer") else line[:1] for line in words]

    def test_every_verb(self):
        verbs = self.verbs()
        self.assertGreater(len(verbs), 20)
        for verb in verbs:
            with self.subTest(verb):
                settings = self.fixed(verb, [], runs=False)
                # Every setting that is a number or a text, given as it is by default.
                for name, value in settings.items():
                    if not isinstance(value, list) and value != "":
                        text = json.dumps(value) if not isinstance(value, str) else value
                        done = self.call(*verb, f"--{name}={text}", "--dump-config")
                        if done.returncode == 0:
                            self.assertEqual(json.loads(done.stdout), settings, name)

    def test_every_task(self):
        self.probes()
        tasks = {
            "lm": ["--data", "t.txt", *self.SMALL],
            "valid": ["--data", "t.txt", "--valid", "t.txt", *self.SMALL, "--patience", 2,
                      "--eval-steps", 1, "--mixer", "lstm", "--lstm.hidden", 8],
            "translate": ["--task", "translate", "--data", "a.en", "a.ja", "--tags", "<de>",
                          "--both-directions", "--max-tokens", 64, "--no-buckets",
                          *self.SMALL[:8], *self.SMALL[10:]],
            "probes": ["--task", "probe", "--data", "probe/train.jsonl", "--tokenizer", "probe",
                       "--skip-long", *self.SMALL],
            "bare": ["--data", "t.txt", "--block", "bare", "--pattern", "gla simple_rnn",
                     *self.SMALL, "--min-learning-rate", 1e-5],
            "reconstruct": ["--task", "reconstruct", "--data", "poems.txt", "--max-steps", 2,
                            *reconstruct_test.ReconstructCase.SMALL],
            "preset": ["--task", "reconstruct", "--data", "poems.txt", "--max-steps", 2,
                       "--preset", "quality", "--autoencoder.hidden", 16, "--window", "6",
                       "--embeddings", "learned", "--embedding-width", 8],
        }
        for task, arguments in tasks.items():
            with self.subTest(task):
                settings = self.fixed(["train"], [*arguments, "--out", task])
                # What a run recorded, it runs as well, also after it went on.
                self.must("train", "--resume", task, "--max-steps", settings["max_steps"])
                recorded = json.loads((self.dir / task / "training_args.json").read_text())
                recorded["out"] = task + "-again"
                self.must("train", "--config", self.put("args.json", json.dumps(recorded)))
                self.assertEqual(settings["out"], task)

    def test_plan_and_models(self):
        self.fixed(["plan"], ["--vocab-size", 60, *self.SMALL[:10], "--budgets", "900M"])
        self.put("ids", "1 2 3")
        for verb, arguments in {
                "generate": ["-m", self.model, "-p", "the", "-n", 3, "--temp", 0.5, "--stop", "x",
                             "--no-echo", "--min-confidence", 0.001, "--patience-tokens", 2],
                "translate": ["-m", self.translator, "--input", "a.en", "--output", "o", "--json"],
                "eval": ["-m", self.model, "--data", "t.txt", "--context", 8, "--json"],
                "score": ["--hyp", "a.ja", "--ref", "a.ja", "--chrf-word-order", 2],
                "verify": ["-m", self.model, "--tokens", 12, "--gradient-tokens", 4],
                "logits": ["-m", self.model, "--ids", "1 2", "--out", "l.safetensors"],
                "info": ["-m", self.model, "--json"],
                "prepare": ["--data", "t.txt", "--tokenizer", "char", "--out", "t.tokens"],
                "tokenizer train": ["--kind", "char", "--data", "t.txt", "--out", "tok",
                                    "--special", "<a>"],
                "tokenizer encode": ["-m", self.model, "--input", "t.txt", "--lines"],
                "tokenizer decode": ["-m", self.model, "--input", "ids"],
                "sample calendar": ["--out", "cal", "--train", 9, "--dev", 2, "--test", 2],
                "reconstruct": ["-m", self.autoencoder(), "--input", "poems.txt"],
        }.items():
            with self.subTest(verb):
                self.fixed(verb.split(), arguments)
        self.fixed(["convert"], ["--from", "hf", self.model, "--out", "copy"])

    def test_what_is_refused_is_not_dumped(self):
        """What is at its default says nothing, in a file or as a flag; another value does."""
        for arguments, says in (
                (["--embeddings", "learned"], "--embeddings"),
                (["--valid", "t.txt", "--valid-split", 0.1], "contradict"),
                (["--task", "reconstruct", "--layers", 3], "--layers"),
                (["--mixer", "gla", "--pattern", "attention"], "contradict"),
                (["--lstm.hidden", 3], "--lstm.hidden"),
                (["--learning-rate", -1], "learning_rate")):
            for dump in ([], ["--dump-config"]):
                self.fails("train", "--data", "t.txt", "--out", "run", *arguments, *dump, says=says)
        for config in ({"embeddings": "random"}, {"valid": ["t.txt"], "valid_split": 0.1},
                       {"lstm.hidden": 0}, {"lstm": {"hidden": 0}},
                       {"mixer": "gla", "pattern": "attention"}, {"batch_size": 16,
                                                                  "max_tokens": 32}):
            self.must("train", "--data", "t.txt", "--out", "run", "--config",
                      self.put("c.json", json.dumps(config)), "--dump-config")
        self.fails("train", "--data", "t.txt", "--out", "run", "--config",
                   self.put("c.json", '{"lstm.hidden": 3}'), says="c.json: lstm.hidden: ")
        # So it is on the command line.
        for flags in (["--embeddings", "random"], ["--lstm.hidden", 0], ["--no-skip-long"],
                      ["--max-tokens", 32, "--task", "probe", "--batch-size", 16],
                      ["--lr-scheduler-type", "constant", "--min-learning-rate", 0]):
            self.must("train", "--data", "t.txt", "--out", "run", *flags, "--dump-config")
        self.must("translate", "-m", self.translator, "--no-json", "--score", input="a\n")


class Effect(SettingsCase):
    def refused(self, verb, *arguments, says):
        for dump in ([], ["--dump-config"]):
            self.fails(verb, *arguments, *dump, says=says)

    def test_training(self):
        run = ["--data", "t.txt", "--out", "run", *self.SMALL]
        pairs = ["--task", "translate", "--data", "a.en", "a.ja", "--out", "run", *self.SMALL]
        for arguments, says in (
                (["--lstm.hidden", 8], "--lstm.hidden: expected a block with the mixer lstm, found "
                                       "attention"),
                (["--pattern", "gla attention", "--attention.rope_theta", 5e4],
                 "--attention.rope-theta: expected a block with the mixer attention, found gla in 1 "
                 "layer of the pattern 'gla attention'"),
                (["--pattern", "gla attention", "--attention-dropout", 0.1],
                 "--attention-dropout: expected a block with the mixer attention, found gla in 1 "
                 "layer of the pattern 'gla attention'"),
                (["--mixer", "lstm", "--attention-dropout", 0.1], "attention, found lstm"),
                (["--mixer", "lstm", "--kv-heads", 1], "--kv-heads: expected a block with the mixer"),
                (["--block", "bare", "--d-ff", 64], "--d-ff: has a meaning with --block pre_norm"),
                (["--block", "bare", "--feed-forward", "gelu"], "--feed-forward"),
                (["--block", "bare", "--norm", "layer_norm"], "--norm"),
                (["--block", "bare", "--rms-norm-eps", 1e-6], "--rms-norm-eps"),
                (["--lr-scheduler-type", "constant", "--min-learning-rate", 1e-4],
                 "--min-learning-rate: expected --lr-scheduler-type linear, cosine or "
                 "reduce_lr_on_plateau with it, found constant"),
                (["--lr-decay", 2], "--lr-decay: expected --lr-scheduler-type reduce_lr_on_plateau"),
                (["--momentum", 0.9], "--momentum: expected --optimizer sgd with it, found adamw"),
                (["--optimizer", "sgd", "--adam-beta1", 0.8],
                 "--adam-beta1: expected --optimizer adamw with it, found sgd"),
                (["--lr-scheduler-type", "reduce_lr_on_plateau"],
                 "lr_scheduler_type: expected eval_steps with reduce_lr_on_plateau"),
                (["--lr-scheduler-type", "inverse_sqrt", "--min-learning-rate", 1e-4],
                 "--min-learning-rate"),
                (["--clip-mode", "none", "--max-grad-norm", 2], "--max-grad-norm"),
                (["--max-tokens", 64], "--batch-size: expected it or --max-tokens"),
                (["--valid-split", 0, "--patience", 2, "--eval-steps", 1], "--patience: expected "
                                                                           "--valid or"),
                (["--valid-split", 0, "--eval-steps", 1], "--eval-steps"),
                (["--offload-states"], "--offload-states: expected mixers whose state has one size"),
                (["--mixer", "gla", "--offload-states"], "more than 4096 tokens"),
                (["--both-directions"], "--both-directions: has a meaning with --task translate"),
                (["--source-tag", "<x>"], "--source-tag"),
                (["--target-tag", "<x>"], "--target-tag"),
                (["--tags", "<x>"], "--tags"),
                (["--skip-long"], "--skip-long: has a meaning with --task translate and"),
                (["--no-buckets"], "--buckets")):
            with self.subTest(arguments):
                self.refused("train", *run, *arguments, says=says)
        self.refused("train", *pairs, "--no-buckets", says="--buckets: expected --max-tokens")
        self.refused("train", *pairs, "--tokenizer", self.model, "--tags", "<x>",
                     says="--tags: expected a --tokenizer to train")
        self.refused("train", "--task", "reconstruct", "--data", "poems.txt", "--out", "run",
                     "--autoencoder.decoder", "plain", "--preset", "speed", says="--preset")
        self.refused("train", "--task", "reconstruct", "--data", "poems.txt", "--out", "run",
                     "--autoencoder.decoder", "self_attention", "--autoencoder.position-codes",
                     "all", says="--autoencoder.position-codes: expected cross_attention")
        self.refused("train", "--task", "reconstruct", "--data", "poems.txt", "--out", "run",
                     "--lr-scheduler-type", "constant", "--min-learning-rate", 1e-4,
                     says="--min-learning-rate")

    def test_runs_that_go_on(self):
        """What was recorded is not given; what is given now is."""
        self.must("train", "--data", "t.txt", "--out", "run", *self.SMALL[:8], "--max-tokens", 64,
                  "--max-steps", 2)
        self.fails("train", "--resume", "run", "--batch-size", 4, says="--batch-size: expected it")
        self.must("train", "--resume", "run", "--max-steps", 3)

    def test_other_verbs(self):
        self.refused("plan", "--vocab-size", 60, "--mixer", "gla", "--lstm.hidden", 8,
                     says="--lstm.hidden: expected a block with the mixer lstm, found gla")
        self.fails("bench", "mixers", "--mixers", "gla", "--lstm.hidden", 8, "--repeats", 1,
                   says="--lstm.hidden: expected a block with the mixer lstm, found gla")
        self.refused("prepare", "--data", "t.txt", "--tokenizer", "char", "--out", "t.tokens",
                     "--both-directions", says="--both-directions")
        prompt = ["-m", self.model, "-p", "the"]
        self.refused("generate", *prompt, "--repeat-last-n", 9, says="--repeat-last-n: expected a "
                                                                     "--repeat-penalty")
        self.refused("generate", *prompt, "--patience-tokens", 2, says="--patience-tokens: "
                                                                       "expected --min-confidence")
        self.refused("generate", *prompt, "--logprobs", 2, says="--logprobs: expected --json")
        score = ["-m", self.model, "--data", "t.txt"]
        for flags in (["--beam-size", 2], ["--bleu-tokenize", "none"], ["--source-tag", "<en>"],
                      ["--skip-long"], ["--max-tokens", 64]):
            self.fails("eval", *score, *flags, says=f"{flags[0]}: has no meaning with the task lm")
        pairs = ["-m", self.translator, "--data", "a.en", "a.ja"]
        self.fails("eval", *pairs, "--context", 8, says="--context: has no meaning with the task "
                                                        "translate")
        self.refused("eval", *pairs, "--task", "translate", "--context", 8, says="--context")
        auto = self.autoencoder()
        self.fails("eval", "-m", auto, "--data", "poems.txt", "--beam-size", 2, says="--beam-size")
        self.fails("eval", "-m", auto, "--data", "poems.txt", "--task", "lm", says="--task")


class Origins(SettingsCase):
    """The command line, a file, and what a run has recorded: which of them holds, and is named."""
    RUN = ["train", "--data", "t.txt", "--out", "run"]

    def dump(self, *arguments, **options):
        return json.loads(self.must(*arguments, "--dump-config", **options))

    def config(self, **settings):
        return self.put("c.json", json.dumps(settings))

    def test_a_run_that_goes_on(self):
        self.must(*self.RUN, *self.SMALL, "--mixer", "gla", "--seed", 5)
        recorded = json.loads((self.dir / "run" / "training_args.json").read_text())
        for resume in (["--resume", "run"], ["--resume", "auto", "--out", "run"]):
            dumped = self.dump("train", *resume, "--max-steps", 3)
            self.assertEqual({**dumped, **{k: recorded[k] for k in ("resume", "max_steps")}},
                             {**recorded, **{k: dumped[k] for k in ("threads", "verbose")}})
            self.assertEqual((dumped["max_steps"], dumped["resume"]), ("3", resume[1]))
            file = self.put("dumped.json", json.dumps(dumped))
            self.assertEqual(self.dump("train", "--config", file), dumped)
            self.must("train", "--config", file)
            for flags in (["--seed", 6], ["--seed", 1], ["--batch-size", 8]):
                self.fails("train", *resume, *flags, "--dump-config", says=flags[0])
        self.fails("train", "--resume", "none", "--dump-config", says="none: expected a run")
        self.assertEqual(self.dump(*self.RUN[:-1], "new", "--resume", "auto")["seed"], 1)

    def test_what_a_file_says_of_a_run_that_goes_on(self):
        self.must(*self.RUN, *self.SMALL, "--vocab-size", 0, "--save-steps", 1)
        auto = [*self.RUN, *self.SMALL, "--resume", "auto"]
        self.must(*auto, "--vocab-size", 0)
        self.fails(*auto, "--vocab-size", 99, says="--vocab-size: is ")
        resume = ["train", "--resume", "run", "--config"]
        self.assertEqual(self.dump(*resume, self.config(max_steps="2000"))["max_steps"], "2000")
        self.assertEqual(self.dump(*resume, self.config(save_steps=0))["save_steps"], 0)
        self.assertEqual(self.dump(*resume, self.config(seed=1))["seed"], 1)
        self.fails(*resume, self.config(seed=2), says="c.json: seed: is 1 in run")

    def test_the_command_line_replaces_siblings(self):
        pairs = ["train", "--task", "translate", "--data", "a.en", "a.ja", "--out", "run"]
        for settings, flags, want in (
                ({"max_tokens": 64, "buckets": False}, ["--batch-size", 16],
                 {"max_tokens": 0, "buckets": True, "batch_size": 16}),
                ({"batch_size": 4}, ["--max-tokens", 64], {"max_tokens": 64, "batch_size": 16}),
                ({"batch_size": 4}, ["--max-tokens", 0], {"max_tokens": 0, "batch_size": 4}),
                ({"mixer": "gla"}, ["--pattern", "lstm gla"], {"mixer": "", "pattern": "lstm gla"}),
                ({"pattern": "lstm"}, ["--mixer", "gla"], {"mixer": "gla", "pattern": "attention"}),
                ({"bf16": True}, ["--int16"], {"compute_type": "int16"}),
                ({"bf16": True}, ["--no-int16"], {"compute_type": "bf16"}),
                ({"bf16": True}, ["--no-bf16"], {"compute_type": "f32"}),
                ({"bf16": False, "int16": True}, [], {"compute_type": "int16"}),
                ({"int16": True}, ["--compute-type", "auto"], {"compute_type": "auto"}),
                ({"compute_type": "bf16"}, ["--int16", "false"], {"compute_type": "bf16"}),
                ({}, ["--no-bf16", "--int16"], {"compute_type": "int16"}),
                ({}, ["--no-bf16"], {"compute_type": "f32"}),
                ({"save_steps": 9}, ["--save-minutes", 1], {"save_steps": 0, "save_minutes": 1}),
                ({"save_minutes": 9}, ["--save-steps", 5], {"save_steps": 5, "save_minutes": 10}),
                ({"valid_split": 0.2}, ["--valid", "a.en", "a.ja"], {"valid_split": 0.1})):
            with self.subTest(flags):
                dumped = self.dump(*pairs, "--config", self.config(**settings), *flags)
                self.assertEqual({key: dumped[key] for key in want}, want)

    def test_short_forms_that_contradict(self):
        pairs = ["train", "--task", "translate", "--data", "a.en", "a.ja", "--out", "run"]
        for flags, says in ((["--bf16", "--no-bf16"], ["--bf16", "--no-bf16"]),
                            (["--compute-type", "bf16", "--bf16", "false"], ["--compute-type"]),
                            (["--no-int16", "--int16"], ["--int16", "--no-int16"])):
            self.fails(*pairs, *flags, as_is=True, says=[*says, "expected it once"])
        for settings, says in (({"compute_type": "bf16", "bf16": False}, "bf16: expected true"),
                               ({"compute_type": "int16", "bf16": True}, "set twice, the other"),
                               ({"bf16": True, "int16": True}, "set twice, the other")):
            self.fails(*pairs, "--config", self.config(**settings), says=says)

    def test_errors_name_the_file(self):
        for settings, says in (
                ({"batch_size": -3}, "refrain train: c.json: batch_size: expected 1 to"),
                ({"valid_split": 2}, "c.json: valid_split: expected 0 or more"),
                ({"min_learning_rate": 1e-4, "lr_scheduler_type": "constant"},
                 "c.json: min_learning_rate: expected --lr-scheduler-type linear"),
                ({"lstm.hidden": 3}, "c.json: lstm.hidden: expected a block"),
                ({"mixer": "gla", "pattern": "lstm"},
                 "c.json: mixer and c.json: pattern contradict"),
                ({"memory": 2}, "c.json: memory: expected an amount of memory such as 800M or 2G, "
                                "found '2', which is 2 bytes")):
            for dump in ([], ["--dump-config"]):
                config = pathlib.Path(self.config(**settings)).name
                self.fails(*self.RUN, "--config", config, *dump, says=says)
        done = self.call(*self.RUN, "--config", self.config(batch_size=4), "--batch-size", -3)
        self.assertIn(b"refrain train: batch_size: expected", done.stderr)
        self.fails(*self.RUN, "--memory", 2, says="memory: expected an amount of memory such as 800M")

    def test_standard_input(self):
        for text in ('{"seed": 7}', "seed = 7\n"):
            self.assertEqual(self.dump(*self.RUN, "--config", "-", input=text)["seed"], 7)
        self.fails(*self.RUN, "--config", "-", input="batch_size = -3",
                   says="standard input: batch_size: expected 1 to")
        self.fails("train", "--data", "-", "--out", "run", "--config", "-", input="seed = 7",
                   says="--config -: --data reads standard input, too")

    def test_what_is_said_of_sizes_and_schedules(self):
        said = lambda *flags: self.call(*self.RUN, *self.SMALL, *flags).stderr.decode()
        first = said("--max-steps", 3)
        self.assertIn("\ntrain: 1395 tokens, 1 document\nvalid: 155 tokens, 1 document\n",
                      "\n" + first)
        self.assertIn("the run has 3 steps, fewer than --warmup-steps 100: the learning rate reaches "
                      "only 3.00e-05\n", first)
        self.assertNotIn("the schedule", first)
        second = said("--resume", "auto", "--max-steps", 100)
        self.assertNotIn("--warmup-steps", second)
        self.assertIn("--max-steps 100: the schedule now ends at 100, was 3\n", second)
        self.assertNotIn("the schedule", said("--resume", "auto"))
        long = self.call("train", "--data", "t.txt", "--out", "long", *self.SMALL, "--max-steps", 1,
                         "--pattern", "gla attention").stderr.decode()
        self.assertIn("pattern: 2 words for 1 layer: those after them are not used\n", long)
        self.assertNotIn("pattern:", first)

    def test_help_tells_the_type_and_default_of_settings(self):
        text = self.must("train", "--help")
        for line in (r"--attention\.window N +.*\[0\]", r"--attention\.rope-theta X\s.*",
                     r"--attention-rnn\.bias  +", r"--\[no-\]attention-rnn\.scaled\s+",
                     r"--attention\.rope-pairing TEXT\s"):
            self.assertRegex(text, line)

    def test_a_file_is_no_model(self):
        self.put("poem.txt", "a tree\n")
        for verb, *rest in (("info",), ("generate", "-p", "a"), ("translate",), ("verify",),
                            ("eval", "--data", "t.txt"), ("logits", "--ids", "1", "--out", "l.st"),
                            ("reconstruct", "--input", "t.txt")):
            self.fails(verb, "-m", "poem.txt", *rest, input="",
                       says="poem.txt: expected a model directory or a GGUF file, found another file")

    def test_a_tokenizer_by_the_name_of_the_flag_of_train(self):
        self.must("tokenizer", "train", "--tokenizer", "char", "--data", "t.txt", "--out", "tok")
        for flag in ("-m", "--tokenizer"):
            ids = self.must("tokenizer", "encode", flag, "tok", input="the cat")
            self.assertEqual(self.must("tokenizer", "decode", flag, "tok", input=ids), "the cat")
        self.fails("tokenizer", "encode", "-m", "tok", "--tokenizer", "tok", input="a",
                   says="contradict")
        self.fails("tokenizer", "train", "--kind", "char", "--tokenizer", "char", "--data", "t.txt",
                   "--out", "tok2", says="contradict")

    def test_samples_say_the_length_of_sequences(self):
        for kind, flags, want in (("multi-query-recall", ("--length", 32), "32 tokens, vocabulary 8192"),
                                  ("recall", ("--pairs", 3), "8 tokens, vocabulary 20"),
                                  ("copy", ("--delay", 5), "25 tokens, vocabulary 10")):
            done = self.call("sample", kind, "--train", 20, "--test", 5, "--out", kind, *flags)
            self.assertIn(f"20 + 5 sequences of {want}, in ", done.stderr.decode())

    def test_threads_that_have_one_core(self):
        one_core = lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        # Pinned to one core two threads cannot have 1.2, whatever else the machine does.
        for threads in (2, 1):
            command = ["train", "--data", "t.txt", "--out", f"run{threads}", *self.SMALL,
                       "--max-steps", 1000000, "--logging-steps", 10000, "--threads", threads]
            run = subprocess.Popen([cli_test.REFRAIN, *cli_test.override(command)], stderr=subprocess.PIPE,
                                   cwd=self.dir, preexec_fn=one_core)
            while b" parameters, " not in run.stderr.readline():
                self.assertIsNone(run.poll())
            time.sleep(5)
            run.send_signal(signal.SIGINT)
            error = run.communicate()[1].decode()
            self.assertEqual("--threads 1 may be faster; the weights are the same" in error,
                             threads > 1, error)


class Files(SettingsCase):
    """Files of settings: what TOML can say, and what is too much."""

    def settings(self, text, name="a.toml"):
        return json.loads(self.must("generate", "--config", self.put(name, text), "--dump-config"))

    def test_toml(self):
        found = self.settings('stop = ["a", \'b\']\r\nprompt = """\nthe\ncat"""\n"top_k" = 0x10\n')
        self.assertEqual((found["stop"], found["prompt"], found["top_k"]), (["a", "b"],
                                                                            "the\ncat", 16))
        train = lambda text: json.loads(self.must("train", "--config", self.put("t.toml", text),
                                                  "--dump-config"))
        for text in ("mixer = 'lstm'\n[lstm]\nhidden = 32", "mixer = 'lstm'\nlstm.hidden = 32",
                     "mixer = 'lstm'\nlstm = {hidden = 32}", "mixer = 'lstm'\n\"lstm.hidden\" = 32"):
            self.assertEqual(train(text)["lstm.hidden"], 32)
        self.assertEqual(train("data = []")["data"], [])
        dots = "." * 500  # of a value, or a remark
        self.assertEqual(self.settings(f"prompt = '{dots}' # {dots}")["prompt"], dots)
        self.assertEqual(self.settings("prompt = '''\n" + ".\n" * 500 + "'''")["prompt"],
                         ".\n" * 500)

    def test_set_twice(self):
        for name, text in (("a.json", '{"top_k": 1, "top-k": 2}'), ("a.toml", "top_k=1\ntop-k=2"),
                           ("a.toml", '"lstm.hidden" = 1\n[lstm]\nhidden = 2')):
            self.fails("train" if "lstm" in text else "generate", "--config", self.put(name, text),
                       says="set twice")

    def test_hostile(self):
        def seconds():  # of the processor: others may use the machine as well
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime

        many = "".join(f"k{i} = 1\n" for i in range(200000))
        for text, says in ((many, "unknown setting 'k"), ("a." * 400000 + "b = 1", "dots in a key"),
                           ("[" + "a." * 400000 + "b]", "line 1: expected at most 64 dots"),
                           ("\n" + "'a'." * 100 + "b = 1", "line 2: expected at most 64 dots"),
                           ("x" * 4000000 + " = 1", "unknown setting"),
                           ("a = " + "[" * 400000, "line 1"), ("a = " + "{b = " * 400000, "line 1"),
                           ("# " + "x" * 5000000, "longer than 4194304 bytes"),
                           ("top_k = nan", "line 1: top_k"), ("[[top_k]]\na = 1", "line 1"),
                           ("\nseed = 07:30:00", "line 2: seed: expected a string, a number")):
            with self.subTest(text[:20]):
                start = seconds()
                error = self.fails("generate", "--config", self.put("a.toml", text), says=says)
                self.assertLess(len(error), 400)
                self.assertLess(seconds() - start, 10)


class Runs(SettingsCase):
    """What a run records, and what it does where it may not write."""

    def begin(self, *more, **options):
        return self.must("train", "--data", "t.txt", "--out", "run", *self.SMALL[:-1], 6,
                         "--save-steps", 1, *more, **options)

    def test_settings_that_were_lost(self):
        self.begin("--seed", 5, "--stop-after", 3, "--max-steps", 8)
        path = self.dir / "run" / "training_args.json"
        recorded = json.loads(path.read_text())
        # A run of a version that had neither a mixer nor a task, nor settings that came together.
        came = {"optimizer", "momentum", "lr_decay", "carry_state", "character_coverage",
                "feed_forward_bias", "norm", "activation_precision", "attention_rnn.query", "init"}
        path.write_text(json.dumps({k: v for k, v in recorded.items() if k not in came and
                                    not k.startswith(("mm_rec.", "autoencoder.", "window",
                                                      "teacher_forcing"))}))
        self.must("train", "--resume", "run", "--stop-after", 4)
        self.assertEqual(json.loads(path.read_text()), recorded)
        for lost in came - {"init"}:  # alone; init came alone
            path.write_text(json.dumps({k: v for k, v in recorded.items() if k != lost}))
            self.fails("train", "--resume", "run", says=["run/training_args.json", lost])
        # One that had a switch for each type of products.
        switches = {k: v for k, v in recorded.items() if k != "compute_type"}
        path.write_text(json.dumps(switches | {"bf16": False, "int16": False}))
        self.must("train", "--resume", "run", "--stop-after", 5)
        self.assertEqual(json.loads(path.read_text()), recorded)
        path.write_text(json.dumps(switches | {"bf16": False, "int16": True}))
        self.fails("train", "--resume", "run", "--bf16", says="--compute-type: is \"int16\" in run")
        for both in ({"bf16": True, "int16": True}, {"bf16": "true", "int16": False},
                     {"bf16": True, "compute_type": "f32"}):
            kept = json.dumps(switches | both)
            path.write_text(kept)
            self.fails("train", "--resume", "run", says=["training_args.json", "16: expected"])
            self.assertEqual(path.read_text(), kept)
        # One that had a setting under an earlier name.
        earlier = {("spill_states" if k == "offload_states" else k): v for k, v in recorded.items()}
        self.assertIn("spill_states", earlier)
        path.write_text(json.dumps(earlier))
        self.must("train", "--resume", "run", "--stop-after", 6)
        self.assertEqual(json.loads(path.read_text()), recorded)
        for lost in ("seed", "compute_type", "batch_size", "tbptt", "attention.window"):
            path.write_text(json.dumps({k: v for k, v in recorded.items() if k != lost}))
            self.fails("train", "--resume", "run", says=["run/training_args.json", lost])
        path.write_text(json.dumps({k: v for k, v in recorded.items() if k != "seed"}))
        self.must("train", "--resume", "run", "--seed", 5, "--stop-after", 7)
        self.assertEqual(json.loads(path.read_text())["seed"], 5)  # it is whole again

    def test_auto_is_recorded_as_what_it_is(self):
        path = self.dir / "run" / "training_args.json"
        for isa, found in (("scalar", "f32"), ("avx2", "f32"), (None, None)):
            env = {"REFRAIN_ISA": isa} if isa else {}
            shutil.rmtree(self.dir / "run", ignore_errors=True)
            begun = self.call("train", "--data", "t.txt", "--out", "run", *self.SMALL[:-1], 4,
                              "--compute-type", "auto", "--stop-after", 2, env=env)
            self.assertEqual(begun.returncode, 0, begun.stderr)
            recorded = json.loads(path.read_text())["compute_type"]
            self.assertIn(recorded, ["f32", "bf16", "int16"])
            if isa:
                self.assertEqual(recorded, found)
            # It stays what it is, and auto is that.
            resumed = self.call("train", "--resume", "run", "--compute-type", "auto", env=env)
            self.assertEqual(resumed.returncode, 0, resumed.stderr)
            self.assertNotIn(b"--compute-type", resumed.stderr)  # nothing that it could not take
            if recorded != "f32":
                self.fails("train", "--resume", "run", f"--no-{recorded}", env=env,
                           says=f'--compute-type: is "{recorded}" in run')
            self.assertEqual(json.loads(path.read_text())["compute_type"], recorded)
        # A run in float32 says that there is something faster, and others do not.
        for out, (word, says) in enumerate((("f32", recorded != "f32"), (recorded, False))):
            begun = self.call("train", "--data", "t.txt", "--out", f"r-{out}", *self.SMALL[:-1], 1,
                              "--compute-type", word)
            self.assertEqual(b"--compute-type auto" in begun.stderr, says, begun.stderr)

    def test_a_stop_is_of_one_process(self):
        self.begin("--stop-after", 3)
        recorded = json.loads((self.dir / "run" / "training_args.json").read_text())
        self.assertEqual(recorded["stop_after"], 0)
        dumped = self.must("train", "--resume", "run", "--dump-config")
        self.assertEqual(json.loads(dumped)["stop_after"], 0)
        self.must("train", "--config", self.put("d.json", dumped))
        self.assertTrue((self.dir / "run" / "checkpoint-6").exists())
        self.assertEqual(json.loads(self.must("train", "--data", "t.txt", "--out", "r",
                                              "--stop-after", 2, "--dump-config"))["stop_after"], 2)

    def test_what_is_protected(self):
        nobody = {} if os.getuid() else {"user": 65534}
        os.chmod(self.dir, 0o777)
        try:
            done = self.call("--version", **nobody)
        except OSError:
            self.skipTest("the program is out of another user's reach")
        if done.returncode:
            self.skipTest("the program is out of another user's reach")
        self.begin("--eval-steps", 1, "--stop-after", 3, "--learning-rate", 0.01, **nobody)
        run = self.dir / "run"
        kept = run / "checkpoint-2"
        for folder in (kept, run / "best"):
            self.assertTrue(folder.exists())
            os.chmod(folder, 0o555)
        # What a crash left, which is nobody's to keep.
        left = run / ".checkpoint-1.tmp-1"
        shutil.copytree(kept, left)
        if not os.getuid():
            for path in (left, *left.iterdir()):
                os.chown(path, 65534, 65534)
        os.chmod(left, 0o555)
        done = self.call("train", "--resume", "run", **nobody)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr.decode().count("checkpoint-2: kept:"), 1)
        names = {path.name for path in run.iterdir()}
        self.assertTrue({"checkpoint-2", "checkpoint-5", "checkpoint-6", "best"} <= names, names)
        self.assertFalse({"checkpoint-3", "checkpoint-4"} & names, names)
        self.assertEqual([n for n in names if ".tmp-" in n], [])
        self.assertTrue((kept / "optimizer.safetensors").exists())

    def test_another_instruction_set(self):
        least, better, *_ = [*cli_test.instruction_sets(), None]
        if not better:
            self.skipTest("this processor's kernels know one alone")
        self.begin("--stop-after", 2, env={"REFRAIN_ISA": least})
        machine = self.dir / "run" / "machine.json"
        self.assertEqual(json.loads(machine.read_text()), {"instruction_sets": [least]})
        told = lambda isa: [
            line for line in self.call("train", "--resume", "run", "--max-steps", 6,
                                       env={"REFRAIN_ISA": isa}).stderr.decode().splitlines()
            if "trained by" in line]
        self.assertEqual(told(least), [])
        line, = told(better)
        self.assertIn(f"trained by {least} until now, goes on by {better}", line)
        self.assertEqual(told(better), [])
        self.assertEqual(json.loads(machine.read_text())["instruction_sets"], [least, better])
        machine.write_text('{"instruction_sets": 5}')
        self.fails("train", "--resume", "run", says=["machine.json", "instruction_sets"])


class Early(SettingsCase):
    """What needs no data to be refused is refused by --dump-config as well."""

    def test_refused_alike(self):
        for says, *command in (
                ("multiple of 16", "train", "--data", "t.txt", "--out", "o", "--mixer", "gla",
                 "--gradient-checkpointing", 8),
                ("bpe:x", "train", "--data", "t.txt", "--out", "o", "--tokenizer", "bpe:x"),
                ("multiple of 16", "plan", "--vocab-size", 9, "--mixer", "gla",
                 "--gradient-checkpointing", 8),
                ("bpe:x", "prepare", "--data", "t.txt", "--out", "o", "--tokenizer", "bpe:x"),
                ("bpe:x", "tokenizer", "train", "--kind", "bpe:x", "--data", "t.txt", "--out", "o"),
                ("bogus", "convert", "--from", "bogus", "x", "--out", "o"),
                ("1 values", "convert", "--from", "hf", "--out", "o"),
                ("symbols", "sample", "copy", "--symbols", 0, "--out", "o"),
                ("train", "sample", "copy", "--train", -1, "--out", "o"),
                ("rows", "sample", "calendar", "--train", -1, "--out", "o"),
                ("--ids", "logits", "-m", self.model, "--ids", "x", "--out", "o"),
                ("stop", "generate", "-m", self.model, "-p", "a", "--stop", ""),
                ("bogus", "score", "--ref", "a.ja", "--bleu-tokenize", "bogus"),
                ("--threads", "info", "-m", self.model, "--threads", -1)):
            with self.subTest(command):
                self.fails(*command, says=says)
                self.fails(*command, "--dump-config", says=says)
                self.assertFalse((self.dir / "o").exists())

    def test_names_that_are_not_utf8(self):
        odd = os.fsdecode(b"\xff.txt")
        (self.dir / odd).write_text("the cat sat\n" * 50)
        for name, *flags in (("--data", "--data", odd, "--out", "o"),
                             ("--out", "--data", "t.txt", "--out", odd),
                             ("--valid", "--data", "t.txt", "--valid", odd, "--out", "o"),
                             ("--tokenizer", "--data", "t.txt", "--tokenizer", odd, "--out", "o")):
            for more in ([], ["--dump-config"]):
                self.fails("train", *flags, *self.SMALL, *more, says=[name + ":", "UTF-8", "0xff"])
        self.fails("plan", "--data", odd, says=["--data:", "UTF-8"])
        self.fails("generate", "-m", self.model, "-p", odd, "--dump-config", says="--prompt:")
        self.must("tokenizer", "train", "--kind", "char", "--data", odd, "--out", "tok")


class NoNumbers(SettingsCase):
    """A model whose weights are no numbers gives an error, whatever is asked of it."""

    def spoil(self, folder, value=float("nan")):
        """Float32 weights become `value`."""
        path = self.dir / folder / "model.safetensors"
        raw = path.read_bytes()
        head = 8 + struct.unpack("<Q", raw[:8])[0]
        path.write_bytes(raw[:head] + struct.pack("<f", value) * ((len(raw) - head) // 4))
        return self.dir / folder

    def spoiled(self, model, value=float("nan")):
        path = self.dir / "spoiled"
        if path.exists():
            cli_test.shutil.rmtree(path)
        cli_test.shutil.copytree(model, path)
        return self.spoil("spoiled", value)

    def test_language_models(self):
        for value in (float("nan"), float("inf")):
            with self.subTest(value):
                model = self.spoiled(self.model, value)
                for verb, *arguments in (
                        ("eval", "--data", "t.txt"), ("eval", "--data", "t.txt", "--json"),
                        ("logits", "--ids", "1 2 3", "--out", "l.safetensors"),
                        ("generate", "-p", "the", "--json", "--temp", 0)):
                    self.fails(verb, "-m", model, *arguments, says="expected")
                done = self.call("verify", "-m", model, "--tokens", 8)
                self.assertIn(done.returncode, (1, 2))

    def test_infinite_sums_agree_with_nothing(self):
        self.fails("verify", "-m", self.spoiled(self.model), "--tokens", 8,
                   says=["spoiled: logits in float64: expected finite numbers, found nan"])

    def test_translators_and_probes(self):
        model = self.spoiled(self.translator)
        self.fails("translate", "-m", model, input="the cat\n", says="expected")
        self.fails("translate", "-m", model, "--output", "out", input="the cat\n", says="expected")
        self.fails("eval", "-m", model, "--data", "a.en", "a.ja", says="loss: expected finite")
        self.probes()
        self.must("train", "--task", "probe", "--data", "probe/train.jsonl", "--tokenizer", "probe",
                  "--out", "run", *self.SMALL)
        self.fails("eval", "-m", self.spoil("run"), "--data", "probe/test.jsonl",
                   says="run: loss: expected finite numbers, found")

    def test_one_number_of_an_autoencoder(self):
        whole = self.autoencoder()
        for file in ("model.safetensors", "embeddings.safetensors"):
            raw = (whole / file).read_bytes()
            head = 8 + struct.unpack("<Q", raw[:8])[0]
            floats = (len(raw) - head) // 4
            for at in range(0, floats, max(1, floats // 7)):
                one = self.dir / f"{file}-{at}"
                shutil.copytree(whole, one)
                cut = head + 4 * at
                (one / file).write_bytes(raw[:cut] + struct.pack("<f", float("nan")) +
                                         raw[cut + 4:])
                for command in (["reconstruct", "--input"], ["eval", "--data"]):
                    self.fails(*command, "poems.txt", "-m", one, says="expected finite")

    def test_autoencoders(self):
        self.autoencoder()
        model = self.spoil("auto")
        self.fails("eval", "-m", model, "--data", "poems.txt", says=["auto: ", "expected finite"])
        self.fails("reconstruct", "-m", model, "--input", "poems.txt", "--attention-map", "a.svg",
                   says=["auto: ", "expected finite"])


class Threads(SettingsCase):
    def test_fewer_than_asked_for(self):
        """Where the system makes no more threads, work goes on with those there are."""
        self.measures_memory()
        def no_room_for_stacks():
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 42, resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))

        train = ["train", "--data", "t.txt", "--layers", 1, "--d-model", 64, "--heads", 2,
                 "--context", 64, "--max-steps", 3, "--threads", 8, "--out"]
        self.must(*train, "eight")
        done = self.call(*train, "one", preexec_fn=no_room_for_stacks)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("threads: the system makes 1 of 8 (", done.stderr.decode())
        weights = lambda out: (self.dir / out / "model.safetensors").read_bytes()
        self.assertEqual(weights("one"), weights("eight"))


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

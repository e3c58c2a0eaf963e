#!/usr/bin/env python3
"""Tests of `refrain bench`: its rows in all formats, its mistakes. No figure is looked at.

usage: bench_test.py REFRAIN [unittest's arguments]
"""
import csv
import io
import json
import os
import sys
import unittest

import cli_test

SECTIONS = ["products", "attention", "attention-rnn", "activations", "kernels", "mixers", "train",
            "generate", "switches"]
FIELDS = ["section", "name", "shape", "threads", "repeats", "mean_ms", "deviation_ms", "median_ms",
          "rate", "unit", "ceiling", "of_ceiling", "mfu", "ratio", "mean_error", "largest_error",
          "relative_error", "state_bytes", "peak_mib", "resident_mib", "refused"]


class BenchCase(cli_test.PlainCase):
    TINY = ["--repeats", 2, "--threads", 2, "--batch-tokens", 48, "--layers", 2, "--d-model", 16,
            "--heads", 2, "--vocab-size", 30, "--product-size", 40, "--stream-mib", 1,
            "--new-tokens", 3]

    def rows(self, *arguments):
        rows = json.loads(self.must("bench", *arguments, *self.TINY, "--format", "json"))
        for row in rows:
            self.assertEqual(list(row), FIELDS)
            self.assertIsNone(row["refused"], row)
        return rows


class Rows(BenchCase):
    def test_ends_with_what_the_machine_is_good_at(self):
        tiny = [*self.TINY, "--lengths", 8, "--mixers", "attention", "--repeats", 1]
        last = self.must("bench", *tiny).splitlines()[-1]
        self.assertRegex(last, "^This machine multiplies fastest in (f32|bf16|int16|float32), "
                               ".* tokens/s.*, one of 124 M at about [0-9,]+\\.$")
        said = self.call("bench", *tiny, "--format", "csv")
        self.assertIn(b"This machine multiplies fastest", said.stderr)
        self.assertNotIn(b"This machine", said.stdout)
        self.assertNotIn("This machine", self.must("bench", "train", *tiny))  # of all sections only

    def test_every_section(self):
        rows = self.rows("--lengths", "24,40")
        self.assertEqual(sorted({r["section"] for r in rows}), sorted(["ceilings", "summary", *SECTIONS]))
        for row in rows:
            self.assertEqual((row["threads"], row["repeats"]), (2, 2))
            for field in ("mean_ms", "median_ms", "rate"):
                self.assertGreater(row[field], 0, row)
            self.assertGreaterEqual(row["deviation_ms"], 0)
            if row["ceiling"] is not None:
                self.assertAlmostEqual(row["of_ceiling"], row["rate"] / row["ceiling"])
        of = lambda section: [r for r in rows if r["section"] == section]
        self.assertEqual([(r["name"], r["shape"].split(",")[0]) for r in of("train")],
                         [("attention", "2 x 24"), ("attention", "1 x 40"), ("gla", "2 x 24"),
                          ("gla", "1 x 40")])
        for row in of("train") + of("mixers"):
            self.assertGreater(row["mfu"], 0)
        for row in of("train"):
            self.assertGreater(row["resident_mib"], row["peak_mib"])
        for row in of("switches"):
            self.assertGreater(row["ratio"], 0)
        switches = [r["name"] for r in of("switches")]
        for name in ("gla: fused true", "attention_rnn: fused false", "gla: checkpointing 64",
                     "attention: checkpointing blocks", "attention: 8 heads"):
            self.assertIn(name, switches)
        self.assertNotIn("attention: checkpointing 64", switches)

    def test_windows_stand_beside_all_keys(self):
        rows = self.rows("attention", "--lengths", "24,100", "--attention.window", 30,
                         "--attention.stride", 8)
        names = [(r["name"], r["shape"].split(",")[0]) for r in rows if r["section"] == "attention"]
        self.assertEqual([n for n in names if "window" in n[0]],
                         [("window of 30, stride 8", "100 tokens")])
        window = [r for r in rows if r["name"].startswith("window")][0]
        self.assertGreater(window["ratio"], 0)

    def test_rounded_operands_pass_their_checks(self):
        for flag, precision in (("--bf16", "bfloat16"), ("--int16", "int16")):
            rows = self.rows("mixers", flag, "--lengths", 32, "--mixers",
                             "attention,gla,attention_rnn,lstm")
            names = [r["name"] for r in rows if r["section"] == "mixers"]
            self.assertEqual(len(names), 8)
            for name in names:
                self.assertIn(f", {precision}: ", name)

    def test_settings_reach_what_is_timed(self):
        rows = self.rows("train", "mixers", "--lengths", 32, "--mixers", "attention,lstm,gla",
                         "--attention.window", 8, "--gla.key-dim", 4,
                         "--gradient-checkpointing", 16)
        self.assertEqual({r["section"] for r in rows}, {"ceilings", "train", "mixers"})
        self.assertEqual([r["name"] for r in rows if r["section"] == "train"],
                         ["attention", "lstm", "gla"])
        rows = self.rows("train", "mixers", "--lengths", 32, "--pattern", "gru attention")
        self.assertEqual([r["name"] for r in rows if r["section"] == "train"], ["gru attention"])
        self.assertEqual({r["name"].split(":")[0] for r in rows if r["section"] == "mixers"},
                         {"attention", "gru"})

    def test_formats(self):
        arguments = ["bench", "attention", "train", "--lengths", 24, *self.TINY]
        lines = list(csv.reader(io.StringIO(self.must(*arguments, "--format", "csv"))))
        self.assertEqual(lines[0], FIELDS)
        for line in lines[1:]:
            self.assertEqual(len(line), len(FIELDS))
            float(line[FIELDS.index("median_ms")])
        self.assertEqual({line[0] for line in lines[1:]}, {"ceilings", "attention", "train"})
        tables = self.must(*arguments).split("## ")[1:]
        self.assertEqual([t.split("\n")[0] for t in tables], ["ceilings", "attention", "train"])
        for table in tables:
            lines = [line for line in table.splitlines()[1:] if line]
            self.assertEqual(len({len(line) for line in lines}), 1, "columns do not stand in line")
            self.assertEqual(len({line.count("|") for line in lines}), 1)
            self.assertIn("mean ± deviation, ms", lines[0])
            self.assertRegex(lines[1], r"^[|:-]+$")


class Mistakes(BenchCase):
    def test_one_line(self):
        self.fails("bench", "trian", says=["'trian'", "did you mean 'train'", "switches"])
        self.fails("bench", "train", "sing", says="'sing'")
        self.fails("bench", "--format", "xml", says=["--format", "'xml'"])
        self.fails("bench", "--repeats", 0, says=["--repeats", "found 0"])
        self.fails("bench", "--warm-up", -1, says="--warm-up")
        self.fails("bench", "--batch-tokens", 0, says="--batch-tokens")
        self.fails("bench", "--new-tokens", 0, says="--new-tokens")
        self.fails("bench", "--stream-mib", -1, says="--stream-mib")
        self.fails("bench", "--product-size", 0, says="--product-size")
        for lengths in ("", ",", "64,", "long", "0", "-5", "12.5", "1e3", "99999999999999999999"):
            self.fails("bench", "--lengths", lengths, says="--lengths")
        self.fails("bench", "--mixers", "", says="--mixers")
        self.fails("bench", "--mixers", "attention,gal", says=["'gal'", "gla"])
        self.fails("bench", "--pattern", "gla", "--mixers", "gla", says=["--pattern", "--mixers"])
        self.fails("bench", "--pattern", " ", says="pattern")
        self.fails("bench", "--heads", 5, says="heads")
        self.fails("bench", "--vocab-size", 0, says="vocab_size")
        self.fails("bench", "--gradient-checkpointing", "some", says="gradient_checkpointing")
        self.fails("bench", "train", "--gradient-checkpointing", 7, says="7")
        self.fails("bench", "train", "--attention.stride", 4, says="stride")
        self.fails("bench", "--context", 64, says="--context")
        self.fails("bench", "--bf16", "--int16", says=["--int16", "--bf16"])
        self.fails("bench", "--lengths", 24, "train", says="'train'")


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

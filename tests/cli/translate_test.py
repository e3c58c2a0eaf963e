#!/usr/bin/env python3
"""Tests of translation as its users meet it: beams, scores, directions, lines that are too long.

usage: translate_test.py REFRAIN [unittest's arguments]
"""
import json
import os
import re
import sys
import unittest

import cli_test
import train_test


class Translations(cli_test.Case):
    PAIRS = [("the cat", "neko"), ("the dog", "inu"), ("a tree", "ki"), ("an end", "owari")]

    def test_translation(self):
        lines = "".join(s + "\n" for s, _ in self.PAIRS)
        out = self.must("translate", "-m", self.translator, input=lines)
        self.assertEqual(len(out.splitlines()), len(self.PAIRS))
        self.put("in.en", lines)
        self.must("translate", "-m", self.translator, "--input", "in.en", "--output", "out.ja")
        self.assertEqual((self.dir / "out.ja").read_text(), out)
        # A line alone gives what it gives among others; a blank one a blank one.
        alone = [self.must("translate", "-m", self.translator, input=s) for s, _ in self.PAIRS]
        self.assertEqual("".join(alone), out)
        many = self.must("translate", "-m", self.translator, "--max-tokens", 32,
                         input=lines * 40 + "\n" + lines)
        self.assertEqual(many, out * 40 + "\n" + out)
        rows = [json.loads(row) for row in self.must("translate", "-m", self.translator, "--json",
                                                     input=lines).splitlines()]
        self.assertEqual([r["translation"] for r in rows], out.splitlines())
        # Scored against its own translations every pair matches; against others some do not.
        spaced = [" ".join(t.split()) or "x" for t in out.splitlines()]
        self.put("ref.ja", "".join(t + "\n" for t in spaced))
        self.put("other.ja", "".join(t + "\n" for t in spaced[:-1]) + "other\n")
        found = json.loads(self.must("eval", "-m", self.translator, "--data", "in.en", "ref.ja",
                                     "--json"))
        self.assertEqual(found["pairs"], len(self.PAIRS))
        self.assertEqual(found["matches"], sum(s == " ".join(t.split())
                                               for s, t in zip(spaced, out.splitlines())))
        other = json.loads(self.must("eval", "-m", self.translator, "--data", "in.en", "other.ja",
                                     "--json"))
        self.assertLess(other["exact_match"], 1)
        self.assertIn("exact match", self.must("eval", "-m", self.translator, "--data", "in.en",
                                               "ref.ja"))
        # The files score as they did inside.
        self.put("hyp.ja", out)
        outside = json.loads(self.must("score", "--hyp", "hyp.ja", "--ref", "other.ja", "--json",
                                       "--bleu-tokenize", "char"))
        for key in ("bleu", "chrf"):
            self.assertEqual(outside[key], other[key])
        self.assertIn("|tok:char|", other["bleu"]["signature"])  # the target tag is <ja>
        # Blank pairs are no pairs.
        self.put("gaps.en", "\n" + lines + "\n")
        self.put("gaps.ja", "x\n" + "".join(t + "\n" for t in spaced) + "\n")
        done = self.call("eval", "-m", self.translator, "--data", "gaps.en", "gaps.ja", "--json")
        self.assertIn("gaps.en: 2 left out", done.stderr.decode())
        again = json.loads(done.stdout)
        for key in ("pairs", "matches", "loss", "bleu"):
            self.assertEqual(again[key], found[key])

    def test_beams(self):
        lines = "".join(s + "\n" for s, _ in self.PAIRS[:2]) + "\n" + self.PAIRS[2][0] + "\n"
        translate = lambda *flags: self.must("translate", "-m", self.translator, *flags,
                                             input=lines)
        best = translate()
        self.assertEqual(best, translate("--beam-size", 4, "--length-penalty", 1, "-t", 1))
        rows = [json.loads(r) for r in translate("--json", "--n-best", 3).splitlines()]
        self.assertEqual([r["translation"] for r in rows], best.split("\n")[:-1])
        for row in rows:
            n_best = row["n_best"]
            self.assertEqual(len(n_best), 3 if row["source"] else 1)
            self.assertEqual({k: row[k] for k in n_best[0]}, n_best[0])
            scores = [t["score"] for t in n_best]
            self.assertEqual(scores, sorted(scores, reverse=True))
            for t in n_best:
                length = t["tokens"] + (t["stop_reason"] == "eos")
                self.assertAlmostEqual(t["score"] * length, t["logprob"], places=9)
        # As Marian prints them.
        printed = [line.split(" ||| ") for line in translate("--n-best", 3).splitlines()]
        self.assertEqual(printed, [[str(i), t["translation"], f"{t['score']:.6f}"]
                                   for i, row in enumerate(rows) for t in row["n_best"]])
        self.assertEqual([line.split(" ||| ") for line in translate("--score").splitlines()],
                         [[str(i), r["translation"], f"{r['score']:.6f}"]
                          for i, r in enumerate(rows)])
        # A wider beam finds what the model thinks at least as likely, in these lines.
        likely = [[json.loads(r)["logprob"] for r in translate("--json", "--length-penalty", 0,
                                                               "--beam-size", b).splitlines()]
                  for b in (1, 32)]
        self.assertTrue(all(a <= b for a, b in zip(*likely)), likely)
        self.assertNotEqual(*likely)
        for flags, says in {("--beam-size", 0): "beam_size", ("--n-best", 5): "beam_size 4",
                            ("--n-best", 0): "n_best", ("--length-penalty", -1): "length_penalty",
                            ("--beam-size", 1, "--n-best", 2): "beam_size 1",
                            ("--json", "--score"): "contradict",
                            ("--max-length-factor", -1): "--max-length-factor",
                            ("--max-tokens", 0): "--max-tokens"}.items():
            self.fails("translate", "-m", self.translator, *flags, says=says, input="a\n")

    def test_long_lines(self):
        long = "the cat " * 9
        lines = "a cat\n" + long + "\na dog\n"
        whole = self.must("translate", "-m", self.translator, input=lines).split("\n")
        self.fails("translate", "-m", self.translator, "--max-tokens", 12, input="a\n\n" + long,
                   says=["standard input: line 3: ", "tokens, expected at most 12", "--skip-long"])
        done = self.call("translate", "-m", self.translator, "--max-tokens", 12, "--skip-long",
                         input=lines)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stdout.decode().split("\n"), [whole[0], "", *whole[2:]])
        self.assertIn("standard input: line 2: ", done.stderr.decode())
        self.assertEqual(done.stderr.count(b"left out"), 1)
        pairs = self.put("p.tsv", "a cat\tneko\na dog\tinu\n" + long + "\tinu\n")
        score = ("eval", "-m", self.translator, "--data", pairs, "--max-tokens", 16, "--json")
        self.fails(*score, says=["p.tsv: line 3: a pair of ", "expected at most 16"])
        done = self.call(*score, "--skip-long")
        self.assertIn("p.tsv: line 3: a pair of ", done.stderr.decode())
        self.assertEqual(json.loads(done.stdout)["pairs"], 3)

    def test_similarity(self):
        hyp = self.put("hyp", "The cat sat on the mat.\nHello there, world!\n\n")
        ref = self.put("ref", "The cat sat on a mat.\nHello, world!\nmore\n")
        found = json.loads(self.must("score", "--hyp", hyp, "--ref", ref, "--json"))
        bleu, chrf = 42.044820762685724, 64.24497440119242  # sacreBLEU 2.6.0's
        self.assertAlmostEqual(found["bleu"]["score"], bleu, places=9)
        self.assertAlmostEqual(found["chrf"]["score"], chrf, places=9)
        self.assertRegex(found["bleu"]["signature"],
                         r"^nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:refrain-")
        self.assertRegex(found["chrf"]["signature"],
                         r"^nrefs:1\|case:mixed\|eff:yes\|nc:6\|nw:0\|space:no\|version:refrain-")
        text = self.must("score", "--ref", ref, input=hyp.read_bytes())
        self.assertIn(f"BLEU            {bleu:.2f}  ", text)
        self.assertIn(f"chrF2           {chrf:.2f}\n", text)
        self.assertIn("chrF2++", self.must("score", "--hyp", hyp, "--ref", ref,
                                           "--chrf-word-order", 2))
        score = ("score", "--hyp", hyp, "--ref", ref)
        self.fails(*score, "--bleu-tokenize", "zh", says=["13a, char or none", "zh"])
        self.fails(*score, "--chrf-word-order", 1, says="word order")
        self.fails("score", "--hyp", hyp, says="--ref is missing")
        self.fails("score", "--hyp", hyp, "--ref", self.put("two", "a\nb\n"),
                   says=["two: expected as many lines as", "hyp has, found 2"])
        self.fails("score", "--hyp", "two", "--ref", ref,
                   says=["two: expected as many lines as", "ref has, found 2"])
        self.fails("score", "--hyp", self.put("bad", b"a\n\xff\n"), "--ref", ref,
                   says=["bad: line 2", "UTF-8"])
        self.fails("score", "--hyp", self.put("none", ""), "--ref", "none", says="none")


class Directions(train_test.TrainCase):
    TASK = ["--task", "translate"]

    def info(self, out):
        return json.loads(self.must("info", "-m", self.dir / out, "--json"))["task"]

    def test_several_directions(self):
        lines = train_test.text(60).splitlines()
        self.put("a.en", "".join(line + "\n" for line in lines))
        self.put("a.ja", "".join(line[::-1] + "\n" for line in lines))
        command = ["train", *self.TASK, *self.SMALL, "--tokenizer", "bpe:80", "--context", 100,
                   "--max-steps", 4]
        done = self.call(*command, "--data", "a.en", "a.ja", "--both-directions", "--out", "run")
        self.assertRegex(done.stderr.decode(), "108 pairs\nvalid: .* 12 pairs\n")  # 60, twice
        both = {"task": "translate", "source_tag": "<en>", "target_tag": "<ja>",
                "directions": [["<en>", "<ja>"], ["<ja>", "<en>"]]}
        self.assertEqual(self.info("run"), both)
        self.assertEqual(self.info("run/best"), both)
        translate = lambda *flags: self.must("translate", "-m", "run", *flags, input="the dog\n")
        forth = translate()
        self.assertEqual(forth, translate("--target-tag", "<ja>"))
        back = translate("--source-tag", "<ja>")
        self.assertEqual(back, translate("--target-tag", "<en>"))
        self.assertEqual(back, translate("--source-tag", "<ja>", "--target-tag", "<en>"))
        self.assertNotEqual(forth, back)
        self.fails("translate", "-m", "run", "--target-tag", "<de>", input="a\n",
                   says=['target_tag: ', '"<de>"', "<en> to <ja>, <ja> to <en>"])
        for flags, files, tokens in (([], ["a.en", "a.ja"], "char"),
                                     (["--source-tag", "<ja>"], ["a.ja", "a.en"], "13a")):
            found = json.loads(self.must("eval", "-m", "run", "--data", *files, *flags,
                                         "--max-length-factor", 0, "--json"))
            self.assertEqual(found["pairs"], 60)
            self.assertEqual([found["source_tag"], found["target_tag"]],
                             both["directions"][files[0] == "a.ja"])
            self.assertIn(f"tok:{tokens}|", found["bleu"]["signature"])
        # The same pairs with their tags in the file, some of them of a third language.
        rows = [{"source_tag": s, "target_tag": t, "prompt": a, "completion": a[::-1]}
                for s, t, n in (("<en>", "<ja>", 40), ("<ja>", "<en>", 30), ("<en>", "<fr>", 20))
                for a in lines[:n]]
        self.put("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        own = [*command, "--data", "a.jsonl", "--out", "own"]
        error = self.call(*own).stderr.decode()
        self.assertIn('a.jsonl: line 71: the tokenizer has no token "<fr>"', error)
        self.assertIn("tags adds it", error)
        self.must(*own, "--tags", "<fr>", "<en>")
        self.assertEqual(self.info("own")["directions"],
                         [*both["directions"], ["<en>", "<fr>"]])
        for direction, pairs in zip(self.info("own")["directions"], (40, 30, 20)):
            found = json.loads(self.must("eval", "-m", "own", "--data", "a.jsonl", "--json",
                                         "--source-tag", direction[0], "--target-tag",
                                         direction[1], "--max-length-factor", 0))
            self.assertEqual(found["pairs"], pairs)
        self.fails("eval", "-m", "own", "--data", "a.jsonl", "--source-tag", "<fr>",
                   "--target-tag", "<en>", says="a.jsonl: expected pairs from <fr> to <en>, found none")
        # A prepared file says itself what is in it.
        self.must("prepare", *self.TASK, "--data", "a.en", "a.ja", "--both-directions",
                  "--tokenizer", "run", "--out", "a.tokens")
        self.must("train", *self.TASK, *self.SMALL, "--data", "a.tokens", "--tokenizer", "run",
                  "--context", 100, "--max-steps", 4, "--out", "prepared")
        self.assertEqual(self.info("prepared"), both)
        self.assertEqual(self.weights("prepared"), self.weights("run"))

    def test_tags_come_from_names(self):
        lines = "".join(line + "\n" for line in train_test.text(30).splitlines())
        for name in ("b.de", "b.fr", "x.txt", "y.txt"):
            self.put(name, lines)
        self.put("p.tsv", "".join(f"{line}\t{line}\n" for line in lines.splitlines()))
        self.put("o.jsonl", "".join(json.dumps({
            "source_tag": "<sv>", "target_tag": "<da>", "prompt": line, "completion": line}) + "\n"
            for line in lines.splitlines()))
        command = ["train", *self.TASK, *self.SMALL, "--tokenizer", "char", "--context", 200,
                   "--max-steps", 1]
        for out, data, flags, tags in (
                ("a", ["b.de", "b.fr"], [], ["<de>", "<fr>"]),
                ("b", ["b.de", "b.fr"], ["--source-tag", "<x>"], ["<x>", "<fr>"]),
                ("c", ["x.txt", "y.txt"], [], ["<source>", "<target>"]),
                ("d", ["p.tsv"], [], ["<source>", "<target>"]),
                ("e", ["p.tsv"], ["--source-tag", "<a>", "--target-tag", "<b>"], ["<a>", "<b>"]),
                ("f", ["o.jsonl"], [], ["<sv>", "<da>"])):
            with self.subTest(data=data, flags=flags):
                done = self.call(*command, "--data", *data, *flags, "--out", out)
                self.assertEqual(done.returncode, 0, done.stderr)
                info = self.info(out)
                self.assertEqual([info["source_tag"], info["target_tag"]], tags)
                self.assertEqual(b"does not say its languages" in done.stderr, out in "cd")
                tokens = json.loads((self.dir / out / "tokenizer.json").read_text())
                self.assertNotIn("<en>", tokens["model"]["vocab"])
        # A run goes on with the tags that it has.
        self.must("train", "--resume", "a", "--max-steps", 2)
        self.assertEqual(self.info("a")["source_tag"], "<de>")
        done = self.call("prepare", *self.TASK, "--data", "b.de", "b.fr", "--tokenizer", "char",
                         "--out", "p.tokens")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("<fr>", json.loads((self.dir / "p.tokenizer" / "tokenizer.json").read_text())
                      ["model"]["vocab"])

    def test_tags_in_prompts(self):
        lines = train_test.text(60).splitlines()
        pairs = self.put("p.tsv", "".join(f"{a}\t{a[::-1]}\n" for a in lines))
        for tokenizer in ("char", "bpe:80", "byte-bpe:300"):
            out = tokenizer.replace(":", "-")
            self.must("train", *self.TASK, *self.SMALL, "--data", pairs, "--tokenizer", tokenizer,
                      "--source-tag", "<en>", "--target-tag", "<ja>",
                      "--context", 150, "--max-steps", 4, "--out", out)
            generate = lambda prompt: json.loads(self.must(
                "generate", "-m", out, "-p", prompt, "-n", 8, "--temp", 0, "--json"))
            plain = generate("<en>the dog<ja>")
            spaced = generate("<en> the dog  <ja> ")
            for key in ("prompt_tokens", "text", "tokens"):
                self.assertEqual(spaced[key], plain[key], tokenizer)
            # It is what `translate` reads: two tags and the text.
            ids = self.must("tokenizer", "encode", "-m", out, input="the dog").split()
            self.assertEqual(plain["prompt_tokens"], 2 + len(ids), tokenizer)

    def test_buckets_and_long_pairs(self):
        lines = train_test.text(200).splitlines()
        lines[6] = ""
        lines[16] = lines[149] = "the lazy dog sleeps " * 9
        self.put("a.en", "".join(line + "\n" for line in lines))
        self.put("a.ja", "".join(line + "\n" for line in lines))
        command = ["train", *self.TASK, *self.SMALL, "--data", "a.en", "a.ja", "--tokenizer",
                   "bpe:90", "--context", 60, "--max-tokens", 400, "--max-steps", 2]
        error = self.refuses([*command, "--out", "run"],
                             ["a.en: line 17: a pair of ", "expected at most 60", "--skip-long"])
        self.assertNotIn("line 150", error)
        self.refuses([*command, "--skip-long", "--max-tokens", 1, "--out", "run"],
                     "no pair is at most 1")

        def efficiency(*flags):
            done = self.call(*command, "--skip-long", *flags)
            error = done.stderr.decode()
            self.assertEqual(done.returncode, 0, error)
            self.assertIn("train: 1 left out for having no text", error)
            for line in (17, 150):
                self.assertIn(f"a.en: line {line}: a pair of ", error)
            self.assertEqual(error.count("expected at most 60: left out"), 2)
            found = re.search(r"padding efficiency (\S+) % \(\d+ batches\), (\d+) skipped", error)
            self.assertEqual(found[2], "1")  # the other is in the half to evaluate on
            return float(found[1])

        bucketed = efficiency("--out", "run", "--valid-split", 0.5)
        mixed = efficiency("--out", "mixed", "--valid-split", 0.5, "--buckets", "false")
        self.assertGreater(bucketed, 85)
        self.assertLess(mixed, 75)
        # Going on does not need the text any more.
        (self.dir / "a.en").unlink()
        self.must("train", "--resume", "run", "--max-steps", 3)


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

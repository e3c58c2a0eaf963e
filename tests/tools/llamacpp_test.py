#!/usr/bin/env python3
"""Tests what bench/rivals/llamacpp does before and after llama.cpp itself: that the same weights in
both engines' files are one model, that wrong ones are refused, the table and the pages.

usage: llamacpp_test.py PROJECT_ROOT REFRAIN [unittest's arguments]

Standard library only. What llama.cpp computes from a GGUF file's tensors is computed here, by plain
loops over a tiny model.
"""
import argparse
import array
import contextlib
import io
import json
import math
import operator
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv[1]).resolve()
REFRAIN = os.path.abspath(sys.argv[2])
sys.path[1:1] = [str(ROOT / "bench/rivals/llamacpp"), str(ROOT / "bench/rivals"), str(ROOT / "tools")]
import benchmarks
import common
import compare
import layout
import rows
import table

SHAPE = layout.Shape(layers=2, width=32, heads=4, kv_heads=2, d_ff=64, vocab=67, context=128)
LOOSEST = max(max(t.tolerance, t.decoded) for t in rows.TYPES)


def dot(x, y):
    return math.fsum(map(operator.mul, x, y))


def product(matrix, x):
    return [dot(row, x) for row in matrix]


def normed(x, weight, eps):
    scale = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [v * scale * w for v, w in zip(x, weight)]


def rotated(x, heads, position, theta):
    """Pairs of neighbours, as in GGUF files of this architecture."""
    size, out = len(x) // heads, []
    for i in range(0, len(x), 2):
        angle = position * theta ** (-(i % size) / size)
        c, s = math.cos(angle), math.sin(angle)
        out += [x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c]
    return out


def attended(q, keys, values, shape):
    size, out = shape.width // shape.heads, []
    for h in range(shape.heads):
        at = h * shape.kv_heads // shape.heads * size
        mine = q[h * size:(h + 1) * size]
        scores = [dot(mine, k[at:at + size]) / math.sqrt(size) for k in keys]
        top = max(scores)
        weights = [math.exp(s - top) for s in scores]
        total = sum(weights)
        out += [dot(weights, [v[at + i] for v in values]) / total for i in range(size)]
    return out


def forward(shape, w, ids):
    """The logits of each token, from the tensors of a GGUF file by their names."""
    cache, all_logits = [([], []) for _ in range(shape.layers)], []
    for position, token in enumerate(ids):
        x = w["token_embd"][token]
        for i, (keys, values) in enumerate(cache):
            own = lambda name: w[f"blk.{i}.{name}"]
            y = normed(x, own("attn_norm"), shape.eps)
            q = rotated(product(own("attn_q"), y), shape.heads, position, shape.rope_theta)
            keys.append(rotated(product(own("attn_k"), y), shape.kv_heads, position,
                                shape.rope_theta))
            values.append(product(own("attn_v"), y))
            x = list(map(operator.add, x, product(own("attn_output"),
                                                  attended(q, keys, values, shape))))
            y = normed(x, own("ffn_norm"), shape.eps)
            gates, ups = product(own("ffn_gate"), y), product(own("ffn_up"), y)
            y = [g / (1 + math.exp(-g)) * u for g, u in zip(gates, ups)]
            x = list(map(operator.add, x, product(own("ffn_down"), y)))
        head = w["token_embd" if shape.tied else "output"]
        all_logits.append(product(head, normed(x, w["output_norm"], shape.eps)))
    return all_logits


def drawn(shape, seed=1):
    """Tensor -> random values, with the deviations that write.py draws with."""
    draw, made = random.Random(seed), {}
    for t in layout.tensors(shape):
        made[t] = array.array("f", (draw.gauss(t.mean, t.deviation) for _ in range(t.count)))
    return made.__getitem__


def gguf_tensors(shape, values, plant=None):
    """The tensors of a GGUF file, as rows, of what layout's directory has."""
    found = {}
    for t in layout.tensors(shape):
        x = values(t).tolist()
        if t.columns:
            x = [x[i * t.columns:(i + 1) * t.columns] for i in range(t.rows)]
        if t.heads and not (plant == "unpermuted" and t.gguf.endswith("attn_q")):
            x = [x[i] for i in layout.adjacent_pairs(t.rows, t.heads)]
        if plant == "scaled" and t.gguf == "blk.0.ffn_up":
            x = [[2 * v for v in row] for row in x]
        found[t.gguf] = x
    return found


def flat(all_logits):
    return array.array("f", (v for row in all_logits for v in row))


class Folder(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = pathlib.Path(made.name)

    def refrain(self, *words):
        done = subprocess.run([REFRAIN, *map(str, words)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def logits(self, directory, ids):
        out = self.folder / "logits.safetensors"
        self.refrain("logits", "-m", directory, "--ids", " ".join(map(str, ids)), "--out", out)
        return layout.read_rows(out, "logits")


class Files(Folder):
    IDS = random.Random(2).choices(range(SHAPE.vocab), k=24)

    def off(self, shape=SHAPE, plant=None):
        """Of what GGUF's tensors give, from what refrain computes with the directory."""
        directory, values = self.folder / "model", drawn(shape)
        layout.write_directory(directory, shape, values)
        self.assertEqual(layout.read_shape(directory), shape)
        wanted, columns = self.logits(directory, self.IDS)
        self.assertEqual(columns, shape.vocab)
        self.assertLess(compare.constant_share(wanted, columns), table.MOST_CONSTANT)
        return compare.off(flat(forward(shape, gguf_tensors(shape, values, plant), self.IDS)), wanted)

    def test_both_files_are_one_model(self):
        self.assertLess(self.off(), 1e-4)
        self.assertLess(self.off(layout.Shape(layers=1, width=32, heads=2, kv_heads=1, d_ff=32,
                                              vocab=70, rope_theta=500.0, eps=1e-3, tied=False)),
                        1e-4)

    def test_wrong_weights_show(self):
        for plant in ("unpermuted", "scaled"):
            self.assertGreater(self.off(plant=plant), 2 * LOOSEST, plant)

    def test_a_text_is_its_ids(self):
        directory = self.folder / "model"
        layout.write_directory(directory, SHAPE, drawn(SHAPE))
        said = json.loads(self.refrain("generate", "-m", directory, "-p", layout.text_of(self.IDS),
                                       "--max-new-tokens", 5, "--temp", 0, "--ignore-eos", "--json"))
        self.assertEqual(said["prompt_tokens"], len(self.IDS))
        ids = [token["id"] for token in said["tokens"]]
        logprobs = [token["logprob"] for token in said["tokens"]]
        self.assertEqual(said["text"], layout.text_of(ids))
        self.assertEqual(len(ids), 5)
        values, columns = self.logits(directory, [*self.IDS, *ids[:-1]])
        values = values[(len(self.IDS) - 1) * columns:]
        self.assertLess(compare.chosen_off(values, columns, ids, logprobs), 1e-4)
        others = [(token + 1) % SHAPE.vocab for token in ids]
        self.assertGreater(compare.chosen_off(values, columns, others, logprobs), LOOSEST)
        self.assertGreater(compare.chosen_off(values, columns, ids, [p - 9 for p in logprobs]),
                           LOOSEST)
        self.assertEqual(compare.chosen_off(values, columns, ids, [math.nan] * 5), math.inf)
        self.assertEqual(compare.chosen_off(values, columns, ids[:4], logprobs), math.inf)

    def test_every_id_has_a_character(self):
        vocab = 60000
        self.assertEqual(len({layout.character(i) for i in range(vocab)}), vocab)
        self.assertTrue(all(layout.character(i).isprintable() for i in range(0, vocab, 7)))

    def test_order_of_rows(self):
        self.assertEqual(layout.adjacent_pairs(8, 2), [0, 2, 1, 3, 4, 6, 5, 7])
        for rows_, heads in ((64, 1), (96, 6), (48, 3)):
            order = layout.adjacent_pairs(rows_, heads)
            self.assertEqual([order[i] for i in layout.halves(rows_, heads)], list(range(rows_)))

    def test_sizes_are_what_the_titles_say(self):
        for model in rows.MODELS:
            if model.random:
                millions = float(model.title.split()[0])
                self.assertAlmostEqual(layout.parameters(model.shape) / 1e6, millions, delta=0.6)

    def test_too_few_values(self):
        with self.assertRaisesRegex(ValueError, "not as many"):
            layout.write_safetensors(self.folder / "x", [("x", [2, 2])], [array.array("f", [1.0])])

    def test_bandwidth(self):
        if not shutil.which("cc"):
            self.skipTest("no C compiler named cc")
        program = self.folder / "bandwidth"
        subprocess.run(["cc", "-O2", "-pthread", ROOT / "bench/rivals/llamacpp/bandwidth.c", "-o",
                        program], check=True)
        for threads in ("1", "3"):
            said = subprocess.run([program, threads, "4", "3"], capture_output=True, text=True,
                                  check=True)
            self.assertGreater(float(said.stdout), 1e6)
        self.assertEqual(subprocess.run([program, "0", "4", "3"], capture_output=True).returncode, 2)


class Comparisons(unittest.TestCase):
    def test_off(self):
        wanted = [1.0, -1.0, 1.0, -1.0]
        self.assertEqual(compare.off(wanted, wanted), 0)
        self.assertAlmostEqual(compare.off([1.0, -1.0, 1.25, -1.0], wanted), 0.25)
        for wrong in ([1.0, math.nan, 1.0, -1.0], [math.inf, -1.0, 1.0, -1.0], wanted[:3]):
            self.assertEqual(compare.off(wrong, wanted), math.inf)
        self.assertEqual(compare.off([2.0, 2.0], [2.0, 2.0]), math.inf)  # nothing to tell them by
        self.assertEqual(compare.off([], []), math.inf)

    def test_constant_share(self):
        self.assertAlmostEqual(compare.constant_share([1.0, 2.0, 4.0] * 5, 3), 1)
        self.assertAlmostEqual(compare.constant_share([1.0, -1.0, -1.0, 1.0], 2), 0)
        self.assertEqual(compare.constant_share([0.0] * 6, 3), 1)


class FakeTable(table.Table):
    """Of a tiny model, in whose place of llama.cpp stands `forward`."""
    plant_text = False

    def head(self):
        return common.machine("refrain 1.2.3", "llama-cpp-python 4.5.6")

    def measure_bandwidth(self):
        self.bandwidths.append(1e9)

    def write(self, verb, *words):
        if verb == "draw":
            layout.write_directory(words[1], SHAPE, drawn(SHAPE))
        elif verb == "gguf":
            plant = words[words.index("--plant") + 1] if "--plant" in words else None
            words[2].write_text(json.dumps(gguf_tensors(SHAPE, drawn(SHAPE), plant)))
        else:
            raise common.Failed(f"{verb}: not in this test")

    def decode(self, file, ids, *words):
        w, words = json.loads(file.read_text()), dict(zip(words[::2], words[1::2]))
        if "--logits" in words:
            found = forward(SHAPE, w, ids)
            layout.write_safetensors(words["--logits"], [("logits", [len(ids), SHAPE.vocab])],
                                     [flat(found)])
            return ""
        new, logprobs = [], []
        for _ in range(words["--new-tokens"]):
            row = forward(SHAPE, w, [*ids, *new])[-1]
            new.append(row.index(max(row)))
            logprobs.append(-math.log(sum(math.exp(v - max(row)) for v in row)))
        if self.plant_text:
            new[1] = (new[1] + 1) % SHAPE.vocab
        return json.dumps({"ids": new, "logprobs": logprobs, "prompt_seconds": 0.5,
                           "generation_seconds": 0.25, "stored_bytes": 1 << 20,
                           "memory_bytes": 8 << 20, "features": ["AVX512"]})


class Tables(Folder):
    def setUp(self):
        super().setUp()
        models, types = rows.MODELS, rows.TYPES
        self.addCleanup(lambda: (setattr(rows, "MODELS", models), setattr(rows, "TYPES", types)))
        rows.MODELS = (rows.Model("tiny", "a tiny model", SHAPE),)

    def made(self, types="f32", plant=None, plant_text=False):
        """The table, and its page."""
        page = self.folder / "machine.md"
        args = argparse.Namespace(refrain=REFRAIN, python=None, models=["*"], types=[types],
                                  rounds=2, prompt=table.CHECKED, new_tokens=3, threads=1, limit=100,
                                  page=page, plant=plant, cache_type="bf16")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = FakeTable(args, self.folder)
            found.plant_text = plant_text
            found.print_all(rows.MODELS)
        return found, page

    def cells(self, page, name):
        found = [line for line in page.read_text().splitlines() if line.startswith(f"| {name} |")]
        self.assertEqual(len(found), 1, page.read_text())
        return [cell.strip() for cell in found[0].strip("|").split("|")]

    def test_both_are_measured(self):
        _, page = self.made()
        theirs = self.cells(page, "llama.cpp, F32")
        # Two tokens in 0.25 s, of 1 MiB each at 1 GB/s; 64 tokens in 0.5 s.
        self.assertEqual(theirs[1:6], ["8", "1 %", "128", "8", "1"])
        self.assertLess(float(theirs[6]), 1e-4)
        ours = self.cells(page, "refrain, f32")
        self.assertGreater(float(ours[1].replace(",", "")), 0)
        self.assertEqual(ours[6], "")
        summary = self.cells(page, "a tiny model, f32")
        self.assertEqual(len(summary), 7)
        self.assertEqual(summary[2], "8")

    def test_wrong_models_are_refused(self):
        for plant in ("unpermuted", "scaled"):
            _, page = self.made(plant=plant)
            self.assertEqual(self.cells(page, "llama.cpp, F32")[1:], ["-"] * 6)
            self.assertIn("- llama.cpp, F32: refused: the logits of the first", page.read_text())
            self.assertNotIn("| a tiny model, f32 |", page.read_text())

    def test_wrong_texts_are_refused(self):
        _, page = self.made(plant_text=True)
        self.assertEqual(self.cells(page, "llama.cpp, F32")[1:], ["-"] * 6)
        self.assertIn("refused: what was generated is off by", page.read_text())

    def test_what_fails_has_its_reason(self):
        _, page = self.made(types="q8_0")
        self.assertEqual(self.cells(page, "refrain, q8_0")[1:], ["-"] * 6)
        self.assertIn("- llama.cpp, Q8_0: directory: not in this test", page.read_text())

    def test_pages_have_parts(self):
        page = self.folder / "machine.md"
        common.put_part(page, "Beside PyTorch", "a CPU, 2 cores, AVX-512, VNNI; a version; a day.\n\n"
                        "| work | r | p | ratio | f | l | m |\n|---|\n"
                        "| w | 10 (bf16) | 5 (sdpa) | 2.00 | 1.5 |  | 50 % |\n\n### w\n\n")
        self.made()
        self.made()  # in the place of the first
        text = page.read_text()
        self.assertTrue(text.startswith("# Beside PyTorch: machine\n\na CPU"))
        self.assertEqual(text.count("# Decoding, beside llama.cpp: machine"), 1)
        self.assertEqual([title for title, _ in common.parts(text)],
                         ["Beside PyTorch", "Decoding, beside llama.cpp"])
        blank = "top\n" + "".join(begin + benchmarks.END for begin, _, _ in benchmarks.TABLES)
        once = benchmarks.fill(blank, self.folder)
        self.assertIn("| w | a CPU, VNNI | 10 (bf16) | 5 (sdpa) | **2.00** | 50 % | "
                      "[page](benchmarks/machine.md) |", once)
        self.assertRegex(once, r"\| a tiny model, f32 \| [^|]+ \| [\d,]+ \| 8 \| \*\*[\d.]+\*\* \| ")
        self.assertEqual(benchmarks.fill(once, self.folder), once)
        page.unlink()
        self.assertNotIn("llama.cpp", benchmarks.fill(once, self.folder))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])

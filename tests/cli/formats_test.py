#!/usr/bin/env python3
"""Tests of the files that models come in, as their users meet them: settings nobody knows, pipes
where files should be, files that claim more than they hold.

usage: formats_test.py REFRAIN [unittest's arguments]
"""
import json
import os
import pathlib
import struct
import subprocess
import sys
import unittest

import cli_test

MIB = 1 << 20

# A process of its own, since the system counts what the parent has into the memory of a new child.
MEASURE = """import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                       file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss, os.waitstatus_to_exitcode(status))"""


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class FormatsCase(cli_test.Case):
    def with_settings(self, **settings):
        config = json.loads((self.model / "config.json").read_text())
        return self.broken_model(config__json=json.dumps(config | settings))

    def memory_of(self, *arguments):
        """Bytes that a call takes at most, and what it says on standard error."""
        done = subprocess.run([sys.executable, "-S", "-c", MEASURE, cli_test.REFRAIN,
                               *map(str, arguments)], cwd=self.dir, capture_output=True, text=True,
                              timeout=120)
        kilobytes, status = map(int, done.stdout.split())
        self.assertEqual(status, 2, done.stderr)
        return 1024 * kilobytes, done.stderr


class Settings(FormatsCase):
    def test_unknown_settings_are_noted_once(self):
        model = self.with_settings(unk_token_id=0, _model_name_or_path="a\nb", do_sample=True)
        ids = ["--ids", "3 4 5", "--out"]
        self.must("logits", "-m", self.model, *ids, "plain")
        for verb in (["logits", "-m", model, *ids, "odd"], ["info", "-m", model],
                     ["generate", "-m", model, "-p", "the", "-n", 2],
                     ["convert", "--from", "hf", model, "--out", "out"]):
            done = self.call(*verb)
            error = done.stderr.decode()
            self.assertEqual(done.returncode, 0, error)
            self.assertEqual(error.count(
                f'{model}/config.json: unknown settings left aside: "unk_token_id", '
                '"_model_name_or_path", "do_sample"\n'), 1, error)
        self.assertEqual((self.dir / "plain").read_bytes(), (self.dir / "odd").read_bytes())
        self.assertEqual(self.call("info", "-m", self.dir / "out").stderr, b"")

    def test_known_and_unsupported_settings_are_refused(self):
        model = self.with_settings(unk_token_id=0, final_logit_softcapping=30.0)
        error = self.fails("info", "-m", model, says='"final_logit_softcapping"')
        self.assertNotIn("unk_token_id", error)

    def test_a_damaged_speed_cache_costs_time_only(self):
        cache = self.dir / "cache" / "refrain"
        cache.mkdir(parents=True)
        env = {**os.environ, "XDG_CACHE_HOME": str(self.dir / "cache"), "TMPDIR": str(self.tmp)}
        plan = ["plan", "--vocab-size", 60, "--layers", 1, "--d-model", 16, "--heads", 2,
                "--context", 16, "--batch-size", 4, "--json"]
        call = lambda: subprocess.run([cli_test.REFRAIN, *cli_test.override(plan)], capture_output=True,
                                      text=True, env=env, timeout=120)
        self.assertEqual(call().returncode, 0)
        file = cache / "speed.json"
        (key, good), = json.loads(file.read_text()).items()
        for bad in ({"seconds_per_operation": "1", "seconds_per_parameter": 1},
                    {"seconds_per_operation": 1e-9, "seconds_per_parameter": [1]},
                    {"seconds_per_operation": {}}, {"seconds_per_operation": -1}, {}, [], 7, "x",
                    [good]):
            file.write_text(json.dumps({key: bad}))
            done = call()
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("speed.json", done.stderr)
            self.assertIn("measuring again", done.stderr)
            (_, kept), = json.loads(file.read_text()).items()
            self.assertGreater(kept["seconds_per_operation"], 0)
        for bad in ("[]", "7", "null", "{", "", "\xff"):
            file.write_bytes(bad.encode("latin-1"))
            self.assertEqual(call().returncode, 0)
            self.assertIn(key, json.loads(file.read_text()))
        file.unlink()
        os.mkfifo(file)
        done = call()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("expected a regular file", done.stderr)


class Gguf(FormatsCase):
    """Files of llama.cpp, where verbs take a model."""

    def gguf(self, name="m.gguf", *arguments):
        self.must("convert", "--to", "gguf", "-m", self.model, "--out", name, *arguments)
        return self.dir / name

    def test_a_file_is_the_model_that_it_was_made_of(self):
        file = self.gguf()
        self.must("convert", "--from", "gguf", file, "--out", "back")
        for name in ("model.safetensors", "config.json", "generation_config.json"):
            self.assertEqual((self.dir / "back" / name).read_bytes(), (self.model / name).read_bytes())
        for verb in (["generate", "-p", "the ", "-n", 20, "--temp", 0], ["verify"],
                     ["tokenizer", "encode", "--input", self.put("t.txt", "the cat")]):
            texts = {self.must(*verb, "-m", model) for model in (self.model, file, "back")}
            self.assertEqual(len(texts), 1, verb)
        scores = [json.loads(self.must("eval", "--data", "t.txt", "--json", "-m", model))["loss"]
                  for model in (self.model, file)]
        self.assertEqual(scores[0], scores[1])
        ids = ["logits", "--ids", "3 4 5", "--out"]
        self.must(*ids, "a", "-m", self.model)
        self.must(*ids, "b", "-m", file)
        self.assertEqual((self.dir / "a").read_bytes(), (self.dir / "b").read_bytes())
        again = self.gguf("again.gguf")
        self.assertEqual(again.read_bytes(), file.read_bytes())

    def test_templates_are_handed_on(self):
        model = self.broken_model(chat_template__jinja="{{ messages }}\n")
        self.must("convert", "--to", "gguf", "-m", model, "--out", "t.gguf")
        for kind, place, out in ("gguf", "t.gguf", "g"), ("hf", model, "h"):
            self.must("convert", "--from", kind, place, "--out", out)
            self.assertEqual((self.dir / out / "chat_template.jinja").read_text(), "{{ messages }}\n")

    def test_what_is_not_possible_is_refused_in_a_line(self):
        file = self.gguf()
        data = file.read_bytes()
        for bad, says in ((b"GGUF", "not a GGUF file"), (data[:-1], "bytes of data"),
                          (data[:100], "follow"), (data[:16] + b"\xff" * 8 + data[24:], "of them")):
            (self.dir / "bad.gguf").write_bytes(bad)
            for verb in (["info"], ["generate", "-p", "the"], ["verify"], ["logits", "--ids", "1", "--out", "o"]):
                self.fails(*verb, "-m", "bad.gguf", says=["bad.gguf", says])
            self.fails("convert", "--from", "gguf", "bad.gguf", "--out", "o", says=says)
        self.assertFalse((self.dir / "o").exists())
        self.fails("info", "-m", self.put("x.txt", "x"), says="expected a model directory or a GGUF file")
        self.fails("convert", "--from", "gguf", self.model, "--out", "o", says="expected a GGUF file")
        self.fails("convert", "--to", "gguf", "-m", self.model, "--out", file, "--type", "q5", says="--type")
        self.fails("convert", "--to", "onnx", "-m", self.model, "--out", "o", says="--to: expected gguf")
        self.fails("convert", "--to", "gguf", "-m", file, "--out", file, says="expected another file")
        self.fails("convert", "--to", "gguf", "-m", self.model, "--out", self.model / "config.json",
                   says="expected another file")
        self.fails("convert", "--from", "hf", self.model, "--out", "o", "--type", "q8_0", says="--type")
        self.fails("convert", "--from", "hf", self.model, "--out", "o", "--without-tokenizer",
                   says="--to gguf")
        self.fails("reconstruct", "-m", file, says="found a language model")
        self.assertEqual(file.read_bytes(), data)


class Pipes(FormatsCase):
    """A pipe that nobody writes to, where a directory has a file."""

    def test_pipes_in_a_model_directory_are_refused(self):
        for name in ("config.json", "generation_config.json", "model.safetensors",
                     "tokenizer.json", "refrain.json"):
            with self.subTest(name):
                model = self.broken_model()
                (model / name).unlink(missing_ok=True)
                os.mkfifo(model / name)
                self.fails("generate", "-m", model, "-p", "the", says=[name, "regular file"])
                cli_test.shutil.rmtree(model)
        model = self.broken_model(model__safetensors=None)
        os.mkfifo(model / "model.safetensors.index.json")
        self.fails("info", "-m", model, says=["index.json", "regular file"])

    def test_pipes_of_an_autoencoder(self):
        text = self.put("poems.txt", "the cat sat on the mat and ran\n" * 60)
        self.must("train", "--task", "reconstruct", "--data", text, "--out", "run", "--embeddings",
                  "random", "--autoencoder.hidden", 8, "--autoencoder.layers", 1,
                  "--autoencoder.heads", 2, "--autoencoder.bottleneck", 4, "--embedding-width", 4,
                  "--window", 6, "--min-window", 3, "--max-steps", 1, "--valid-split", 0)
        for name in ("vocab.txt", "embeddings.safetensors", "config.json"):
            file = self.dir / "run" / name
            content = file.read_bytes()
            file.unlink()
            os.mkfifo(file)
            self.fails("reconstruct", "-m", "run", "--input", text, says=[name, "regular file"])
            file.unlink()
            file.write_bytes(content)

    def test_pipes_that_are_meant_are_read(self):
        text = self.put("t.txt", "the cat sat on the mat\n" * 20)
        settings = json.dumps({"max_steps": 1, "layers": 1, "d_model": 16, "heads": 2,
                               "context": 16})
        self.must("train", "--config", "/dev/stdin", "--data", text, "--out", "a", input=settings)
        read, write = os.pipe()
        os.write(write, settings.encode())
        os.close(write)
        self.must("train", "--config", f"/dev/fd/{read}", "--data", text, "--out", "b",
                  pass_fds=[read])
        os.close(read)
        self.assertEqual((self.dir / "a" / "model.safetensors").read_bytes(),
                         (self.dir / "b" / "model.safetensors").read_bytes())


class Claims(FormatsCase):
    """What a file claims is held against its size before memory is taken."""

    def setUp(self):
        super().setUp()
        self.plain, _ = self.memory_of("info", "-m", "none")

    def claims(self, *arguments, says, bytes):
        used, said = self.memory_of(*arguments)
        if not cli_test.sanitized():
            self.assertLess(used - self.plain, bytes, said)
        self.assertIn(says, said)

    def test_config_of_17_megabytes(self):
        model = self.broken_model(config__json='{"model_type":"llama","x":[' + "[]," * 5_600_000
                                               + "0]}")
        self.claims("info", "-m", model, says="longer than 1048576 bytes", bytes=16 * MIB)

    def test_config_of_the_largest_size(self):
        model = self.broken_model(config__json='{"model_type":"llama","x":[' + "[]," * 349_500
                                               + "0]}")
        self.claims("info", "-m", model, says="vocab_size: missing", bytes=48 * MIB)

    def test_header_of_many_tensors(self):
        entries = (b'"%d":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}' % (i, i, i + 1)
                   for i in range(400_000))
        file = safetensors(b"{" + b",".join(entries) + b"}", bytes(400_000))
        model = self.broken_model(model__safetensors=file)
        self.claims("info", "-m", model, says="expected the settings of a model of 0 weights",
                    bytes=5 * len(file))

    def test_header_of_long_shapes_and_much_metadata(self):
        shape = b"[" + b"1," * 60_000 + b"1]"
        entries = (b'"%d":{"dtype":"U8","shape":%s,"data_offsets":[%d,%d]}' % (i, shape, i, i + 1)
                   for i in range(120))
        file = safetensors(b"{" + b",".join(entries) + b"}", bytes(120))
        model = self.broken_model(model__safetensors=file)
        self.claims("info", "-m", model, says="expected the settings of a model of 0 weights",
                    bytes=8 * len(file))
        pairs = b",".join(b'"%d":""' % i for i in range(1_000_000))
        (model / "model.safetensors").write_bytes(safetensors(b'{"__metadata__":{' + pairs + b"}}"))
        self.claims("info", "-m", model, says="more than 65536 JSON values", bytes=32 * MIB)

    def test_models_that_the_weights_do_not_fill(self):
        """Twice the vocabulary: not much too large, and still no memory is taken."""
        size = 16 * MIB
        file = safetensors({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}},
                           bytes(size))
        model = self.with_settings(vocab_size=240_000, tie_word_embeddings=False)
        (model / "model.safetensors").write_bytes(file)
        # The weights would be 30 MiB.
        self.claims("info", "-m", model, says="missing, expected a tensor", bytes=12 * MIB)

    def test_autoencoder_of_400_bytes(self):
        text = self.put("poems.txt", "the cat sat on the mat and ran\n" * 60)
        self.must("train", "--task", "reconstruct", "--data", text, "--out", "run", "--embeddings",
                  "learned", "--autoencoder.hidden", 8, "--autoencoder.layers", 1,
                  "--autoencoder.heads", 2, "--autoencoder.bottleneck", 4, "--embedding-width", 4,
                  "--window", 6, "--min-window", 3, "--max-steps", 1, "--valid-split", 0)
        file = self.dir / "run" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"hidden": 4096, "layers": 4}))
        self.claims("reconstruct", "-m", "run", "--input", text, says="expected shape",
                    bytes=16 * MIB)
        file.write_text(json.dumps(config | {"hidden": 65536, "layers": 64}))
        self.claims("reconstruct", "-m", "run", "--input", text, says="expected shape",
                    bytes=16 * MIB)

    def test_cells_and_llama2c(self):
        header = struct.pack("<7i", 65536, 65536, 64, 64, 64, 1 << 24, 1 << 20)
        self.put("model.bin", header + bytes(1000))
        self.claims("convert", "--from", "llama2c", "model.bin", "--tokenizer", "none", "--out",
                    "out", says="bytes for the sizes in its header", bytes=16 * MIB)
        tensors, end = {}, 0
        def add(name, *shape):
            nonlocal end
            size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            tensors[name] = {"dtype": "F32", "shape": list(shape),
                             "data_offsets": [end, end + size]}
            end += size
        add("emb.weight", 1, 4096)
        add("decoder.weight", 1, 1)
        for l in range(1000):
            add(f"rnn.weight_ih_l{l}", 4, 4096 if l == 0 else 1)
            add(f"rnn.weight_hh_l{l}", 4, 1)
        self.put("cells.safetensors", safetensors(tensors, bytes(end)))
        self.claims("convert", "--from", "torch-lstm", "cells.safetensors", "--out", "out",
                    says="times the", bytes=16 * MIB)


class Families(FormatsCase):
    GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "families"
    IDS = ["--ids", "3 1 4 1 5 9 2 6", "--out"]
    GPT2 = ["--attention.qkv_bias", "true", "--attention.output_bias", "true", "--attention.rope",
            "false", "--norm", "layer_norm", "--feed-forward", "gelu_tanh", "--feed-forward-bias",
            "--learned-positions", "--kv-heads", "4", "--tie-embeddings"]

    def logits(self, model):
        self.must("logits", "-m", model, *self.IDS, "logits")
        return (self.dir / "logits").read_bytes()

    def test_golden_models_convert(self):
        for model in sorted(self.GOLDEN.iterdir()):
            with self.subTest(model.name):
                told = json.loads(self.must("info", "-m", model, "--json"))
                self.assertEqual(told["model_type"], model.name.split("_")[0])
                logits = self.logits(model)
                out = f"{model.name} written"
                self.must("convert", "--from", "hf", model, "--out", out)
                self.assertEqual(self.logits(out), logits)
                self.must("convert", "--from", "hf", model, "--out", out + " bf16", "--type",
                          "bf16", "--max-shard-size", "4K")
                self.assertGreater(len(list((self.dir / (out + " bf16")).glob("model-*"))), 1)
                if json.loads((model / "config.json").read_text())["dtype"] == "bfloat16":
                    self.assertEqual(self.logits(out + " bf16"), logits)

    def test_types_and_sizes(self):
        convert = ["convert", "--from", "hf", self.GOLDEN / "qwen2", "--out", "out"]
        self.fails(*convert, "--type", "q8_0", says="--type: expected f32, bf16 or f16")
        self.fails(*convert, "--max-shard-size", "12", says="--max-shard-size")
        self.assertFalse((self.dir / "out").exists())
        self.fails("train", "--data", self.put("a.txt", "the"), "--out", "run", "--pattern", "gla",
                   "--learned-positions", "--carry-state", says="no --learned-positions")

    def test_a_gpt2_trains_and_writes(self):
        data = self.put("a.txt", "the cat sat on the mat and the dog ran under a tree.\n" * 60)
        self.must("train", "--task", "lm", "--data", data, "--out", "run", "--tokenizer", "char",
                  "--layers", 2, "--d-model", 64, "--heads", 4, "--context", 24, "--batch-size", 4,
                  "--max-steps", 30, "--learning-rate", 1e-2, "--seed", 1, *self.GPT2)
        told = json.loads(self.must("info", "-m", "run", "--json"))
        self.assertEqual(told["model_type"], "gpt2")
        self.must("verify", "-m", "run")
        self.must("eval", "-m", "run", "--data", data)
        # Text goes on beyond the positions: they begin again with the later half.
        text = self.must("generate", "-m", "run", "-p", "the cat", "-n", 60)
        self.assertGreater(len(text), 60)
        self.fails("generate", "-m", "run", "-p", "the", "-n", 5, "--context", 25,
                   says="at most 24, because positions are learned, found 25")
        self.fails("eval", "-m", "run", "--data", data, "--context", 25,
                   says="at most 24 tokens, because positions are learned")
        self.must("quantize", "-m", "run", "-o", "small", "--type", "q8_0")
        self.assertEqual(json.loads(self.must("info", "-m", "small", "--json"))["storage"], "q8_0")
        self.must("verify", "-m", "small", "--tolerance", 0.1)
        self.must("generate", "-m", "small", "-p", "the cat", "-n", 60)


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

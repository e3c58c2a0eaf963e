#!/usr/bin/env python3
"""Tests of training that starts from a model: whole, in part, beside adapters, on conversations.

usage: fine_tuning_test.py REFRAIN [unittest's arguments]
"""
import json
import os
import pathlib
import struct
import sys
import unittest

import cli_test
import train_test
from train_test import sha256, text

# Two turns of a conversation, as many models write them.
TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
MARKED = ("{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}"
          "{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}"
          "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}")


def tensors(path):
    """Of a safetensors file, by name: shape and bytes."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (one["shape"], data[8 + size + one["data_offsets"][0]:
                                      8 + size + one["data_offsets"][1]])
            for name, one in header.items()}


class StartCase(train_test.TrainCase):
    LORA = ["--lora-rank", 4, "--learning-rate", 1e-2]

    def setUp(self):
        super().setUp()
        self.other = self.put("other.txt", text(200, seed=5))
        self.must(*self.lm("base", "--max-steps", 4, "--tie-embeddings"))
        self.base = self.dir / "base"

    def tune(self, out, *more):
        return ["train", "--init", self.base, "--data", self.other, "--out", self.dir / out,
                "--warmup-steps", 1, *more]

    def adapter(self, out):
        return sha256(self.dir / out / "adapter_model.safetensors")

    def logits(self, model, *more):
        self.must("logits", "-m", model, "--ids", "1 2 3 4 5", "--out", self.dir / "logits", *more)
        shape, values = tensors(self.dir / "logits")["logits"]
        return struct.unpack(f"<{len(values) // 4}f", values)


class Starting(StartCase):
    CUTS = {"two": ["--batch-size", 12, "--threads", 2],
            "micro": ["--batch-size", 4, "--gradient-accumulation-steps", 3, "--threads", 1],
            "again": ["--batch-size", 6, "--gradient-accumulation-steps", 2,
                      "--gradient-checkpointing", "blocks"]}

    def same(self, command, weights, prefix=""):
        want = None
        for name, flags in self.CUTS.items():
            self.must(*command(name, "--max-steps", 6, *flags))
            want = want or weights(name)
            self.assertEqual(weights(name), want, name)
        self.must(*command("stopped", "--max-steps", 6, "--batch-size", 12, "--stop-after", 2))
        self.assertNotEqual(weights("stopped"), want)
        self.must("train", "--resume", self.dir / f"{prefix}stopped", "--batch-size", 3,
                  "--gradient-accumulation-steps", 4, "--threads", 1)
        self.assertEqual(weights("stopped"), want)

    def test_whole(self):
        self.same(lambda out, *flags: self.tune(out, "--dropout", 0.1, *flags), self.weights)

    def test_nothing_trained_is_the_model(self):
        self.must(*self.tune("run", "--max-steps", 1, "--learning-rate", 0))
        self.assertEqual(self.weights("run"), self.weights("base"))
        self.assertEqual((self.dir / "run" / "tokenizer.json").read_text(),
                         (self.base / "tokenizer.json").read_text())

    def test_frozen(self):
        freeze = ["--freeze", "embedding", "layers.0"]
        self.same(lambda out, *flags: self.tune(out, *flags, *freeze), self.weights)
        before = tensors(self.base / "model.safetensors")
        after = tensors(self.dir / "two" / "model.safetensors")
        kept = {name for name in before if before[name] == after[name]}
        self.assertEqual(kept, {name for name in before
                                if ".layers.0." in name or "embed_tokens" in name})
        moments = tensors(self.dir / "two" / "checkpoint-6" / "optimizer.safetensors")
        self.assertTrue(moments and not any("layers.0." in name for name in moments))

    def test_adapters(self):
        for base_type in ("f32", "bf16", "q8_0"):
            with self.subTest(base_type):
                self.same(lambda out, *flags: self.tune(
                    f"{base_type}-{out}", *self.LORA, "--base-type", base_type, "--lora-dropout",
                    0.2, *flags), lambda out: self.adapter(f"{base_type}-{out}"), f"{base_type}-")

    def test_from_a_gguf_file(self):
        file = self.dir / "base.gguf"
        self.must("convert", "--to", "gguf", "--type", "f32", "-m", self.base, "--out", file)
        for out, more in (("whole", []), ("lora", self.LORA)):
            flags = ["--max-steps", 2, *more]
            self.must(*self.tune(f"{out}-dir", *flags))
            self.must("train", "--init", file, *self.tune(f"{out}-file", *flags)[3:])
            name = "adapter_model.safetensors" if more else "model.safetensors"
            self.assertEqual(sha256(self.dir / f"{out}-dir" / name),
                             sha256(self.dir / f"{out}-file" / name))

    def test_the_context_may_be_another(self):
        self.must(*self.tune("run", "--max-steps", 2, "--context", 40))
        config = json.loads((self.dir / "run" / "config.json").read_text())
        self.assertEqual(config["max_position_embeddings"], 40)

    def test_contradictions(self):
        for flags, says in (
                (["--d-model", 32], ["--d-model", "16", "32"]),
                (["--layers", 3], ["--layers", "2", "3"]),
                (["--attention.window", 4], ["--attention.window", "4"]),
                (["--tokenizer", "bpe:300"], ["--tokenizer", "--init"]),
                (["--init-std", 0.3], ["--init-std", "--init"]),
                (["--freeze", "nowhere"], ["--freeze", "nowhere"]),
                (["--freeze", "*.q_proj"], ["--freeze", "qkv_proj", "k_proj"]),
                (["--freeze", "*"], ["--freeze"]),
                (["--lora-rank", 0], ["--lora-rank", "0"]),
                (["--lora-rank", 4, "--lora-targets", "nowhere"], ["nowhere", "q_proj"]),
                (["--lora-rank", 4, "--freeze", "embedding"], ["--freeze", "--lora-rank"]),
                (["--lora-rank", 4, "--base-type", "q4"], ["--base-type", "q4"]),
                (["--lora-rank", 4, "--base-type", "bf16", "--int16"], ["--base-type", "int16"]),
                (["--lora-alpha", 3], ["--lora-alpha", "--lora-rank"])):
            with self.subTest(flags):
                self.refuses(self.tune("run", *flags), says)
        self.refuses(self.lm("run", "--lora-rank", 4), ["--lora-rank", "--init"])
        self.refuses(["train", "--init", self.dir / "nowhere", "--data", self.other, "--out",
                      self.dir / "run"], "nowhere")


class Adapters(StartCase):
    def setUp(self):
        super().setUp()
        self.must(*self.tune("lora", *self.LORA, "--lora-targets", "q_proj:2,v_proj", "up_proj",
                             "--lora-rslora", "--max-steps", 6))

    def test_fused_is_adapted(self):
        self.must("fuse", "-m", self.base, "--adapter", self.dir / "lora", "-o",
                  self.dir / "fused")
        plain = self.logits(self.base)
        adapted = self.logits(self.base, "--adapter", self.dir / "lora")
        fused = self.logits(self.dir / "fused")
        error = max(abs(a - b) for a, b in zip(adapted, fused))
        self.assertLess(error, 1e-5)
        self.assertGreater(max(abs(a - b) for a, b in zip(adapted, plain)), 100 * error)
        say = lambda *more: self.must("generate", "-p", "the", "-n", 20, "--temp", 0, *more)
        self.assertEqual(say("-m", self.base, "--adapter", self.dir / "lora"),
                         say("-m", self.dir / "fused"))
        score = lambda *more: json.loads(self.must("eval", "--data", self.other, "--json", *more))
        self.assertAlmostEqual(score("-m", self.base, "--adapter", self.dir / "lora")["loss"],
                               score("-m", self.dir / "fused")["loss"], 5)

    def test_a_state_is_of_its_adapter(self):
        state = self.dir / "state"
        lora = ["--adapter", self.dir / "lora"]
        say = ["generate", "-m", self.base, "-n", 3, "--temp", 0]
        self.must(*say, "-p", "the", "--state-out", state, *lora)
        self.must(*say, "-p", "", "--state-in", state, *lora)
        done = self.call(*say, "-p", "", "--state-in", state)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(b"state", done.stderr)

    def test_chat(self):
        self.base = self.dir / "long"
        self.must(*self.lm("long", "--max-steps", 4, "--context", 128))
        (self.base / "chat_template.jinja").write_text(MARKED)
        self.must(*self.tune("of-long", *self.LORA, "--max-steps", 6))
        self.must("fuse", "-m", self.base, "--adapter", self.dir / "of-long", "-o",
                  self.dir / "fused")
        say = lambda *more: self.call("chat", "--temp", 0, "--max-new-tokens", 12, *more,
                                      input=b"the one\nand\n")
        adapted = say("-m", self.base, "--adapter", self.dir / "of-long")
        fused = say("-m", self.dir / "fused")
        self.assertEqual(adapted.returncode, 0, adapted.stderr)
        self.assertEqual(adapted.stdout, fused.stdout)

    def test_files(self):
        config = json.loads((self.dir / "lora" / "adapter_config.json").read_text())
        self.assertEqual(config["target_modules"], ["q_proj", "up_proj", "v_proj"])
        self.assertEqual(config["rank_pattern"], {"q_proj": 2})
        names = tensors(self.dir / "lora" / "adapter_model.safetensors")
        prefix = "base_model.model.model.layers.1.self_attn."
        self.assertEqual(names[prefix + "q_proj.lora_A.weight"][0], [2, 16])
        self.assertEqual(names[prefix + "v_proj.lora_B.weight"][0], [16, 4])
        self.assertEqual(len(names), 2 * 3 * 2)

    def test_of_another_base(self):
        self.must("train", "--data", self.data, "--out", self.dir / "wide", *self.SMALL, "--d-model",
                  32, "--max-steps", 1)
        done = self.call("generate", "-m", self.dir / "wide", "--adapter", self.dir / "lora", "-p",
                         "the", "-n", 2)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"another base", done.stderr)

    def test_settings_that_change_the_function(self):
        path = self.dir / "lora" / "adapter_config.json"
        config = json.loads(path.read_text())
        for change in ({"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]},
                       {"peft_type": "LOHA"}, {"r": 0}, {"rank_pattern": {"(q|k)_proj": 2}},
                       {"lora_alpha": "many"}):
            path.write_text(json.dumps({**config, **change}))
            done = self.call("generate", "-m", self.base, "--adapter", self.dir / "lora", "-p",
                             "the", "-n", 2)
            self.assertEqual(done.returncode, 2, change)
            self.assertIn(next(iter(change)).encode(), done.stderr)


class Chats(StartCase):
    def setUp(self):
        super().setUp()
        (self.base / "chat_template.jinja").write_text(MARKED)
        lines = [{"messages": [{"role": "user", "content": f"the {i}"},
                               {"role": "assistant", "content": "and so on " * (i % 4 + 1)},
                               {"role": "user", "content": "the"},
                               {"role": "assistant", "content": f"so {i}"}]} for i in range(12)]
        lines += [{"prompt": "the one ", "completion": f"and {i}"} for i in range(6)]
        lines += [{"text": "the other " * 3}]
        self.lines = lines
        self.chats = self.put_lines("chat.jsonl", lines)

    def put_lines(self, name, lines):
        (self.dir / name).parent.mkdir(exist_ok=True)
        return self.put(name, "".join(json.dumps(line) + "\n" for line in lines))

    def chat(self, out, *more, data=None):
        return ["train", "--task", "chat", "--init", self.base, "--data", data or self.chats,
                "--out", self.dir / out, "--context", 120, "--warmup-steps", 1, "--max-steps", 4,
                *more]

    def test_same_weights_however_it_is_cut(self):
        want = None
        for name, flags in {"one": ["--batch-size", 2],
                            "two": ["--batch-size", 1, "--gradient-accumulation-steps", 2,
                                    "--threads", 1]}.items():
            self.must(*self.chat(name, *flags))
            want = want or self.weights(name)
            self.assertEqual(self.weights(name), want)
        self.must(*self.chat("stopped", "--batch-size", 2, "--stop-after", 1))
        self.must("train", "--resume", self.dir / "stopped")
        self.assertEqual(self.weights("stopped"), want)
        self.must(*self.chat("apart", "--batch-size", 2, "--no-packing"))
        self.assertNotEqual(self.weights("apart"), want)
        self.assertEqual((self.dir / "one" / "chat_template.jinja").read_text(), MARKED)

    def test_a_template_without_marks_is_understood(self):
        """The assistant's turns are what they add to the messages before them."""
        losses = []
        for template in (MARKED, TEMPLATE):
            (self.base / "chat_template.jinja").write_text(template)
            losses.append(json.loads(self.must("eval", "-m", self.base, "--task", "chat", "--data",
                                               self.chats, "--json")))
        self.assertEqual(losses[0]["tokens"], losses[1]["tokens"])
        self.assertEqual(losses[0]["loss"], losses[1]["loss"])

    def test_packed_conversations_do_not_see_each_other(self):
        """The loss of each alone is its loss beside others."""
        loss = lambda data: json.loads(self.must("eval", "-m", self.base, "--task", "chat",
                                                 "--data", data, "--json"))
        together = loss(self.chats)
        alone = [loss(self.put_lines("one.jsonl", [line])) for line in self.lines]
        self.assertEqual(together["tokens"], sum(one["tokens"] for one in alone))
        self.assertAlmostEqual(together["loss"] * together["tokens"],
                               sum(one["loss"] * one["tokens"] for one in alone), 3)
        self.must(*self.chat("run", "--learning-rate", 0, "--max-steps", 1, "--batch-size", 40,
                             "--valid-split", 0, "--logging-steps", 1))
        first = json.loads((self.dir / "run" / "metrics.jsonl").read_text().splitlines()[0])
        self.assertAlmostEqual(first["loss"], together["loss"], 5)

    def test_masks(self):
        tokens = lambda *more: json.loads(self.must(
            "eval", "-m", self.base, "--task", "chat", "--json", "--data", *more))["tokens"]
        one = [{"messages": [{"role": "user", "content": "the"},
                             {"role": "assistant", "content": "so"}]}]
        self.assertEqual(tokens(self.put_lines("one.jsonl", one)), len("so</s>"))

    def test_a_folder(self):
        self.put_lines("folder/train.jsonl", self.lines)
        self.put_lines("folder/valid.jsonl", self.lines[:3])
        self.must(*self.chat("run", data=self.dir / "folder"))
        records = (self.dir / "run" / "metrics.jsonl").read_text()
        self.assertIn("eval_loss", records)

    def test_what_is_refused(self):
        long = self.lines + [{"prompt": "the", "completion": "and " * 60}]
        path = self.put_lines("long.jsonl", long)
        self.refuses(self.chat("run", data=path), ["long.jsonl", "20", "120", "--skip-long"])
        self.must(*self.chat("skipped", "--skip-long", data=path))
        for line, says in (
                ({"messages": [{"role": "user", "content": "the"}]}, "--no-mask-prompt"),
                ({"messages": [{"content": "the"}]}, "role"),
                ({"messages": []}, "messages"), ({"messages": 3}, "messages"),
                ({"prompt": "the"}, "completion"), ({"other": 1}, "messages"), ([1], "object")):
            with self.subTest(line):
                self.refuses(self.chat("run", data=self.put_lines("bad.jsonl", [line])),
                             ["bad.jsonl", says])
        raises = "{{ raise_exception('roles must alternate') }}"
        (self.base / "chat_template.jinja").write_text(raises)
        self.refuses(self.chat("run"), ["chat.jsonl", "roles must alternate"])
        (self.base / "chat_template.jinja").unlink()
        self.refuses(self.chat("run"), ["chat.jsonl", "chat template"])
        self.refuses(["train", "--task", "chat", "--data", self.chats, "--out", self.dir / "run"],
                     "--init")


if __name__ == "__main__":
    cli_test.REFRAIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])

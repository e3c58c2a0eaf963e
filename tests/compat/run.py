#!/usr/bin/env python3
"""Checks that model directories go both ways between refrain and Hugging Face's packages, and
PyTorch's recurrent modules one way.

usage: run.py --refrain BIN [--data DIR] [--keep DIR]
needs: torch, transformers, tokenizers, safetensors (bench/rivals/pytorch/setup.sh makes a virtual
environment with them)

Directories that transformers wrote must give its logits here; directories trained here must load
there and give the same; settings that are not supported must be refused by name, never misread.
The tokenizers' own checks are in tokenizer_compat.py, which this runs on the texts under --data. A
line a check; the exit status is 1 when one failed.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import families
import hf_check
import hf_make_model
import torch_cells

HERE = pathlib.Path(__file__).resolve().parent

# Directories written by transformers that must load here.
READ = {
    "untied": {},
    "tied": dict(tied=True),
    "bf16": dict(dtype="bfloat16"),
    "sharded": dict(shard_size="30KB"),
    "sharded, tied, bf16": dict(shard_size="30KB", tied=True, dtype="bfloat16"),
    "config of transformers 4": dict(old_config=True),
    "one key-value head": dict(num_key_value_heads=1),
    "no grouping": dict(num_key_value_heads=4),
    "rope_theta 5e5": dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)),
    "rms_norm_eps 1e-2": dict(rms_norm_eps=1e-2),
    "odd sizes": dict(vocab_size=101, hidden_size=40, intermediate_size=37, num_attention_heads=4,
                      num_key_value_heads=1, num_hidden_layers=3),
}


def put_settings(**settings):
    def change(directory):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return change


def rewrite_weights(change):
    def rewrite(directory):
        path = directory / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})
    return rewrite


def stack_alone(directory):
    model = AutoModelForCausalLM.from_pretrained(directory)
    shutil.rmtree(directory)
    model.model.save_pretrained(directory)


# Directories as other versions and other programs left them: how they are made, and what is done to
# them. They must give the logits of what they were.
REWRITTEN = {
    "settings that change nothing": ({}, put_settings(
        unk_token_id=0, _model_name_or_path="x", max_sequence_length=2048, do_sample=True,
        _flash_attn_2_enabled=True, final_logit_softcapping=None, sliding_window=None)),
    "a Mistral with odd settings": (dict(family="mistral", sliding_window=16), put_settings(
        unk_token_id=0, rope_theta=1e4, max_sequence_length=2048)),
    "a Mistral without a window": (dict(family="mistral", sliding_window=None), put_settings()),
    "rotary tables": ({}, rewrite_weights(lambda t: t.update(
        {f"model.{where}rotary_emb.inv_freq": torch.ones(4)
         for where in ("", "layers.0.self_attn.", "layers.1.self_attn.")}))),
    "tied, the head alone": (dict(tied=True), rewrite_weights(lambda t: t.update(
        {"lm_head.weight": t.pop("model.embed_tokens.weight")}))),
    "tied, both": (dict(tied=True), rewrite_weights(lambda t: t.update(
        {"lm_head.weight": t["model.embed_tokens.weight"].clone()}))),
    "the stack alone": (dict(tied=True), stack_alone),
}
# Settings of LlamaConfig that may be refused, by this name, but not read wrongly.
RIGHT_OR_REFUSED = {
    "head_dim": dict(head_dim=16),
    "attention_bias": dict(attention_bias=True),
    "mlp_bias": dict(mlp_bias=True),
    "hidden_act": dict(hidden_act="gelu"),
    "rope": dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
}
# Models trained here: what is added to the command line.
TRAINED = {
    "untied": [],
    "tied": ["--tie-embeddings"],
    "no grouping": ["--kv-heads", "4"],
    "rope_theta 500": ["--attention.rope_theta", "500"],
    "window 8": ["--attention.window", "8"],
}


class Run:
    def __init__(self, refrain, directory):
        self.refrain, self.directory = refrain, directory
        self.failed = 0

    def call(self, *arguments):
        return subprocess.run([self.refrain, *map(str, arguments)], capture_output=True, text=True,
                              timeout=300)

    def must(self, *arguments):
        done = self.call(*arguments)
        assert done.returncode == 0, f"exit {done.returncode}: {done.stderr.strip()[-300:]}"
        return done.stdout

    def check(self, name, function):
        try:
            print(f"ok    {name}: {function()}", flush=True)
        except Exception as e:  # a check that breaks is a check that failed; the others still run
            self.failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {e}", flush=True)

    def new_directory(self, name):
        return self.directory / name.replace(" ", "_").replace(",", "")

    def compare_logits(self, model, ids):
        out = model.parent / (model.name + ".logits.safetensors")
        self.must("logits", "-m", model, "--ids", " ".join(map(str, ids)), "--out", out)
        worst = hf_check.difference(model, out, ids)
        assert worst <= hf_check.TOLERANCE, f"logits differ by {worst:.2e}"
        return f"logits to {worst:.1e}"

    def read(self, name, settings):
        model = self.new_directory("hf " + name)
        hf_make_model.make(model, **settings)
        self.must("info", "-m", model)
        return self.compare_logits(model, hf_check.IDS)

    def rewritten(self, name, settings, rewrite):
        model, changed = (self.new_directory("hf " + name + end) for end in ("", " rewritten"))
        hf_make_model.make(model, **settings)
        shutil.copytree(model, changed)
        rewrite(changed)
        out = self.directory / "rewritten.safetensors"
        self.must("logits", "-m", changed, "--ids", " ".join(map(str, hf_check.IDS)), "--out", out)
        worst = hf_check.difference(model, out, hf_check.IDS)
        assert worst <= hf_check.TOLERANCE, f"logits differ by {worst:.2e}"
        return f"logits to {worst:.1e}"

    def right_or_refused(self, name, settings):
        model = self.new_directory("hf " + name)
        hf_make_model.make(model, **settings)
        ids = hf_check.IDS
        done = self.call("logits", "-m", model, "--ids", " ".join(map(str, ids)), "--out",
                         model.parent / (model.name + ".logits.safetensors"))
        if done.returncode == 0:
            return self.compare_logits(model, ids)
        line = done.stderr.strip()
        assert done.returncode == 2 and "\n" not in line and name in line, (
            f"exit {done.returncode}, expected 2 and one line that names {name}: {line[-300:]}")
        return f"refused: {line}"

    def trained(self, name, arguments):
        text, model = self.directory / "text.txt", self.new_directory("trained " + name)
        if not text.exists():
            words = "the a cat dog sat ran on under mat tree and then".split()
            draw = random.Random(1)
            text.write_text("".join(" ".join(draw.choices(words, k=8)) + ".\n" for _ in range(400)))
        heads = [] if "--kv-heads" in arguments else ["--kv-heads", 2]
        self.must("train", "--task", "lm", "--data", text, "--out", model, "--tokenizer", "char",
                  "--layers", 2, "--d-model", 32, "--heads", 4, *heads, "--d-ff", 48,
                  "--context", 32, "--batch-size", 4, "--max-steps", 100, "--learning-rate", 1e-2,
                  "--seed", 1, *arguments)
        config = AutoConfig.from_pretrained(model)
        name = "Mistral" if "--attention.window" in arguments else "Llama"
        assert config.architectures == [name + "ForCausalLM"], config.architectures
        tokenizer = AutoTokenizer.from_pretrained(model)
        sample = text.read_text()[:config.max_position_embeddings]
        ids = tokenizer(sample, add_special_tokens=False)["input_ids"]
        decoded = tokenizer.decode(ids)
        assert decoded == sample, f"{sample!r} comes back as {decoded!r}"
        result = self.compare_logits(model, ids)
        done = AutoModelForCausalLM.from_pretrained(model).generate(
            torch.tensor([ids[:4]]), max_new_tokens=8, do_sample=False)
        assert done.shape[1] > 4, "transformers generated nothing"
        return result

    def tokenizers(self, data):
        found = data.rglob("*.txt") if data else []
        texts = sorted(path for path in found if path.stat().st_size >= 100_000)
        if not texts:
            print("skip  tokenizers: --data names no folder with texts of 100 kB and more")
            return
        command = [sys.executable, HERE / "tokenizer_compat.py", self.refrain, *texts]
        self.failed += subprocess.run(command).returncode != 0


def main():
    parser = argparse.ArgumentParser(description="checks exchange with Hugging Face's packages")
    parser.add_argument("--refrain", type=lambda p: pathlib.Path(p).resolve(), required=True)
    parser.add_argument("--data", type=pathlib.Path, 
                        help="folder with real texts (*.txt), for the tokenizers' checks")
    parser.add_argument("--keep", type=pathlib.Path, help="work here and leave everything there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.keep or pathlib.Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        run = Run(args.refrain, directory)
        for name, settings in READ.items():
            run.check(f"read {name}", lambda: run.read(name, settings))
        for name, (settings, rewrite) in REWRITTEN.items():
            run.check(f"rewritten: {name}", lambda: run.rewritten(name, settings, rewrite))
        for name, settings in RIGHT_OR_REFUSED.items():
            run.check(f"right or refused: {name}", lambda: run.right_or_refused(name, settings))
        for name, function in families.checks(run):
            run.check(name, function)
        for name, arguments in TRAINED.items():
            run.check(f"trained here, {name}", lambda: run.trained(name, arguments))
        for name, function in torch_cells.checks(args.refrain, directory):
            run.check(name, function)
        run.tokenizers(args.data)
    print(f"{run.failed} failed" if run.failed else "all passed")
    return run.failed > 0


if __name__ == "__main__":
    sys.exit(main())

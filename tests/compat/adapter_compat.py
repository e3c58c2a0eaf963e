#!/usr/bin/env python3
"""Checks that adapters go both ways between refrain and PEFT, and that a fused model computes what
its base with the adapter does.

usage: adapter_compat.py --refrain BIN [--keep DIR]
needs: torch, transformers, peft, safetensors (bench/rivals/peft/setup.sh makes a virtual environment
with them)

A line a check; the exit status is 1 when one failed. Logits agree within 1e-4.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOLERANCE = 1e-4
IDS = [1, 5, 9, 200, 7, 42, 3, 3, 90, 250]

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "all linear maps": dict(r=8, lora_alpha=16, target_modules=ALL),
    "some of a fused map": dict(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
    "rslora": dict(r=9, lora_alpha=6, target_modules=ALL, use_rslora=True),
    "rank and alpha patterns": dict(
        r=4, lora_alpha=8, target_modules=ALL, rank_pattern={"k_proj": 7, r"^model\.layers\.1\..*up_proj": 2},
        alpha_pattern={"mlp.down_proj": 3, r".*\.0\.self_attn\.v_proj": 11}),
    "one module of one block": dict(r=3, lora_alpha=6, target_modules=["model.layers.1.mlp.up_proj"]),
}


def make_base(directory):
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                         initializer_range=0.2, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)


class Checks:
    def __init__(self, refrain, folder):
        self.refrain, self.folder, self.failed = refrain, folder, 0
        self.base = folder / "base"
        make_base(self.base)

    def call(self, *arguments):
        done = subprocess.run([self.refrain, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])

    def ours(self, model, *more):
        out = self.folder / "logits.safetensors"
        self.call("logits", "-m", model, "--ids", " ".join(map(str, IDS)), "--out", out, *more)
        return load_file(out)["logits"]

    def theirs(self, adapter=None, fused=None):
        model = AutoModelForCausalLM.from_pretrained(fused or self.base, dtype=torch.float32)
        if adapter:
            model = PeftModel.from_pretrained(model, adapter)
        with torch.no_grad():
            return model(torch.tensor([IDS])).logits[0]

    def check(self, name, compare):
        try:
            error, least = compare()
            good = error <= TOLERANCE and least > 100 * TOLERANCE
            print(f"{'ok' if good else 'FAILED'}  {name}: {error:.1e}, the adapter adds {least:.1e}")
        except Exception as problem:  # pylint: disable=broad-except
            good = False
            print(f"FAILED  {name}: {problem}")
        self.failed += not good

    def from_peft(self, name, settings):
        adapter = self.folder / ("peft-" + name.replace(" ", "-"))
        torch.manual_seed(5)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32),
                               LoraConfig(task_type="CAUSAL_LM", **settings))
        for key, value in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(value, std=0.1)
        model.save_pretrained(adapter)

        def compare():
            want, plain = self.theirs(adapter), self.theirs()
            found = self.ours(self.base, "--adapter", adapter)
            return float((found - want).abs().max()), float((want - plain).abs().max())
        self.check(f"PEFT's adapter here: {name}", compare)

        def fuse():
            out = self.folder / ("fused-" + name.replace(" ", "-"))
            self.call("fuse", "-m", self.base, "--adapter", adapter, "-o", out)
            want, plain = self.theirs(adapter), self.theirs()
            found = self.theirs(fused=out)
            return float((found - want).abs().max()), float((want - plain).abs().max())
        self.check(f"fused here, in transformers: {name}", fuse)

    def to_peft(self, name, flags):
        run = self.folder / ("run-" + name.replace(" ", "-"))
        text = self.folder / "text.txt"
        text.write_text("the quick brown fox jumps over the lazy dog. " * 60)

        def compare():
            self.call("train", "--init", self.base, "--data", text, "--out", run, "--context", 32,
                      "--max-steps", 8, "--warmup-steps", 1, "--learning-rate", 0.02, *flags)
            want, plain = self.theirs(run), self.theirs()
            found = self.ours(self.base, "--adapter", run)
            return float((found - want).abs().max()), float((want - plain).abs().max())
        self.check(f"an adapter trained here in PEFT: {name}", compare)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refrain", required=True, type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="make the files here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        checks = Checks(arguments.refrain.resolve(), folder)
        for name, settings in ADAPTERS.items():
            checks.from_peft(name, settings)
        checks.to_peft("all linear maps", ["--lora-rank", 8])
        checks.to_peft("rslora", ["--lora-rank", 8, "--lora-rslora"])
        checks.to_peft("ranks", ["--lora-rank", 4, "--lora-targets", "q_proj:2,v_proj", "mlp.up_proj:6"])
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Writes a Llama directory as transformers writes it: tiny, with random weights.

usage: hf_make_llama.py DIR [--tied] [--bf16] [--sharded] [--old-config] [--seed N]
                            [--set KEY=JSON ...] [--logits FILE [--ids "1 2 3"]]

--set changes a setting of LlamaConfig, as in --set num_key_value_heads=1. --logits writes what
transformers computes in float32 for the ids, from the directory as it was saved: tensor "logits"
[T, V] in a safetensors file. --old-config rewrites config.json with the spelling of transformers 4.
"""
import argparse
import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from hf_check import IDS, logits_of, parse_ids

SIZES = dict(vocab_size=67, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             rms_norm_eps=1e-5)


def randomise(model, seed):
    """Weights that make every path matter: with the default ones a wrong RoPE would not show."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=generator)
        if p.dim() == 2:
            x /= math.sqrt(p.shape[1])
        elif name.endswith("norm.weight"):
            x = 1 + 0.2 * x
        p.data.copy_(x)


def to_old_config(directory):
    path = pathlib.Path(directory) / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    del config["head_dim"]
    path.write_text(json.dumps(config, indent=2))


def make(directory, seed=0, *, tied=False, bf16=False, sharded=False, old_config=False,
         mistral=False, **settings):
    config = (MistralConfig if mistral else LlamaConfig)(tie_word_embeddings=tied,
                                                         **(SIZES | settings))
    model = (MistralForCausalLM if mistral else LlamaForCausalLM)(config)
    randomise(model, seed)
    model.to(torch.bfloat16 if bf16 else torch.float32)
    model.save_pretrained(directory, max_shard_size="30KB" if sharded else "1GB")
    if old_config:
        to_old_config(directory)


def main():
    parser = argparse.ArgumentParser(description="writes a tiny Llama directory by transformers")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--sharded", action="store_true", help="several weight files")
    parser.add_argument("--old-config", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--logits", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--ids", type=parse_ids, default=IDS)
    args = parser.parse_args()
    settings = {key: json.loads(value) for key, value in (s.split("=", 1) for s in args.set)}
    make(args.directory, args.seed, tied=args.tied, bf16=args.bf16, sharded=args.sharded,
         old_config=args.old_config, **settings)
    if args.logits:
        save_file({"logits": logits_of(args.directory, args.ids)}, args.logits)


if __name__ == "__main__":
    main()

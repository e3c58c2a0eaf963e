#!/usr/bin/env python3
"""Writes a model directory as transformers writes it: tiny, with random weights.

usage: hf_make_model.py DIR [--family llama] [--tied] [--dtype float32] [--shard-size 30KB]
                            [--old-config] [--seed N] [--set KEY=JSON ...]
                            [--logits FILE [--ids "1 2 3"]]

--set changes a setting of the family's config, as in --set num_key_value_heads=1. --logits writes
what transformers computes in float32 for the ids, from the directory as it was saved: tensor
"logits" [T, V] in a safetensors file. --old-config rewrites config.json with the spelling of
transformers 4.
"""
import argparse
import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hf_check import IDS, logits_of, parse_ids

SIZES = dict(vocab_size=67, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             rms_norm_eps=1e-5)
# What a GPT-2 calls them.
GPT2_NAMES = dict(intermediate_size="n_inner", rms_norm_eps="layer_norm_epsilon",
                  max_position_embeddings="n_positions", hidden_size="n_embd",
                  num_hidden_layers="n_layer", num_attention_heads="n_head",
                  num_key_value_heads=None)


def randomise(model, seed):
    """Weights that make every path matter: with the default ones a wrong RoPE would not show."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=generator)
        if p.dim() == 2:
            x /= math.sqrt(p.shape[0] if ".c_" in name else p.shape[1])  # Conv1D: [in, out]
        elif name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")):
            x = 1 + 0.2 * x
        else:
            x *= 0.3  # biases
        p.data.copy_(x)


def to_old_config(directory):
    path = pathlib.Path(directory) / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] != "qwen3":
        config.pop("head_dim", None)
    config.pop("layer_types", None)
    path.write_text(json.dumps(config, indent=2))


def make(directory, seed=0, *, family="llama", tied=False, dtype="float32", shard_size="1GB",
         old_config=False, **settings):
    settings = SIZES | settings
    if family == "gpt2":
        settings = {GPT2_NAMES.get(key, key): value for key, value in settings.items()
                    if GPT2_NAMES.get(key, key)}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
                             pad_token_id=None, **settings))
    randomise(model, seed)
    model.to(getattr(torch, dtype))
    model.save_pretrained(directory, max_shard_size=shard_size)
    if old_config:
        to_old_config(directory)


def main():
    parser = argparse.ArgumentParser(description="writes a tiny model directory by transformers")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--family", default="llama")
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shard-size", default="1GB", help="30KB: several weight files")
    parser.add_argument("--old-config", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--logits", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--ids", type=parse_ids, default=IDS)
    args = parser.parse_args()
    settings = {key: json.loads(value) for key, value in (s.split("=", 1) for s in args.set)}
    make(args.directory, args.seed, family=args.family, tied=args.tied, dtype=args.dtype,
         shard_size=args.shard_size, old_config=args.old_config, **settings)
    if args.logits:
        save_file({"logits": logits_of(args.directory, args.ids)}, args.logits)


if __name__ == "__main__":
    main()

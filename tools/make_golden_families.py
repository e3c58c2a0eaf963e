#!/usr/bin/env python3
"""Makes tests/golden/families/<name>/: a tiny model of each family of checkpoints with random
weights, as transformers saves it, and expected.safetensors beside it: what transformers computes.

usage: make_golden_families.py [--check] [DIR]        needs: torch, transformers, safetensors

expected.safetensors has `tokens` [T] and, of the weights as they were saved, `logits` [T, V], both
F32. --check makes everything anew and compares it with the files in DIR instead of writing them.
"""
import argparse
import pathlib
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "compat"))
import hf_check
import hf_make_model

logging.disable_progress_bar()
SIZES = dict(vocab_size=61, hidden_size=16, intermediate_size=20, num_hidden_layers=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
SLIDING, FULL = "sliding_attention", "full_attention"

MODELS = {
    "llama": dict(family="llama", tied=True, dtype="bfloat16", num_attention_heads=2,
                  num_key_value_heads=1, rope_parameters=LLAMA3),
    "llama_linear": dict(family="llama", attention_bias=True, dtype="float16", rope_parameters=dict(
        rope_type="linear", rope_theta=1e4, factor=4.0)),
    "mistral": dict(family="mistral", sliding_window=8, dtype="bfloat16"),
    "ministral": dict(family="ministral", head_dim=4, sliding_window=8, dtype="bfloat16",
                      layer_types=[SLIDING, FULL]),
    "qwen2": dict(family="qwen2", tied=True, use_sliding_window=True, sliding_window=8,
                  max_window_layers=1, shard_size="8KB"),
    "qwen3": dict(family="qwen3", tied=True, hidden_size=20, head_dim=8, use_sliding_window=True,
                  sliding_window=8, layer_types=[SLIDING, FULL], dtype="bfloat16"),
    "smollm3": dict(family="smollm3", tied=True, no_rope_layers=[1, 0], dtype="bfloat16"),
    "gpt2": dict(family="gpt2", tied=True, num_key_value_heads=None, dtype="bfloat16"),
}


def make(directory, settings):
    hf_make_model.make(directory, **(SIZES | settings))
    logits = hf_check.logits_of(directory, hf_check.IDS)
    save_file({"tokens": torch.tensor(hf_check.IDS, dtype=torch.float32), "logits": logits},
              directory / "expected.safetensors")


def check(kept, made):
    names = sorted(path.name for path in made.iterdir())
    assert sorted(path.name for path in kept.iterdir()) == names, f"{kept}: other files"
    for name in names:
        if not name.endswith(".safetensors"):
            continue
        of_kept, of_made = load_file(kept / name), load_file(made / name)
        assert of_kept.keys() == of_made.keys(), f"{kept / name}: other tensors"
        worst = max((of_kept[key] - of_made[key]).abs().max().item() for key in of_made)
        assert worst < 1e-5, f"{kept / name}: differs by {worst}"
    print(f"  {kept}: as made now")


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "families"
    parser = argparse.ArgumentParser(description="makes the golden models of the families")
    parser.add_argument("directory", nargs="?", type=pathlib.Path, default=default)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    for name, settings in MODELS.items():
        if not args.check:
            make(args.directory / name, settings)
            continue
        with tempfile.TemporaryDirectory() as temporary:
            make(pathlib.Path(temporary) / name, settings)
            check(args.directory / name, pathlib.Path(temporary) / name)


if __name__ == "__main__":
    main()

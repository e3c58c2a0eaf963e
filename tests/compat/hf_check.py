#!/usr/bin/env python3
"""Compares logits that refrain wrote with what transformers computes from the same directory.

usage: hf_check.py DIR FILE [--ids "1 2 3"] [--tolerance 1e-4]

FILE is a safetensors file with the tensor "logits" [T, V], as `refrain logits -m DIR --ids "1 2 3"
--out FILE` writes it. Prints the largest difference; the exit status is 1 when it is over the
tolerance.
"""
import argparse
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()

# Products of a few hundred terms and a few layers of them, in float32: both sides are within a few
# 1e-6 of the exact logits, which are about 1 to 10. A wrong formula is off by far more than this.
TOLERANCE = 1e-4
IDS = [(7 * i * i + 3 * i + 1) % 61 for i in range(40)]


def parse_ids(text):
    return [int(word) for word in text.split()]


def logits_of(directory, ids):
    """[T, V] in float32, whatever type the weights are stored in."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].contiguous()


def difference(directory, logits_file, ids):
    """The largest absolute difference; other shapes or types than expected are an assertion."""
    with safe_open(logits_file, "pt") as f:
        assert list(f.keys()) == ["logits"], f"{logits_file} has the tensors {list(f.keys())}"
        found = f.get_tensor("logits")
    expected = logits_of(directory, ids)
    assert found.dtype == torch.float32, f"logits are {found.dtype}"
    assert found.shape == expected.shape, f"logits are {found.shape}, expected {expected.shape}"
    assert found.isfinite().all(), "logits are not finite"
    return (found - expected).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description="compares a file of logits with transformers")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("logits", type=pathlib.Path)
    parser.add_argument("--ids", type=parse_ids, default=IDS)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    args = parser.parse_args()
    worst = difference(args.directory, args.logits, args.ids)
    print(f"largest difference {worst:.2e}, tolerance {args.tolerance:.0e}")
    return worst > args.tolerance


if __name__ == "__main__":
    sys.exit(main())

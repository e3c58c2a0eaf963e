#!/usr/bin/env python3
"""Adds normal noise to every weight of a model directory, of a size at which each part of the model
shows in its logits: 1 / sqrt(columns) in matrices, 0.1 in vectors. Of a model that has hardly
learnt, attention looks everywhere alike and positions do not matter; a wrong mask would pass.

usage: spread.py MODEL
"""
import pathlib
import sys

try:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError as error:
    sys.exit(f"spread.py: the package {error.name} is missing; run it with the Python that "
             "bench/rivals/pytorch/setup.sh prints")


def main():
    path = pathlib.Path(sys.argv[1]) / "model.safetensors"
    draw = torch.Generator().manual_seed(1)
    with safe_open(path, "pt") as f:
        metadata, tensors = f.metadata(), {name: f.get_tensor(name) for name in f.keys()}
    for t in tensors.values():
        deviation = 0.1 if t.dim() < 2 else 1 / t.shape[-1] ** 0.5
        t += deviation * torch.randn(t.shape, generator=draw)
    save_file(tensors, path, metadata)


if __name__ == "__main__":
    main()

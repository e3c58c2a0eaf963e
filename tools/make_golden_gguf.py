#!/usr/bin/env python3
"""Makes tests/golden/gguf_blocks.safetensors: blocks of all types that are read from GGUF files, with
the numbers that Python's `gguf` package finds in them, and numbers with the blocks that it makes of
them.

usage: make_golden_gguf.py [--check]      (needs gguf, numpy, safetensors)
"""
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from safetensors.numpy import load_file, save_file

PATH = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "gguf_blocks.safetensors"
READ = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
WRITTEN = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]
# Where the float16 scales and minima of a block stand; elsewhere all bytes mean something.
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208]}


def blocks(name: str, rng) -> np.ndarray:
    """Two rows of random blocks, whose scales are finite."""
    size, each = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = 64 if size == 1 else 4
    if size == 1:
        values = rng.standard_normal((2, count)).astype(np.float32)
        return quants.quantize(values, GGMLQuantizationType[name]).view(np.uint8).reshape(2, -1)
    found = rng.integers(0, 256, (2, count, each), dtype=np.uint8)
    for at in HALVES[name]:
        half = rng.standard_normal((2, count, 1)).astype(np.float16).view(np.uint8)
        found[:, :, at:at + 2] = half
    return found.reshape(2, -1)


def make() -> dict:
    rng = np.random.default_rng(20)
    made = {}
    for name in READ:
        made[f"read {name} blocks"] = found = blocks(name, rng)
        kind = GGMLQuantizationType[name]
        as_stored = found.view(np.float32) if name == "F32" else (
            found.view(np.float16) if name == "F16" else found)
        made[f"read {name} numbers"] = quants.dequantize(as_stored, kind).astype(np.float32)
    values = rng.standard_normal((8, 128)).astype(np.float32) * np.float32(0.05)
    values[0, :32] = 0
    values[1, :32] = 1e-30  # scales of these vanish
    values[2, :32] = np.arange(-16, 16) / 8  # halves that are to be rounded
    values[3, :32] = 3
    values[4, 32:64] = -np.abs(values[4, 32:64])
    made["write numbers"] = values
    for name in WRITTEN:
        written = quants.quantize(values, GGMLQuantizationType[name])
        made[f"write {name} blocks"] = np.ascontiguousarray(written).view(np.uint8).reshape(8, -1)
    return made


def main() -> int:
    made = make()
    if "--check" not in sys.argv[1:]:
        save_file(made, PATH)
        return 0
    known = load_file(PATH)
    bad = [name for name in made if name not in known or made[name].tobytes() != known[name].tobytes()]
    print("\n".join(f"differs: {name}" for name in bad) or "golden blocks: ok")
    return bool(bad or known.keys() - made.keys())


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The best rate that torch.mm (oneDNN) reaches over a few large products, in FLOP/s, for float32
and bfloat16: a line of JSON. It is what MFU is a share of.

usage: product.py THREADS
"""
import json
import sys
import time

try:
    import torch
except ImportError as error:
    sys.exit(f"product.py: the package {error.name} is missing; run it with the Python that "
             "bench/rivals/pytorch/setup.sh prints")

SHAPES = [(2048, 2048, 2048), (4096, 1024, 1024), (4096, 2304, 768), (1024, 8192, 768)]
SECONDS = 0.5  # for each shape


def rate(shape, dtype):
    M, N, K = shape
    a, b = torch.randn(M, K).to(dtype), torch.randn(N, K).to(dtype)
    c = torch.mm(a, b.T)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while True:
        begin = time.perf_counter()
        torch.mm(a, b.T, out=c)
        now = time.perf_counter()
        best = min(best, now - begin)
        if now > end:
            return 2 * M * N * K / best


def main():
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({name: max(rate(shape, dtype) for shape in SHAPES)
                      for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))}))


if __name__ == "__main__":
    main()

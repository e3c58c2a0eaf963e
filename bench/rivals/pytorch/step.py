#!/usr/bin/env python3
"""Trains a model that refrain wrote for a few steps in PyTorch, in one mode, and prints what they
took as a line of JSON.

Logits of the first tokens of the file must be --expected-logits, refrain's own: together
within 1e-3 of their size, or with --bf16 10 %. Then the first batch, the first tokens window after window, must
have --expected-loss, refrain's as well: within 1e-4, or with --bf16 1 %. Otherwise nothing is timed
and the exit status is 1. Further batches are windows at random. --mixer-only times one block's
mixer instead, forward and backward, on made input. --plant changes a matrix of a mixer first, to
see it refused.
"""
import argparse
import json
import pathlib
import resource
import sys
import time

try:
    import torch
    from safetensors import safe_open
    from torch import nn
except ImportError as error:
    sys.exit(f"step.py: the package {error.name} is missing; run it with the Python that "
             "bench/rivals/pytorch/setup.sh prints")

import models
import tokens


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, required=True, help="model directory of refrain's")
    p.add_argument("--tokens", type=pathlib.Path, required=True, help="token file")
    p.add_argument("--expected-logits", type=pathlib.Path, required=True,
                   help="safetensors file with the logits of the first tokens")
    p.add_argument("--expected-loss", type=float, required=True, help="of the first batch")
    p.add_argument("--form", required=True, help="of the mixer; see models/")
    p.add_argument("--batch-size", type=int, required=True)
    p.add_argument("--steps", type=int, default=5, help="that are timed; 0: check only")
    p.add_argument("--warm-up", type=int, default=2, help="steps before them")
    p.add_argument("--seconds", type=float, default=60, help="begin no step after so many, "
                   "compilation not counted; if the first took longer it is the one that is timed")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    p.add_argument("--compile", action="store_true",
                   help="the model, or of a form `loop` the function of one time step")
    p.add_argument("--mixer-only", action="store_true")
    p.add_argument("--plant", action="store_true")
    return p.parse_args()


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(found, args):
    tolerance = 0.01 * args.expected_loss if args.bf16 else 1e-4
    if not abs(found - args.expected_loss) <= tolerance:
        raise SystemExit(f"refused: the loss of the first batch is {found:.6f}, refrain's "
                         f"{args.expected_loss:.6f}, which is more than {tolerance:.0e} away")


def check_logits(model, ids, args):
    with safe_open(args.expected_logits, "pt") as f:
        want = f.get_tensor("logits")
    with torch.no_grad(), autocast(args):
        found = model.logits(ids[None, :len(want)])[0].float()
    off = ((found - want).norm() / want.norm()).item()
    if not off <= (0.1 if args.bf16 else 1e-3):
        raise SystemExit(f"refused: the logits of the first {len(want)} tokens differ from "
                         f"refrain's by {off:.2g} of their size")


def batches(ids, rows, T):
    """(ids, targets): the first from the beginning of the file, the others from anywhere in it."""
    yield ids[:rows * T].view(rows, T), ids[1:rows * T + 1].view(rows, T)
    offsets = torch.arange(T)
    while True:
        at = torch.randint(len(ids) - T, (rows, 1)) + offsets
        yield ids[at], ids[at + 1]


def make_optimizer(model):
    decayed, plain = [], []
    for name, p in model.named_parameters():
        (decayed if p.dim() == 2 and "embed_tokens" not in name else plain).append(p)
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1},
                              {"params": plain, "weight_decay": 0.0}],
                             lr=1e-4, betas=(0.9, 0.95), fused=True)


def compiled(module, form):
    """A loop over time cannot be compiled as a whole: it would be unrolled."""
    if form != "loop":
        return torch.compile(module)
    for part in module.modules():
        if hasattr(part, "step"):
            part.step = torch.compile(part.step)
    return module


def autocast(args):
    return torch.autocast("cpu", torch.bfloat16, enabled=args.bf16)


def training_step(model, data, args):
    run = compiled(model, args.form) if args.compile else model
    optimizer = make_optimizer(model)

    def step():
        ids, targets = next(data)
        with autocast(args):
            loss = run(ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        return loss.item()

    return step


def mixer_step(mixer, shape, args):
    run = compiled(mixer, args.form) if args.compile else mixer
    x, dy = torch.randn(shape, requires_grad=True), torch.randn(shape)

    def step():
        x.grad = None
        mixer.zero_grad(set_to_none=True)
        with autocast(args):
            y = run(x)
        y.backward(dy.to(y.dtype))

    return step


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    imports = resident()
    model, config = models.load(args.model, args.form)
    T = config["context"]
    ids = torch.tensor(tokens.read(args.tokens)[0], dtype=torch.int64)
    data = batches(ids, args.batch_size, T)
    losses = []
    if args.plant:
        with torch.no_grad():
            next(p for p in model.layers[0].self_attn.parameters() if p.dim() == 2).mul_(2)
    check_logits(model, ids, args)
    if args.steps == 0:
        with torch.no_grad(), autocast(args):
            losses.append(model(*next(data)).item())
        check(losses[0], args)
    elif args.mixer_only:
        step = mixer_step(model.layers[0].self_attn, (args.batch_size, T, config["d_model"]), args)
    else:
        step = training_step(model, data, args)

    seconds = []
    while args.steps > 0 and len(seconds) < args.warm_up + args.steps:
        # The first step of a compiled model is compilation for the most part: it never counts.
        if sum(seconds[1 if args.compile else 0:]) > args.seconds:
            break
        before = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - before)
        if len(losses) == 1 and not args.mixer_only:
            check(losses[0], args)
    warm_up = min(args.warm_up, max(0, len(seconds) - 1))
    print(json.dumps({
        "engine": f"PyTorch {torch.__version__}",
        "tokens_per_second": [args.batch_size * T / s for s in seconds[warm_up:]],
        "warm_up": warm_up,
        "first_seconds": seconds[0] if seconds else None,
        "peak_memory_bytes": resident(),
        "imports_memory_bytes": imports,
        "losses": losses[:5],
        "parameters": sum(p.numel() for p in model.parameters()),
    }))


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Trains the decoder of `refrain train --task lm` in PyTorch, on the CPU, and prints what it took.

The same model (Llama layout: RMSNorm, RoPE, SwiGLU, no biases), the same optimiser and the same
flags where both have them, written as PyTorch runs it fastest: joined projections,
scaled_dot_product_attention, fused AdamW, and --compile and --bf16 to choose. Text is read as
characters; the last --valid-split of it is for validation.

One line of JSON on standard output: tokens_per_second is the median over the steps after
--skip-steps, evaluation not counted; eval_loss is over the whole validation split, every character
but the first once.
"""
import argparse
import json
import math
import pathlib
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def parse():
    p = argparse.ArgumentParser(description="trains a character-level decoder in PyTorch",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", type=pathlib.Path, required=True)
    p.add_argument("--valid-split", type=float, default=0.1)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--kv-heads", type=int, default=0, help="0: as many as heads")
    p.add_argument("--d-ff", type=int, default=344)
    p.add_argument("--context", type=int, default=64)
    p.add_argument("--tie-embeddings", action="store_true")
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--batch-size", type=int, default=12)
    p.add_argument("--max-steps", type=int, default=2000)
    p.add_argument("--learning-rate", type=float, default=1e-3)
    p.add_argument("--min-learning-rate", type=float, default=1e-4)
    p.add_argument("--warmup-steps", type=int, default=100, help="then a cosine to the minimum")
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--adam-beta1", type=float, default=0.9)
    p.add_argument("--adam-beta2", type=float, default=0.99)
    p.add_argument("--max-grad-norm", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    p.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--skip-steps", type=int, default=5, help="first steps that are not timed")
    p.add_argument("--no-eval", action="store_true")
    args = p.parse_args()
    args.kv_heads = args.kv_heads or args.heads
    if args.max_steps <= args.skip_steps:
        p.error("--max-steps must be more than --skip-steps")
    return args


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.dropout = c.heads, c.kv_heads, c.dropout
        self.head_dim = c.d_model // c.heads
        kv = c.kv_heads * self.head_dim
        self.split = [c.d_model, kv, kv]
        self.norm1, self.norm2 = (nn.RMSNorm(c.d_model, eps=1e-5) for _ in range(2))
        self.qkv = nn.Linear(c.d_model, sum(self.split), bias=False)
        self.out = nn.Linear(c.d_model, c.d_model, bias=False)
        self.gate_up = nn.Linear(c.d_model, 2 * c.d_ff, bias=False)
        self.down = nn.Linear(c.d_ff, c.d_model, bias=False)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        q, k, v = (t.view(B, T, -1, self.head_dim).transpose(1, 2)
                   for t in self.qkv(self.norm1(x)).split(self.split, -1))
        y = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=self.kv_heads != self.heads)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(B, T, D)))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.drop(self.down(F.silu(gate) * up))


class Decoder(nn.Module):
    def __init__(self, c, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, c.d_model)
        self.drop = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.d_model, eps=1e-5)
        self.head = nn.Linear(c.d_model, vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * c.layers) if residual else 0.02)
        if c.tie_embeddings:
            self.head.weight = self.embedding.weight
        half = c.d_model // c.heads // 2
        angle = torch.outer(torch.arange(c.context), 10000.0 ** (-torch.arange(half) / half))
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, targets, reduction="mean"):
        T = ids.shape[1]
        x = self.drop(self.embedding(ids))
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T])
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)


def make_optimizer(model, c):
    decayed, plain = [], []
    for name, p in model.named_parameters():
        (decayed if p.dim() == 2 and name != "embedding.weight" else plain).append(p)
    groups = [{"params": decayed, "weight_decay": c.weight_decay},
              {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=c.learning_rate, betas=(c.adam_beta1, c.adam_beta2),
                             fused=True)


def learning_rate(step, c):
    if step < c.warmup_steps:
        return c.learning_rate * (step + 1) / c.warmup_steps
    done = (step - c.warmup_steps) / max(1, c.max_steps - c.warmup_steps)
    low = c.min_learning_rate
    return low + (c.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def evaluate(model, ids, c, autocast):
    """Nats per character: windows one after another, the last ones shorter."""
    model.eval()
    windows = (len(ids) - 1) // c.context
    whole = windows * c.context
    total = 0.0
    with autocast():
        for first in range(0, windows, c.batch_size):
            span = slice(first * c.context, min(first + c.batch_size, windows) * c.context)
            targets = ids[span.start + 1:span.stop + 1]
            total += model(ids[span].view(-1, c.context), targets, "sum").item()
        if whole < len(ids) - 1:
            total += model(ids[None, whole:-1], ids[whole + 1:], "sum").item()
    model.train()
    return total / (len(ids) - 1)


def main():
    c = parse()
    if c.threads:
        torch.set_num_threads(c.threads)
    torch.manual_seed(c.seed)
    text = c.data.read_text(encoding="utf-8")
    id_of = {ch: i for i, ch in enumerate(sorted(set(text)))}
    ids = torch.tensor([id_of[ch] for ch in text])
    cut = int(len(ids) * (1 - c.valid_split))
    training, validation = ids[:cut], ids[cut:]

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=c.bf16)

    plain = Decoder(c, len(id_of))
    optimizer = make_optimizer(plain, c)
    model = torch.compile(plain) if c.compile else plain
    offsets = torch.arange(c.context)
    seconds, losses = [], []
    for step in range(c.max_steps):
        begin = time.perf_counter()
        rows = torch.randint(len(training) - c.context, (c.batch_size, 1)) + offsets
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, c)
        with autocast():
            loss = model(training[rows], training[rows + 1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), c.max_grad_norm, foreach=True)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {losses[-1]:.4f}", file=sys.stderr, flush=True)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of training alone
    timed = seconds[c.skip_steps:]
    print(json.dumps({
        "engine": f"pytorch {torch.__version__}",
        "compile": c.compile, "bf16": c.bf16, "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in plain.parameters()),
        "steps": c.max_steps, "tokens_per_step": c.batch_size * c.context,
        "tokens_per_second": round(c.batch_size * c.context / statistics.median(timed), 1),
        "train_seconds": round(sum(seconds), 3),
        "peak_memory_bytes": peak,
        "loss": round(statistics.fmean(losses[-50:]), 4),
        "eval_loss": None if c.no_eval else round(evaluate(plain, validation, c, autocast), 4),
    }))


if __name__ == "__main__":
    main()

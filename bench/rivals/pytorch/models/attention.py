"""Causal softmax attention with rotary positions, on scaled_dot_product_attention.

With `window` W, position t sees the last W positions, itself among them. The forms of it:
  mask    the whole product under a [T, T] mask
  flex    flex_attention with a block mask, which skips blocks that are out of reach
  blocks  blocks of W queries, each with its own keys and those of the block before
"""
import torch
import torch.nn.functional as F
from torch import nn


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Attention(nn.Module):
    JOINED = {"qkv_proj.weight": ["q_proj.weight", "k_proj.weight", "v_proj.weight"]}

    def __init__(self, c, form):
        super().__init__()
        settings = c.get("attention", {})
        T, d = c["context"], c["head_dim"]
        self.head_dim, self.form = d, form
        self.window = settings.get("window", 0)
        self.split = [c["heads"] * d, c["kv_heads"] * d, c["kv_heads"] * d]
        self.gqa = c["heads"] != c["kv_heads"]
        self.qkv_proj = nn.Linear(c["d_model"], sum(self.split), bias=False)
        self.o_proj = nn.Linear(self.split[0], c["d_model"], bias=False)
        theta = c.get("rope_theta", settings.get("rope_theta", 10000.0))
        turn = theta ** (-torch.arange(0, d, 2).double() / d)
        angle = torch.outer(torch.arange(T).double(), turn)
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        if (form == "sdpa") != (self.window == 0):
            raise ValueError(f"attention: form {form} and window {self.window} do not go together")
        if form == "mask":
            t = torch.arange(T)
            self.mask = self.sees(t[:, None], t[None, :])
        elif form == "flex":
            from torch.nn.attention import flex_attention as flex
            self.mask = flex.create_block_mask(lambda b, h, q, k: self.sees(q, k), None, None, T, T,
                                               device="cpu")
            self.flex = torch.compile(flex.flex_attention)
        elif form == "blocks":
            w = self.window
            if T % w:
                raise ValueError(f"attention: form blocks wants whole windows of {w}, found {T}")
            n, i, j = torch.arange(T // w), torch.arange(w), torch.arange(2 * w) - w
            inside = self.sees(i[:, None], j[None, :]) & ((n > 0)[:, None, None] | (j >= 0))
            self.mask = inside[:, None]  # [blocks, 1, W, 2 W]

    def sees(self, query, key):
        return (key <= query) & (query - key < self.window)

    def attend(self, q, k, v):
        if self.form == "flex":
            return self.flex(q, k, v, block_mask=self.mask, enable_gqa=self.gqa)
        if self.form == "blocks":
            return self.attend_blocks(q, k, v)
        mask = None if self.form == "sdpa" else self.mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,
                                              enable_gqa=self.gqa)

    def attend_blocks(self, q, k, v):
        B, H, T, d = q.shape
        w = self.window

        def cut(x):  # [B blocks, heads, W, d]
            return x.unflatten(2, (-1, w)).transpose(1, 2).flatten(0, 1)

        def with_last(x):
            return torch.cat((cut(F.pad(x, (0, 0, w, 0))[:, :, :T]), cut(x)), 2)

        y = F.scaled_dot_product_attention(cut(q), with_last(k), with_last(v),
                                           attn_mask=self.mask.repeat(B, 1, 1, 1),
                                           enable_gqa=self.gqa)
        return y.unflatten(0, (B, -1)).transpose(1, 2).flatten(2, 3)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                   for t in self.qkv_proj(x).split(self.split, -1))
        T = x.shape[1]
        cos, sin = self.cos[:T].to(q.dtype), self.sin[:T].to(q.dtype)
        y = self.attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.o_proj(y.transpose(1, 2).flatten(2))

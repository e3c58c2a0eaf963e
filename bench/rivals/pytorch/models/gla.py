"""Gated linear attention (docs/models/gla.md) with its default settings.

  loop     C[t] = diag(g[t]) C[t-1] + k[t]ᵀ v[t], o[t] = q[t] C[t], a token after the other
  chunked  matrix products in chunks of 64, with states between them
"""
import torch
import torch.nn.functional as F
from torch import nn

CHUNK = 64


class Gla(nn.Module):
    JOINED = {"qkgv_proj.weight": [f"{part}_proj{more}.weight" for part, more in
                                   (("q", ""), ("k", ""), ("gk", ".0"), ("v", ""), ("g", ""))],
              "gate.weight": ["gk_proj.1.weight"], "gate.bias": ["gk_proj.1.bias"]}

    def __init__(self, c, form):
        super().__init__()
        s, D = c["gla"], c["d_model"]
        other = {"key_act": "identity", "value_act": "identity", "gate": "low_rank", "scale": 0,
                 "output_norm": True, "output_gate": True, "bias": False}
        if any(s[name] != value for name, value in other.items()):
            raise ValueError(f"gla: only with the settings {other}")
        self.heads = s["heads"] or c["heads"]
        width = c["heads"] * c["head_dim"] // self.heads
        self.key_dim, self.value_dim = s["key_dim"] or (width + 3) // 4 * 2, s["value_dim"] or width
        keys, values, rank = self.heads * self.key_dim, self.heads * self.value_dim, s["gate_rank"]
        self.split = [keys, keys, rank, values, values]
        self.divisor = s["gate_divisor"]
        self.qkgv_proj = nn.Linear(D, sum(self.split), bias=False)
        self.gate = nn.Linear(rank, keys)
        self.g_norm = nn.RMSNorm(self.value_dim, eps=1e-5)
        self.o_proj = nn.Linear(values, D, bias=False)
        self.mix = {"loop": self.loop, "chunked": chunked}[form]

    def forward(self, x):
        q, k, low, v, s = self.qkgv_proj(x).split(self.split, -1)
        a = F.logsigmoid(self.gate(low).float()) / self.divisor
        q, k, a, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, a, v))
        o = self.mix(q * self.key_dim ** -0.5, k, a, v)
        normed = self.g_norm(o.float().transpose(1, 2))  # of bfloat16 it has no fused form
        return self.o_proj(normed.flatten(2) * F.silu(s))

    def loop(self, q, k, a, v):
        C = q.new_zeros((*q.shape[:2], q.shape[3], v.shape[3]), dtype=torch.float32)
        outputs = []
        for row in zip(*(t.unbind(2) for t in (q, k, a, v))):
            C, o = self.step(C, *row)
            outputs.append(o)
        return torch.stack(outputs, 2)

    @staticmethod
    def step(C, q, k, a, v):
        C = a.exp()[..., None] * C + k[..., None] * v[..., None, :]
        return C, (q[..., None] * C).sum(-2)


def chunked(q, k, a, v):
    """With b the running sum of the log gates a in a chunk, rows i >= j meet with
    q_i k_j e^(b_i - b_j). Taken apart at the middle of the chunk that is one product: its factors
    stay inside float32 for a > -2.7 (a low-rank gate's logit > -43), where e^b and e^-b from the
    chunk's beginning would stand half of that."""
    q, k, a, v = (t.unflatten(2, (-1, CHUNK)) for t in (q, k, a, v))  # [B, H, chunks, 64, ...]
    b = a.cumsum(3)
    middle, last = b[:, :, :, CHUNK // 2, None], b[:, :, :, -1:]
    A = (q * (b - middle).exp()) @ (k * (middle - b).exp()).transpose(-1, -2)
    inside = A.tril() @ v
    written = (k * (last - b).exp()).transpose(-1, -2) @ v
    C = torch.zeros_like(written[:, :, 0])
    found = []
    for decay, new in zip(last.exp().transpose(-1, -2).unbind(2), written.unbind(2)):
        found.append(C)
        C = decay * C + new
    return (inside + (q * b.exp()) @ torch.stack(found, 2)).flatten(2, 3)

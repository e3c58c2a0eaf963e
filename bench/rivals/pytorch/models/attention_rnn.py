"""Attention with one learned query (docs/models/attention_rnn.md): o[t] is the mean of the values
so far, weighted by e^(score).

  loop    the recurrence over (m, c, a), a token after the other
  cumsum  two cumulative sums, weights relative to the highest score of the whole sequence; scores
          by one product of the input, without keys. In float32 it wants scores within about 88 of
          each other
  sdpa    scaled_dot_product_attention with the same query for all positions: T² work
"""
import torch
import torch.nn.functional as F
from torch import nn


class AttentionRnn(nn.Module):
    def __init__(self, c, form):
        super().__init__()
        s, D = c["attention_rnn"], c["d_model"]
        if s["bias"] or not s["scaled"]:
            raise ValueError("attention_rnn: only without biases and with scaled scores")
        self.heads, self.head_dim = c["heads"], c["head_dim"]
        width = self.heads * self.head_dim
        self.query_token = nn.Parameter(torch.empty(D))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(D, width, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(width, D, bias=False)
        self.mix = {"loop": self.loop, "cumsum": self.cumsum, "sdpa": self.sdpa}[form]

    def query(self):
        return self.q_proj(self.query_token).unflatten(0, (self.heads, -1))  # [H, d]

    def scores(self, x):
        q = self.query().unsqueeze(1) * self.head_dim ** -0.5
        map_ = (q @ self.k_proj.weight.unflatten(0, (self.heads, -1))).squeeze(1)  # [H, D]
        return F.linear(x, map_).transpose(1, 2).float()  # [B, H, T]

    def by_head(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x):
        return self.o_proj(self.mix(x, self.by_head(self.v_proj(x))).transpose(1, 2).flatten(2))

    def loop(self, x, v):
        s = self.scores(x)
        m, c = torch.full_like(s[:, :, 0], -torch.inf), torch.zeros_like(s[:, :, 0])
        a = torch.zeros_like(v[:, :, 0], dtype=torch.float32)
        outputs = []
        for row in zip(s.unbind(2), v.unbind(2)):
            m, c, a = self.step(m, c, a, *row)
            outputs.append(a / c[..., None])
        return torch.stack(outputs, 2)

    @staticmethod
    def step(m, c, a, s, v):
        higher = torch.maximum(m, s)
        keep, new = (m - higher).exp(), (s - higher).exp()
        return higher, c * keep + new, a * keep[..., None] + v * new[..., None]

    def cumsum(self, x, v):
        s = self.scores(x)
        e = (s - s.amax(-1, keepdim=True).detach()).exp()[..., None]
        return (e * v).cumsum(2) / e.cumsum(2)

    def sdpa(self, x, v):
        k = self.by_head(self.k_proj(x))
        q = self.query()[None, :, None].to(k.dtype).expand_as(k)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

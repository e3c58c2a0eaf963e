"""The language model around a mixer: refrain's `pre_norm` and `bare` blocks, and how its model
directories are read (docs/formats.md). Modules are called what their tensors are called; where
several tensors are one product here, `JOINED` says which."""
import json
import math
import pathlib
import re

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from .attention import Attention
from .attention_rnn import AttentionRnn
from .gla import Gla
from .lstm import Lstm

MIXERS = {"attention": Attention, "attention_rnn": AttentionRnn, "gla": Gla, "lstm": Lstm}
LLAMA = {"vocab_size": "vocab_size", "d_model": "hidden_size", "layers": "num_hidden_layers",
         "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim",
         "d_ff": "intermediate_size", "context": "max_position_embeddings",
         "rms_norm_eps": "rms_norm_eps", "tie_embeddings": "tie_word_embeddings",
         "rope_theta": "rope_theta"}


class FeedForward(nn.Module):
    JOINED = {"gate_up_proj.weight": ["gate_proj.weight", "up_proj.weight"]}

    def __init__(self, c):
        super().__init__()
        self.gate_up_proj = nn.Linear(c["d_model"], 2 * c["d_ff"], bias=False)
        self.down_proj = nn.Linear(c["d_ff"], c["d_model"], bias=False)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, c, mixer):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (
            nn.RMSNorm(c["d_model"], eps=c["rms_norm_eps"]) for _ in range(2))
        self.self_attn = mixer
        self.mlp = FeedForward(c)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class BareBlock(nn.Module):
    def __init__(self, c, mixer):
        super().__init__()
        self.self_attn = mixer

    def forward(self, x):
        return self.self_attn(x)


class Decoder(nn.Module):
    """(ids, targets) [B, T] to the mean cross entropy."""

    def __init__(self, c, form):
        super().__init__()
        bare = c.get("block") == "bare"
        block, mixer = BareBlock if bare else Block, MIXERS[c["pattern"]]
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["d_model"])
        self.layers = nn.ModuleList(block(c, mixer(c, form)) for _ in range(c["layers"]))
        self.norm = nn.Identity() if bare else nn.RMSNorm(c["d_model"], eps=c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["d_model"], c["vocab_size"], bias=bare)
        if c["tie_embeddings"]:
            self.lm_head.weight = self.embed_tokens.weight

    def logits(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))

    def forward(self, ids, targets):
        logits = self.logits(ids)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def config_of(directory):
    c = json.loads((directory / "config.json").read_text())
    if c["model_type"] not in ("llama", "mistral"):
        return c
    window = c.get("sliding_window") or 0
    return {ours: c[theirs] for ours, theirs in LLAMA.items()} | {
        "pattern": "attention", "attention": {"window": window}}


def sources(model):
    """Parameter name -> the tensors in the file that stand in it, one below another."""
    joined = {f"{prefix}.{name}": [f"{prefix}.{part}" for part in parts]
              for prefix, module in model.named_modules()
              for name, parts in getattr(module, "JOINED", {}).items()}
    return {name: joined.get(name, [name]) for name, _ in model.named_parameters()}


def named_here(name):
    """What a tensor of refrain's own files, or of a Llama's, is called in Decoder."""
    name = name.removeprefix("model.")
    for theirs, ours in ((r"^embedding\.", "embed_tokens."), (r"^head\.", "lm_head."),
                         (r"\.mixer_norm\.", ".input_layernorm."), (r"\.mixer\.", ".self_attn."),
                         (r"\.feed_forward_norm\.", ".post_attention_layernorm."),
                         (r"\.feed_forward\.", ".mlp.")):
        name = re.sub(theirs, ours, name)
    return name


def load(directory, form):
    """The model of a directory with its weights, and its config. Every tensor of the file must be
    used, so that both have as many parameters."""
    directory = pathlib.Path(directory)
    config = config_of(directory)
    model = Decoder(config, form)
    with safe_open(directory / "model.safetensors", "pt") as f, torch.no_grad():
        names = {named_here(name): name for name in f.keys()}
        stored = sum(math.prod(f.get_slice(name).get_shape()) for name in names.values())
        parameters = sum(p.numel() for p in model.parameters())
        if stored != parameters:
            raise ValueError(f"{directory} has {stored} parameters, the model here {parameters}")
        for name, parts in sources(model).items():
            tensors = [f.get_tensor(names.pop(part)) for part in parts]
            model.get_parameter(name).copy_(torch.cat(tensors) if len(tensors) > 1 else tensors[0])
    if names:
        raise ValueError(f"{directory}: not in the model here: {', '.join(names)}")
    return model, config

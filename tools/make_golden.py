#!/usr/bin/env python3
"""Makes tests/golden/decoder.safetensors and decoder_tied.safetensors: one file that covers the
forward pass, the backward pass and ten steps of training of a small decoder.

usage: make_golden.py [--check] [DIR]        needs: torch, safetensors; transformers if it is there

The model is written out here in float64, in the Llama layout and with its tensor names: grouped
queries (4 heads, 2 key-value heads), half-split RoPE, RMSNorm, SwiGLU, no biases. Where
transformers can be imported, the script first makes sure that LlamaForCausalLM gives the same
logits and gradients. It prints what plain float32 loses against float64: tolerances come from
there. --check makes everything anew and compares it with the files in DIR instead of writing them.

Layout of a file. Every tensor is F32, numbers of tokens and ids too.

  <name>            initial weight, by its Hugging Face name; exact in float32. The tied model has
                    no lm_head.weight
  tokens [R]        the sequences laid end to end, R rows in all
  targets [R]       the id to predict at each row; -1 is not supervised
  offsets [S + 1]   sequence s is rows offsets[s] .. offsets[s + 1]; each starts at position 0
  logits [R, V]     at the initial weights
  token_loss [R]    cross entropy in nats; 0 where the target is -1
  loss [1]          its sum over supervised rows / number of supervised rows
  grad.<name>       gradient of `loss` at the initial weights
  grad_norm [10]    global norm before clipping, step by step
  losses [11]       loss before step 1, ..., before step 10, and after step 10
  final.<name>      weights after step 10

The ten steps are on the same batch, clipped to a global norm of 1 (factor min(1, 1 / norm), no
epsilon), then AdamW with decoupled decay and an epsilon that is not bias-corrected:

  m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2        a = lr sqrt(1 - b2^t) / (1 - b1^t)
  w = w - a m / (sqrt(v) + eps) - lr * decay * w

Decay is for the matrices of the blocks and for lm_head.weight; not for norms or for
model.embed_tokens.weight, tied or not. All settings are in the file's metadata, as strings.
"""
import argparse
import json
import math
import pathlib

import torch
from safetensors import safe_open

MODEL = dict(vocab_size=67, d_model=32, d_ff=48, layers=2, heads=4, kv_heads=2, rope_theta=10000.0,
             norm_epsilon=1e-5)
TRAINING = dict(steps=10, learning_rate=1e-2, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-5,
                weight_decay=0.1, max_grad_norm=1.0)
LENGTHS = (13, 9)
SEED = 20240517


def make_weights(tied, generator):
    """Large enough that every path matters: attention is far from uniform, norms far from one."""
    m = MODEL
    d, f, kv = m["d_model"], m["d_ff"], m["d_model"] // m["heads"] * m["kv_heads"]
    shapes = {"model.embed_tokens.weight": (m["vocab_size"], d)}
    for i in range(m["layers"]):
        layer = f"model.layers.{i}."
        shapes |= {layer + "input_layernorm.weight": (d,),
                   layer + "self_attn.q_proj.weight": (d, d),
                   layer + "self_attn.k_proj.weight": (kv, d),
                   layer + "self_attn.v_proj.weight": (kv, d),
                   layer + "self_attn.o_proj.weight": (d, d),
                   layer + "post_attention_layernorm.weight": (d,),
                   layer + "mlp.gate_proj.weight": (f, d),
                   layer + "mlp.up_proj.weight": (f, d),
                   layer + "mlp.down_proj.weight": (d, f)}
    shapes["model.norm.weight"] = (d,)
    if not tied:
        shapes["lm_head.weight"] = (m["vocab_size"], d)

    def draw(shape):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        x = 1 + 0.2 * x if len(shape) == 1 else x / math.sqrt(shape[1])
        return x.float().double()  # the file holds exactly what was computed with

    return {name: draw(shape) for name, shape in shapes.items()}


def make_batch(generator):
    """Two sequences whose targets are their next tokens, some of them not supervised."""
    tokens, targets = [], []
    for length in LENGTHS:
        ids = torch.randint(MODEL["vocab_size"], (length + 1,), generator=generator)
        tokens.append(ids[:-1])
        targets.append(ids[1:].clone())
    targets[0][:4] = -1  # as after a prompt
    targets[1][5] = -1
    return tokens, targets


def rms_norm(x, w):
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + MODEL["norm_epsilon"])


def rope(x):
    """x [heads, T, d]: rotates the pairs (i, i + d/2) by position * theta^(-2i/d)."""
    T, half = x.shape[1], x.shape[2] // 2
    exponent = torch.arange(half, dtype=torch.float64) / half
    angle = torch.arange(T, dtype=torch.float64)[:, None] * MODEL["rope_theta"] ** -exponent
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, w, layer):
    T, heads, kv_heads = x.shape[0], MODEL["heads"], MODEL["kv_heads"]

    def project(which, n):
        return (x @ w[f"{layer}self_attn.{which}_proj.weight"].T).view(T, n, -1).transpose(0, 1)

    q, k, v = rope(project("q", heads)), rope(project("k", kv_heads)), project("v", kv_heads)
    k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[2])).masked_fill(future, -math.inf)
    out = (scores.softmax(-1) @ v).transpose(0, 1).reshape(T, -1)
    return out @ w[layer + "self_attn.o_proj.weight"].T


def forward(w, ids):
    """Logits [T, V] of one sequence."""
    x = w["model.embed_tokens.weight"][ids]
    for i in range(MODEL["layers"]):
        layer = f"model.layers.{i}."
        x = x + attention(rms_norm(x, w[layer + "input_layernorm.weight"]), w, layer)
        n = rms_norm(x, w[layer + "post_attention_layernorm.weight"])
        gate = torch.nn.functional.silu(n @ w[layer + "mlp.gate_proj.weight"].T)
        up = n @ w[layer + "mlp.up_proj.weight"].T
        x = x + (gate * up) @ w[layer + "mlp.down_proj.weight"].T
    x = rms_norm(x, w["model.norm.weight"])
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def loss_of(logits, targets):
    token_loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1,
                                                   reduction="none")
    return token_loss, token_loss.sum() / (targets >= 0).sum()


def run(weights, tokens, targets, number_type):
    """Everything the file holds beside the batch, computed in number_type."""
    w = {name: x.to(number_type).clone().requires_grad_() for name, x in weights.items()}
    targets = torch.cat(targets)

    def step():
        logits = torch.cat([forward(w, ids) for ids in tokens])
        token_loss, loss = loss_of(logits, targets)
        return logits, token_loss, loss, torch.autograd.grad(loss, list(w.values()))

    logits, token_loss, loss, grads = step()
    out = {"logits": logits, "token_loss": token_loss, "loss": loss.view(1)}
    out |= {"grad." + name: g for name, g in zip(w, grads)}

    c = TRAINING
    first = {name: torch.zeros_like(x) for name, x in w.items()}
    second = {name: torch.zeros_like(x) for name, x in w.items()}
    losses, norms = [loss], []
    for t in range(1, c["steps"] + 1):
        norm = torch.sqrt(sum((g * g).sum() for g in grads))
        norms.append(norm)
        scale = torch.clamp(c["max_grad_norm"] / norm, max=1.0)
        rate = (c["learning_rate"] * math.sqrt(1 - c["adam_beta2"] ** t)
                / (1 - c["adam_beta1"] ** t))
        with torch.no_grad():
            for (name, x), g in zip(w.items(), grads):
                m, v, g = first[name], second[name], g * scale
                m.mul_(c["adam_beta1"]).add_((1 - c["adam_beta1"]) * g)
                v.mul_(c["adam_beta2"]).add_((1 - c["adam_beta2"]) * g * g)
                decay = 0.0
                if x.dim() == 2 and name != "model.embed_tokens.weight":
                    decay = c["learning_rate"] * c["weight_decay"]
                x.sub_(rate * m / (v.sqrt() + c["adam_epsilon"]) + decay * x)
        _, _, loss, grads = step()
        losses.append(loss)
    out["grad_norm"], out["losses"] = torch.stack(norms), torch.stack(losses)
    out |= {"final." + name: x for name, x in w.items()}
    return {name: x.detach() for name, x in out.items()}


def check_against_transformers(weights, tokens, targets, golden):
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        print("transformers is not installed: model not cross-checked")
        return
    m = MODEL
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=m["vocab_size"], hidden_size=m["d_model"], intermediate_size=m["d_ff"],
        num_hidden_layers=m["layers"], num_attention_heads=m["heads"],
        num_key_value_heads=m["kv_heads"], rms_norm_eps=m["norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": m["rope_theta"]},
        tie_word_embeddings="lm_head.weight" not in weights)).double()
    left = model.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}, left
    logits = torch.cat([model(ids[None]).logits[0] for ids in tokens])
    loss_of(logits, torch.cat(targets))[1].backward()
    worst = (logits - golden["logits"]).abs().max().item()
    for name, p in model.named_parameters():
        worst = max(worst, (p.grad - golden["grad." + name]).abs().max().item())
    # Its rotary angles are float32, and so are its softmax and norms.
    assert worst < 1e-5, f"differs from LlamaForCausalLM by {worst}"
    print(f"  LlamaForCausalLM: largest difference {worst:.1e}")


def report_float32(weights, tokens, targets, golden):
    plain = run(weights, tokens, targets, torch.float32)
    groups = {}
    for name, exact in golden.items():
        group = name.split(".")[0] if name.startswith(("grad.", "final.")) else name
        error = (plain[name].double() - exact).abs().max().item()
        groups[group] = max(groups.get(group, 0.0), error)
    print("  float32, largest error: " + ", ".join(f"{g} {e:.1e}" for g, e in groups.items()))


def make(tied):
    generator = torch.Generator().manual_seed(SEED)
    tokens, targets = make_batch(generator)
    weights = make_weights(tied, generator)
    golden = run(weights, tokens, targets, torch.float64)
    check_against_transformers(weights, tokens, targets, golden)
    report_float32(weights, tokens, targets, golden)
    batch = {"tokens": torch.cat(tokens), "targets": torch.cat(targets),
             "offsets": torch.tensor([0, *LENGTHS]).cumsum(0)}
    tensors = {name: x.float().contiguous() for name, x in (weights | batch | golden).items()}
    settings = MODEL | TRAINING | {"tie_embeddings": str(tied).lower()}
    return tensors, {key: str(value) for key, value in settings.items()}


def write(path, tensors, metadata):
    """As the safetensors package writes, but the same bytes every time: that one shuffles."""
    header, end = {"__metadata__": metadata}, 0
    for name, x in tensors.items():
        begin, end = end, end + x.nbytes
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(x.numpy().astype("<f4").tobytes() for x in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def check(path, tensors, metadata):
    with safe_open(path, "pt") as f:
        assert f.metadata() == metadata, f"{path}: other settings: {f.metadata()}"
        assert set(f.keys()) == set(tensors), f"{path}: other tensors"
        worst = max((f.get_tensor(name) - x).abs().max().item() for name, x in tensors.items())
    assert worst < 1e-6, f"{path}: differs by {worst}"
    print(f"  {path}: as made now, to {worst:.1e}")


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
    parser = argparse.ArgumentParser(description="makes the golden files of the decoder")
    parser.add_argument("directory", nargs="?", type=pathlib.Path, default=default)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    for name, tied in (("decoder", False), ("decoder_tied", True)):
        path = args.directory / f"{name}.safetensors"
        print(path.name)
        tensors, metadata = make(tied)
        if args.check:
            check(path, tensors, metadata)
        else:
            write(path, tensors, metadata)
            print(f"  {path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

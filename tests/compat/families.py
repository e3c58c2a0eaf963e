"""The families of checkpoints both ways: directories that transformers wrote give its logits here,
and what `refrain convert` writes of them gives the same logits in transformers, in every type and
in one file or several. run.py runs these checks."""
import json
import random
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hf_check
import hf_make_model

SLIDING, FULL = "sliding_attention", "full_attention"
LLAMA3 = dict(rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
LINEAR = dict(rope_type="linear", rope_theta=1e4, factor=4.0)

# What transformers is asked to make.
MODELS = {
    "llama, llama3 scaling": dict(family="llama", tied=True, rope_parameters=LLAMA3),
    "llama, llama3 scaling, transformers 4": dict(family="llama", rope_parameters=LLAMA3,
                                                  old_config=True),
    "llama, linear scaling": dict(family="llama", rope_parameters=LINEAR),
    "llama, linear scaling, transformers 4": dict(family="llama", rope_parameters=LINEAR,
                                                  old_config=True),
    "llama, attention_bias": dict(family="llama", attention_bias=True),
    "llama, bf16, sharded": dict(family="llama", dtype="bfloat16", shard_size="12KB"),
    "llama, f16": dict(family="llama", dtype="float16"),
    "smollm, tied": dict(family="llama", tied=True, num_attention_heads=8, num_key_value_heads=2,
                         rope_parameters=dict(rope_type="default", rope_theta=1e5)),
    "mistral": dict(family="mistral", sliding_window=8, shard_size="30KB"),
    "mistral, no window": dict(family="mistral", sliding_window=None, written_as="llama"),
    "mistral, llama3 scaling": dict(family="mistral", sliding_window=8, rope_parameters=LLAMA3),
    "ministral": dict(family="ministral", head_dim=8, sliding_window=8, num_hidden_layers=4,
                      layer_types=[SLIDING, SLIDING, FULL, SLIDING], dtype="bfloat16"),
    "qwen2": dict(family="qwen2"),
    "qwen2, tied, sharded": dict(family="qwen2", tied=True, shard_size="20KB"),
    "qwen2, windows": dict(family="qwen2", use_sliding_window=True, sliding_window=8,
                           max_window_layers=1, num_hidden_layers=3, dtype="bfloat16"),
    "qwen2, windows, transformers 4": dict(family="qwen2", use_sliding_window=True,
                                           sliding_window=8, max_window_layers=1, old_config=True),
    "qwen2, unused window": dict(family="qwen2", use_sliding_window=False, sliding_window=8,
                                 tied=True, dtype="float16"),
    "qwen2, linear scaling": dict(family="qwen2", rope_parameters=LINEAR),
    "qwen3": dict(family="qwen3", head_dim=16, tied=True),
    "qwen3, untied, sharded, bf16": dict(family="qwen3", head_dim=16, shard_size="20KB",
                                         dtype="bfloat16"),
    "qwen3, layer types": dict(family="qwen3", head_dim=8, use_sliding_window=True,
                               sliding_window=8, num_hidden_layers=4,
                               layer_types=[SLIDING, FULL, SLIDING, FULL]),
    "qwen3, width and heads": dict(family="qwen3", head_dim=8, hidden_size=30),
    "qwen3, attention_bias": dict(family="qwen3", head_dim=8, attention_bias=True),
    "qwen3, transformers 4": dict(family="qwen3", head_dim=16, old_config=True),
    "smollm3": dict(family="smollm3", tied=True, num_hidden_layers=5),
    "smollm3, windows": dict(family="smollm3", use_sliding_window=True, sliding_window=8,
                             num_hidden_layers=4, no_rope_layers=[1, 0, 0, 1], dtype="bfloat16"),
    "gpt2": dict(family="gpt2", tied=True),
    "gpt2, untied, bf16, sharded": dict(family="gpt2", dtype="bfloat16", shard_size="20KB"),
    "gpt2, f16, exact gelu": dict(family="gpt2", tied=True, dtype="float16",
                                  activation_function="gelu"),
}


def stack_alone(directory):
    """As the first GPT-2s were published: without a prefix, with the masks."""
    path = directory / "model.safetensors"
    tensors = {name.removeprefix("transformer."): x for name, x in load_file(path).items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(tensors, path, {"format": "pt"})


def make(directory, settings):
    hf_make_model.make(directory, **settings)
    return json.loads((directory / "config.json").read_text())


def logits_here(run, directory):
    out = run.directory / "families.logits.safetensors"
    run.must("logits", "-m", directory, "--ids", " ".join(map(str, hf_check.IDS)), "--out", out)
    return load_file(out)["logits"]


def near(found, expected, tolerance=hf_check.TOLERANCE):
    assert found.shape == expected.shape, f"{found.shape}, expected {expected.shape}"
    worst = (found - expected).abs().max().item()
    assert worst <= tolerance, f"logits differ by {worst:.2e}"
    return worst


def both_ways(run, name, settings):
    """Read; written back in float32, and in the type of the files; in one file and in several."""
    directory = run.new_directory("family " + name)
    settings = dict(settings)
    written_as = settings.pop("written_as", settings["family"])
    config = make(directory, settings)
    expected = hf_check.logits_of(directory, hf_check.IDS)
    info = json.loads(run.must("info", "-m", directory, "--json"))
    assert info["model_type"] == config["model_type"], info["model_type"]
    worst = near(logits_here(run, directory), expected)
    dtype = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[settings.get("dtype", "float32")]
    for number, (kind, size) in enumerate([("f32", "5G"), (dtype, "20000")]):
        written = run.new_directory(f"family {name} written {number}")
        run.must("convert", "--from", "hf", directory, "--out", written, "--type", kind,
                 "--max-shard-size", size)
        again = json.loads((written / "config.json").read_text())
        assert again["model_type"] == written_as, again["model_type"]
        assert (written / "model.safetensors").exists() == (size == "5G")
        # As transformers takes the type from config.json by itself.
        loaded = AutoModelForCausalLM.from_pretrained(written)
        assert loaded.dtype == getattr(torch, again["dtype"]), loaded.dtype
        near(hf_check.logits_of(written, hf_check.IDS), expected, 1e-6)
        near(logits_here(run, written), expected)
    return f"logits to {worst:.1e}, and written back"


def gpt2_of_the_stack(run):
    whole, stack = run.new_directory("gpt2 whole"), run.new_directory("gpt2 stack")
    make(whole, dict(family="gpt2", tied=True))
    shutil.copytree(whole, stack)
    stack_alone(stack)
    return f"logits to {near(logits_here(run, stack), hf_check.logits_of(whole, hf_check.IDS)):.1e}"


def trains(run, name):
    """A model of the family trained further here: transformers computes what this does."""
    text, directory = run.directory / "further.txt", run.new_directory("trained " + name)
    draw = random.Random(1)
    text.write_text("".join(" ".join(draw.choices("the a cat sat on mat".split(), k=8)) + ".\n"
                            for _ in range(200)))
    flags = {
        "qwen2": ["--attention.qkv_bias", "true"],
        "qwen3": ["--attention.qk_norm", "true"],
        "smollm3": ["--pattern", "attention attention:rope=false"],
        "ministral": ["--pattern", "attention:window=8 attention"],
        "gpt2": ["--attention.qkv_bias", "true", "--attention.output_bias", "true",
                 "--attention.rope", "false", "--norm", "layer_norm", "--feed-forward", "gelu_tanh",
                 "--feed-forward-bias", "--learned-positions", "--tie-embeddings"],
        "llama": ["--attention.rope_scaling", "llama3", "--attention.rope_factor", "8",
                  "--attention.rope_original_context", "16", "--attention.rope_theta", "100"],
    }[name]
    run.must("train", "--task", "lm", "--data", text, "--out", directory, "--tokenizer", "char",
             "--layers", 2, "--d-model", 32, "--heads", 4, "--kv-heads", 4 if name == "gpt2" else 2,
             "--d-ff", 48, "--context", 48, "--batch-size", 4, "--max-steps", 60, "--learning-rate", 1e-2,
             "--seed", 1, *flags)
    assert json.loads((directory / "config.json").read_text())["model_type"] == name
    ids = [i % 10 for i in hf_check.IDS]
    return run.compare_logits(directory, ids)


def checks(run):
    """(name, function) of every check."""
    for name, settings in MODELS.items():
        yield f"family {name}", lambda: both_ways(run, name, settings)
    yield "family gpt2, the stack alone", lambda: gpt2_of_the_stack(run)
    for name in ("llama", "ministral", "qwen2", "qwen3", "smollm3", "gpt2"):
        yield f"family {name}, trained here", lambda: trains(run, name)

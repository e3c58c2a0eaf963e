#!/usr/bin/env python3
"""Compares refrain with llama.cpp and transformers over GGUF files.

Small models of every tokenizer kind and of the shapes that llama.cpp computes are trained, converted
and run in both programs; with --model, a published model is read from its GGUF file and from the
directory that transformers makes of it.

usage: gguf_compat.py --refrain build/release/refrain [--model FILE.gguf] [--llama2c MODEL.bin TOK.bin]
                      [--texts FILE...] [--work DIR]

Needs llama-cpp-python, gguf, numpy and safetensors; with --model, torch and transformers (with
accelerate) as well. Exits 1 if anything differs that should not.
"""
import argparse
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
import numpy as np
from gguf import GGUFReader
from llama_cpp import llama_cpp as lib
from safetensors.numpy import load_file

PROMPT = "Gravity keeps a satellite in orbit because"
SENTENCES = ["the cat sat on the mat , and the dog saw 12 birds .", "a bird is not a dog , is it ?",
             "Zwei Katzen \u732b\u3068\u72ac \u00e9t\u00e9 na\u00efve 2024", "who sat there ? the dog did it again !"]
failures = 0


def check(what: str, holds: bool, figure: str = "") -> None:
    global failures
    failures += not holds
    print(f"{'ok  ' if holds else 'FAIL'}  {what}{': ' + figure if figure else ''}", flush=True)


@lib.llama_log_callback
def silent(level, text, data):
    pass


class LlamaCpp:
    """Keys and values stay float32, so that what differs is the weights' type."""

    def __init__(self, path, context=1024):
        lib.llama_log_set(silent, None)
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        assert self.model, f"llama.cpp cannot read {path}"
        self.vocab = lib.llama_model_get_vocab(self.model)
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = context
        parameters.n_threads = parameters.n_threads_batch = 2
        parameters.type_k = parameters.type_v = 0  # GGML_TYPE_F32
        parameters.flash_attn_type = 0
        self.context = lib.llama_init_from_model(self.model, parameters)
        self.ids = lib.llama_vocab_n_tokens(self.vocab)
        self.batch = lib.llama_batch_init(context, 0, 1)

    def __del__(self):
        if getattr(self, "context", None):
            lib.llama_batch_free(self.batch)
            lib.llama_free(self.context)
        if getattr(self, "model", None):
            lib.llama_model_free(self.model)

    def encode(self, text, special=False):
        raw = text.encode()
        made = (lib.llama_token * (len(raw) + 8))()
        n = lib.llama_tokenize(self.vocab, raw, len(raw), made, len(made), False, special)
        assert n >= 0
        return list(made[:n])

    def eval(self, ids, first):
        """The logits behind each id."""
        self.batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self.batch.token[i] = token
            self.batch.pos[i] = first + i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = 1
        assert lib.llama_decode(self.context, self.batch) == 0
        rows = lib.llama_get_logits(self.context)
        return np.ctypeslib.as_array(rows, (len(ids), self.ids)).copy()

    def logits(self, ids):
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        return self.eval(ids, 0)

    def greedy(self, ids, count):
        made = [int(np.argmax(self.logits(ids)[-1]))]
        while len(made) < count:
            made.append(int(np.argmax(self.eval(made[-1:], len(ids) + len(made) - 1)[-1])))
        return made


class Refrain:
    def __init__(self, program, work):
        self.program, self.work = str(pathlib.Path(program).resolve()), work

    def run(self, *arguments, text=None):
        done = subprocess.run([self.program, *map(str, arguments)], input=text, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"refrain {' '.join(map(str, arguments))}: {done.stderr.decode()}")
        return done.stdout.decode()

    def refusal(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True)
        return done.stderr.decode().strip() if done.returncode == 2 else None

    def encode(self, model, text, special=False):
        flags = ["--parse-special"] if special else []
        return [int(i) for i in self.run("tokenizer", "encode", "-m", model, *flags,
                                         text=text.encode()).split()]

    def greedy(self, model, prompt, count):
        out = json.loads(self.run("generate", "-m", model, "-p", prompt, "-n", count, "--temp", 0,
                                  "--ignore-eos", "--json"))
        return [token["id"] for token in out["tokens"]]

    def logits(self, model, ids):
        out = self.work / "logits.safetensors"
        out.unlink(missing_ok=True)
        self.run("logits", "-m", model, "--ids", " ".join(map(str, ids)), "--out", out)
        return load_file(out)["logits"]


def same(a, b):
    """How many are equal from the first on."""
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return n, f"{n} of {max(len(a), len(b))}"


def distance(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare_texts(what, encode, others, texts):
    for name, other in others.items():
        differing = total = 0
        for text in texts:
            ours, theirs = encode(text), other(text)
            total += len(theirs)
            differing += sum(x != y for x, y in zip(ours, theirs)) + abs(len(ours) - len(theirs))
        check(f"{what}: ids equal {name}'s", differing == 0, f"{total} ids, {differing} differ")


def quantised_by_llama_cpp(path, out, file_type):
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 2
    assert lib.llama_model_quantize(str(path).encode(), str(out).encode(), ctypes.byref(parameters)) == 0


def compare_quantised(refrain, what, model, f32, ids):
    """Files of Q8_0 and Q4_0 against llama.cpp's own of the same weights."""
    for name, file_type in ("q8_0", lib.LLAMA_FTYPE_MOSTLY_Q8_0), ("q4_0", lib.LLAMA_FTYPE_MOSTLY_Q4_0):
        ours, theirs = refrain.work / f"ours-{name}.gguf", refrain.work / f"theirs-{name}.gguf"
        refrain.run("convert", "--to", "gguf", "--type", name, "-m", model, "--out", ours)
        quantised_by_llama_cpp(f32, theirs, file_type)
        tensors = {t.name: t for t in GGUFReader(theirs).tensors}
        equal = sum(t.tensor_type == tensors[t.name].tensor_type and t.data.tobytes() == tensors[t.name].data.tobytes()
                    for t in GGUFReader(ours).tensors)
        a, b = LlamaCpp(ours).logits(ids), LlamaCpp(theirs).logits(ids)
        check(f"{what}, {name}: llama.cpp's logits as of its own quantisation", distance(a, b) < 1e-6,
              f"{distance(a, b):.1e}; {equal} of {len(tensors)} tensors have the same bytes")
        mine = refrain.logits(ours, ids)
        check(f"{what}, {name}: refrain's logits", distance(mine, a) < 0.05, f"{distance(mine, a):.1e} from llama.cpp's")


def own_models(refrain, text_path):
    """Trained here."""
    text = text_path.read_text()
    kinds = {"byte-bpe": "byte-bpe:400", "char": "char", "bpe": "bpe:300", "word": "word:300"}
    shapes = {"llama": [], "llama, tied, grouped, wide heads": ["--tie-embeddings", "--kv-heads", "1", "--head-dim", "48"]}
    if "qkv-bias" in refrain.run("train", "--help"):
        shapes["qwen2"] = ["--attention.qkv-bias"]
        shapes["qwen3"] = ["--attention.qk-norm", "--head-dim", "32"]
        shapes["llama, biases"] = ["--attention.qkv-bias", "--attention.output-bias"]
        shapes["llama, linear angles"] = ["--attention.rope-scaling", "linear", "--attention.rope-factor", "4"]
        shapes["llama, Llama 3's angles"] = ["--attention.rope-scaling", "llama3", "--attention.rope-factor", "8",
                                             "--attention.rope-theta", "500000"]
    prompts = {"byte-bpe": "the dog ", "char": "the dog ", "bpe": "the dog", "word": "the dog"}
    for kind, tokenizer in kinds.items():
        for number, (shape, flags) in enumerate(shapes.items()):
            if shape != "llama" and kind != "byte-bpe":
                continue
            what = f"{kind}, {shape}"
            run = refrain.work / f"run-{kind}-{number}"
            refrain.run("train", "--task", "lm", "--data", text_path, "--tokenizer", tokenizer, "--out", run,
                        "--d-model", 96, "--layers", 2, "--heads", 4, "--d-ff", 128, "--context", 512,
                        "--batch-size", 4, "--max-steps", 60, "--seed", 1, *flags)
            f32 = refrain.work / f"{run.name}.gguf"
            if kind in ("bpe", "word"):
                said = refrain.refusal("convert", "--to", "gguf", "-m", run, "--out", f32)
                check(f"{what}: refused by name", bool(said) and "llama.cpp has none" in said, said or "not refused")
                refrain.run("convert", "--to", "gguf", "-m", run, "--out", f32, "--without-tokenizer")
            else:
                refrain.run("convert", "--to", "gguf", "-m", run, "--out", f32)
            theirs = LlamaCpp(f32)
            ids = refrain.encode(run, prompts[kind])
            if kind not in ("bpe", "word"):
                compare_texts(what, lambda t: refrain.encode(run, t), {"llama.cpp": theirs.encode},
                              SENTENCES[:2] + SENTENCES[3:] if kind == "char" else [*SENTENCES, text])
                compare_texts(f"{what}, read back", lambda t: refrain.encode(f32, t),
                              {"llama.cpp": theirs.encode}, SENTENCES)
            a, b = refrain.logits(run, ids), theirs.logits(ids)
            check(f"{what}: logits", distance(a, b) < 1e-4, f"{distance(a, b):.1e}")
            made = refrain.greedy(run, prompts[kind], 256)
            n, figure = same(made, theirs.greedy(ids, 256))
            check(f"{what}: 256 greedy tokens of llama.cpp at F32", n == 256, figure)
            if kind not in ("bpe", "word"):
                n, figure = same(made, refrain.greedy(f32, prompts[kind], 256))
                check(f"{what}: the same of the file", n == 256, figure)
                compare_quantised(refrain, what, run, f32, ids)


def scored_pieces(refrain, model, tokenizer, texts):
    """llama2.c's stories260K: a Llama whose tokenizer has scores."""
    run, f32 = refrain.work / "llama2c", refrain.work / "llama2c.gguf"
    refrain.run("convert", "--from", "llama2c", model, "--tokenizer", tokenizer, "--out", run)
    refrain.run("convert", "--to", "gguf", "-m", run, "--out", f32)
    theirs = LlamaCpp(f32, 512)
    for place in (run, f32):
        compare_texts(f"llama, {place.name}", lambda t, m=place: refrain.encode(m, t),
                      {"llama.cpp": theirs.encode}, texts + SENTENCES)
    ids = refrain.encode(run, "Once upon a time")
    n, figure = same(refrain.greedy(run, "Once upon a time", 256), theirs.greedy([1, *ids], 256))
    check("llama, llama2c: 256 greedy tokens of llama.cpp at F32", n == 256, figure)


def published_model(refrain, path, texts):
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.manual_seed(0)
    name = path.name
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # A model that says that it came from GGUF cannot be saved.
    del read.config.quantization_config
    theirs = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32).eval()
    theirs.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    directory, converted, f32 = refrain.work / "transformers", refrain.work / "converted", refrain.work / "f32.gguf"
    # transformers does not read how texts are split (tokenizer.ggml.pre).
    if GGUFReader(path).fields["tokenizer.ggml.pre"].contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    theirs.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    refrain.run("convert", "--from", "gguf", path, "--out", converted)
    refrain.run("convert", "--to", "gguf", "-m", path, "--out", f32)
    ids = refrain.encode(path, PROMPT)
    llama, exact = LlamaCpp(path), LlamaCpp(f32)

    contents = [p.read_text(errors="replace") for p in texts] + SENTENCES
    oracles = {"llama.cpp": llama.encode,
               "transformers": lambda t: tokenizer(t, add_special_tokens=False)["input_ids"]}
    for name_of, oracle in oracles.items():
        known = {text: oracle(text) for text in contents}
        for model in (path, directory, converted):
            compare_texts(f"{model.name}", lambda t, m=model: refrain.encode(m, t), {name_of: known.get}, contents)
    conversation = tokenizer.apply_chat_template([{"role": "user", "content": "Hi <b>"}], tokenize=False,
                                                 add_generation_prompt=True)
    check("ids of a conversation equal llama.cpp's",
          refrain.encode(path, conversation, True) == llama.encode(conversation, True))
    check("the template is handed on", (converted / "chat_template.jinja").read_text() == tokenizer.chat_template)

    with torch.no_grad():
        reference = theirs(torch.tensor([ids])).logits[0].numpy()
    for model in (directory, converted, f32):
        d = distance(refrain.logits(model, ids), reference)
        check(f"{model.name}: logits of transformers", d < 1e-4, f"{d:.1e}")
    check(f"{name}: logits of transformers", True, f"{distance(refrain.logits(path, ids), reference):.1e}, rounded inputs")
    check("llama.cpp's logits of the float32 file", distance(exact.logits(ids), reference) < 1e-3,
          f"{distance(exact.logits(ids), reference):.1e}")

    with torch.no_grad():
        made = theirs.generate(torch.tensor([ids]), max_new_tokens=64, min_new_tokens=64, do_sample=False)[0, len(ids):].tolist()
    of_f32 = refrain.greedy(converted, PROMPT, 64)
    for model in (directory, f32):
        n, figure = same(refrain.greedy(model, PROMPT, 64), of_f32)
        check(f"{model.name}: 64 greedy tokens of {converted.name}", n == 64, figure)
    n, figure = same(of_f32, exact.greedy(ids, 64))
    check("64 greedy tokens of llama.cpp at F32", n == 64, figure)
    n, figure = same(of_f32, made)
    check("64 greedy tokens of transformers", n == 64, figure)
    n, figure = same(refrain.greedy(path, PROMPT, 64), llama.greedy(ids, 64))
    check(f"64 greedy tokens of llama.cpp at {name}'s types", n == 64, figure)
    print("      " + tokenizer.decode(of_f32)[:70])
    compare_quantised(refrain, "published model", converted, f32, ids)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--llama2c", nargs=2)
    parser.add_argument("--texts", nargs="*", type=pathlib.Path, default=[])
    parser.add_argument("--work", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        refrain = Refrain(arguments.refrain, work)
        text = work / "text.txt"
        # Enough lines for vocabularies; the same on every machine.
        words = "the a cat dog bird mat sat saw is not it there who did again on and two three".split()
        rng = np.random.default_rng(1)
        lines = [" ".join(rng.choice(words, 8)) + rng.choice([" .", " ?", " !", "."]) for _ in range(3000)]
        text.write_text("\n".join(lines + SENTENCES[:2] + SENTENCES[3:]))
        if arguments.llama2c:
            scored_pieces(refrain, *arguments.llama2c, [p.read_text(errors="replace") for p in arguments.texts])
        if not arguments.model and not arguments.llama2c:
            own_models(refrain, text)
        if arguments.model:
            published_model(refrain, arguments.model, arguments.texts)
    print(f"{failures} failures")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())

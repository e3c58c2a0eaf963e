#!/usr/bin/env python3
"""Runs a GGUF file in llama.cpp by its low-level functions, and prints a line of JSON.

usage: decode.py FILE --ids "1 2 3" --logits OUT     the logits of these ids, all of them, as a
                                                     safetensors file
       decode.py FILE --ids "1 2 3" --new-tokens N   the ids as one batch, then N - 1 tokens one by
                                                     one, each the likeliest

The seconds are those within llama.cpp: choosing a token in Python is not counted. Before it is
timed the same prompt and a few tokens are read once, so that every page of the file is there.
The cache is float16, llama.cpp's default. For --logits it is float32, without flash attention, so
that what is compared is the weights.
"""
import argparse
import json
import math
import pathlib
import re
import sys
import time

try:
    import numpy as np
    import llama_cpp
    from llama_cpp import llama_cpp as lib
except ImportError as error:
    sys.exit(f"decode.py: the package {error.name} is missing; run it with the Python that "
             "bench/rivals/llamacpp/setup.sh prints")

import layout

WARM_UP = 4
F32, NO_FLASH_ATTENTION = 0, 0  # GGML_TYPE_F32, LLAMA_FLASH_ATTN_TYPE_DISABLED


def memory(key):
    """VmRSS or VmHWM, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(key + r":\s+(\d+) kB", status)[1])


@lib.llama_log_callback
def no_log(level, text, user_data):
    pass


class Model:
    """`prompt` ids can be read together, and so many `more` behind them."""

    def __init__(self, path, prompt, more, threads, exact):
        lib.llama_log_set(no_log, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(path).encode(),
                                                    lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"decode.py: llama.cpp does not load {path}")
        params = lib.llama_context_default_params()
        params.n_ctx = prompt + more
        params.n_batch = params.n_ubatch = prompt
        params.n_threads = params.n_threads_batch = threads
        if exact:
            params.type_k = params.type_v = F32
            params.flash_attn_type = NO_FLASH_ATTENTION  # which multiplies in float16
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"decode.py: llama.cpp makes no context of {prompt + more} for {path}")
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(prompt, 0, 1)
        self.position = 0

    def read(self, ids, all_logits=False):
        """The logits behind the last of these ids, or behind each, and the seconds it took."""
        b = self.batch
        b.n_tokens = len(ids)
        for i, token in enumerate(ids):
            b.token[i] = token
            b.pos[i] = self.position + i
            b.n_seq_id[i] = 1
            b.seq_id[i][0] = 0
            b.logits[i] = all_logits or i == len(ids) - 1
        start = time.perf_counter()
        status = lib.llama_decode(self.context, b)
        if status != 0:
            raise SystemExit(f"decode.py: llama_decode returned {status}")
        # It waits for the result; its rows are those that were asked for, one after another.
        pointer = lib.llama_get_logits(self.context)
        seconds = time.perf_counter() - start
        self.position += len(ids)
        count = len(ids) if all_logits else 1
        return np.ctypeslib.as_array(pointer, shape=(count, self.vocab)), seconds

    def forget(self):
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        self.position = 0


def log_probability(row, token):
    top = row.max()
    return float(row[token] - top) - math.log(float(np.exp(row - top, dtype=np.float64).sum()))


def generate(model, prompt, count):
    """Ids, their log probabilities, and the seconds of the prompt and of the tokens after it."""
    logits, prompt_seconds = model.read(prompt)
    ids, logprobs, seconds = [], [], 0.0
    for _ in range(count):
        if ids:
            logits, took = model.read(ids[-1:])
            seconds += took
        ids.append(int(logits[0].argmax()))
        logprobs.append(log_probability(logits[0], ids[-1]))
    return ids, logprobs, prompt_seconds, seconds


def features():
    """What llama.cpp says that it was built with."""
    found = re.findall(r"(\w+) = 1", lib.llama_print_system_info().decode())
    return list(dict.fromkeys(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--logits", type=pathlib.Path)
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ids = [int(word) for word in args.ids.split()]
    imports = memory("VmRSS")
    model = Model(args.file, len(ids), args.new_tokens or 0, args.threads, bool(args.logits))
    if args.logits:
        logits, _ = model.read(ids, True)
        layout.write_safetensors(args.logits, [("logits", logits.shape)],
                                 [np.ascontiguousarray(logits, np.float32)])
        return
    generate(model, ids, min(WARM_UP, args.new_tokens))
    model.forget()
    found, logprobs, prompt_seconds, seconds = generate(model, ids, args.new_tokens)
    print(json.dumps({
        "ids": found, "logprobs": logprobs,
        "prompt_seconds": prompt_seconds, "generation_seconds": seconds,
        "stored_bytes": lib.llama_model_size(model.model),
        "memory_bytes": memory("VmHWM") - imports,
        "engine": f"llama-cpp-python {llama_cpp.__version__}",
        "features": features(),
    }))


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Encodes texts with Refrain and with the `tokenizers` package in turns, each with one thread and in
documents of some kilobytes, and prints a Markdown table: megabytes a second (medians), and the median
of the rounds' ratios. Refuses a row whose numbers of ids differ.

usage: encode.py --bench build/release/bench_encode TEXT... [--mixed 2] [--forms NAME...]
                 [--keep FOLDER]      with the tokenizers that are trained first, to measure again
       needs: tokenizers
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tests/compat"))
import tokenizer_forms
from tokenizers import Tokenizer

FORMS = ["GPT-2", "SmolLM2", "Qwen2", "Qwen3.5", "Llama-3", "GPT-4", "GPT-4o", "DeepSeek", "StarCoder",
         "compatible, lower case", "Llama-2", "Mistral"]


def documents(text, size):
    """The text cut behind line ends, as bench_encode cuts it."""
    data, at = text.encode(), 0
    while at < len(data):
        end = data.find(b"\n", at + size)
        end = len(data) if end < 0 else end + 1
        yield data[at:end].decode()
        at = end


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("texts", nargs="+", type=pathlib.Path)
    parser.add_argument("--bench", required=True, type=pathlib.Path)
    parser.add_argument("--mixed", type=float, default=2, help="megabytes of mixed text")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=tokenizer_forms.FORMS)
    parser.add_argument("--vocabulary", type=int, default=16000)
    parser.add_argument("--document", type=int, default=8192, help="bytes of one, at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--train-only", action="store_true", help="fill the folder of --keep")
    arguments = parser.parse_args()
    texts = {path.name: path.read_bytes().decode() for path in arguments.texts}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(exist_ok=True)
        mixed = folder / "mixed"
        if not mixed.exists():
            mixed.write_bytes(tokenizer_forms.mixed_text(
                arguments.mixed, list(texts.values())).encode())
        texts["mixed"] = mixed.read_bytes().decode()
        for form in arguments.forms:
            if not (folder / f"{form}.json").exists():
                made = tokenizer_forms.FORMS[form]("".join(texts.values()), arguments.vocabulary)
                made.save(str(folder / f"{form}.json"))
        if not arguments.train_only:
            measure(arguments, texts, folder)


def measure(arguments, texts, folder):
    slowest = float("inf")
    print("| form | text | Refrain, MB/s | tokenizers, MB/s | ratio |\n|---|---|---|---|---|")
    file = folder / "text"
    for form in arguments.forms:
        saved = folder / f"{form}.json"
        for name, text in texts.items():
            file.write_bytes(text.encode())
            parts = list(documents(text, arguments.document))
            ours = subprocess.Popen(
                [arguments.bench, saved, file, str(arguments.document)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            times = []
            for _ in range(arguments.rounds + 1):
                ours.stdin.write("\n")
                ours.stdin.flush()
                seconds, ids = ours.stdout.readline().split()
                theirs = Tokenizer.from_file(str(saved))  # it must not know the words already
                start = time.perf_counter()
                encoded = theirs.encode_batch_fast(parts, add_special_tokens=False)
                times.append((float(seconds), time.perf_counter() - start))
                if int(ids) != sum(len(e.ids) for e in encoded):
                    sys.exit(f"{form}, {name}: {ids} ids, not what the package gives")
            ours.stdin.close()
            ours.wait()
            times = times[1:]  # both have read everything once
            size = len(text.encode()) / 1e6
            rates = [size / statistics.median(side) for side in zip(*times)]
            ratio = statistics.median(b / a for a, b in times)
            slowest = min(slowest, ratio)
            print(f"| {form} | {name} | {rates[0]:.1f} | {rates[1]:.2f} | {ratio:.1f} |", flush=True)
    print(f"\nThe smallest ratio is {slowest:.1f}.")


if __name__ == "__main__":
    main()

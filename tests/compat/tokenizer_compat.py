#!/usr/bin/env python3
"""Compares refrain's tokenizers with the `tokenizers` package, in both directions.

For every kind, refrain trains a tokenizer on each text and the package reads it; the package trains
one and refrain reads it. Both then encode that text, another of those given and texts of random
characters, spaces and special tokens, and both decode the ids: ids and decoded text must be equal.
Then tokens with random settings are added to those of the package, and both encode and decode short
texts made of them, with and without special tokens.

The forms of published models (tokenizer_forms.py) are compared on some megabytes of many scripts, as
the package wrote them and as refrain writes them again, with and without what a template adds, and
with bytes that are not UTF-8.

usage: tokenizer_compat.py REFRAIN TEXT... [--size 2000] [--megabytes 10] [--ids-only]
                           [--forms NAME...]
"""
import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

import tokenizer_forms

MARK = "\u2581"


def random_texts(seed):
    """A few texts that no book has."""
    rng = random.Random(seed)
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x400), (0x600, 0x6FF), (0x0E01, 0x0E3A),
              (0x2000, 0x2070), (0x2150, 0x2190), (0x3000, 0x30FF), (0x4E00, 0x4F00),
              (0xAC00, 0xAD00), (0x1F600, 0x1F640)]
    spaces = " \t\n\r\v\f\u0085\u00a0\u1680\u2003\u2028\u202f\u3000"
    words = ["'s", "'ll", "'LL", "don't", "we've", "12", "½", "  ", MARK,
             "</w>", "<unk>", "<s>", "</s>"]
    for _ in range(3):
        parts = []
        for _ in range(4000):
            what = rng.random()
            if what < 0.4:
                parts.append(chr(rng.randrange(*rng.choice(blocks))))
            elif what < 0.7:
                parts.append(rng.choice(spaces) * rng.choice([1, 1, 1, 2, 5]))
            else:
                parts.append(rng.choice(words))
        yield "".join(parts)
    yield "".join(rng.choice("ab") for _ in range(20000))  # one long word


def train_char(text, _):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=1, special_tokens=["<unk>"], show_progress=False))
    return tokenizer


def train_bpe(text, size):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], end_of_word_suffix="</w>",
        show_progress=False))
    return tokenizer


def train_byte_bpe(text, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def train_word(splitter):
    def train(text, size):
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = splitter()
        tokenizer.train_from_iterator([text], trainers.WordLevelTrainer(
            vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
        return tokenizer
    return train


def train_llama(form):
    def train(text, size):
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Metaspace(MARK, "always", True)
        learner.train_from_iterator([text], trainers.BpeTrainer(
            vocab_size=size, limit_alphabet=200, show_progress=False))
        model = json.loads(learner.to_str())["model"]
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        tokens += model["vocab"]
        tokenizer = Tokenizer(models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if form == "normalizer":
            tokenizer.normalizer = normalizers.Sequence(
                [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
        else:
            scheme, split = form.split()
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, scheme, split == "split")
        tokenizer.decoder = decoders.Sequence([
            decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0)])
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in tokens[:3]])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        return tokenizer
    return train


# kind -> (what refrain is asked to train, how the package does it)
KINDS = {
    "char": ("char", train_char),
    "bpe": ("bpe:{}", train_bpe),
    "byte-bpe": ("byte-bpe:{}", train_byte_bpe),
    "word": ("word:{}", train_word(pre_tokenizers.WhitespaceSplit)),
    "word, punctuation": (None, train_word(pre_tokenizers.Whitespace)),
    "llama, normalizer": (None, train_llama("normalizer")),
    "llama, Metaspace first": (None, train_llama("first whole")),
    "llama, Metaspace always": (None, train_llama("always split")),
    "llama, Metaspace never": (None, train_llama("never split")),
}


def run(program, *arguments, text=None):
    command = [program, "tokenizer", *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.decode().strip()}")
    return done.stdout


def compare(program, directory, files):
    """Differences between refrain and the package, which both use directory/tokenizer.json."""
    theirs = Tokenizer.from_file(str(directory / "tokenizer.json"))
    bad = []
    for file in files:
        text = file.read_bytes().decode()
        for special in (False, True):
            theirs.encode_special_tokens = not special
            flags = ["--parse-special"] if special else []
            expected = theirs.encode(text, add_special_tokens=False).ids
            output = run(program, "encode", "-m", directory, "--input", file, *flags)
            found = [int(i) for i in output.split()]
            if found != expected:
                at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), "the end")
                bad.append(f"{file.name}: {len(found)} ids, not {len(expected)}; differ at {at}")
        line = " ".join(map(str, expected)).encode()
        if run(program, "decode", "-m", directory, text=line) != theirs.decode(expected).encode():
            bad.append(f"{file.name}: decoded text differs")
    return bad


SETTINGS = ["normalized", "special", "single_word", "lstrip", "rstrip"]


def add_tokens(tokenizer, rng):
    """Adds a few tokens that overlap; returns what to make texts of."""
    words = ["sat", "the", "a b", "sa", "t", "ats", "<a>", "a><b", "<", " on", "on ", "e sat", "_x",
             "1", "cat", "at sat", "."]
    chosen = rng.sample(words, rng.randrange(1, 7))
    for word in chosen:
        settings = {name: rng.random() < 0.3 for name in SETTINGS}
        tokenizer.add_tokens([AddedToken(word, **settings)])
    return words + [" ", " ", "  ", "\t", "\u3000", "x", "\u00e9", "\u0301", "\u203f", MARK, "-"]


def compare_added(program, directory, tokenizer, rng, texts=300):
    """Differences of texts made of added tokens, a line each."""
    parts = add_tokens(tokenizer, rng)
    tokenizer.save(str(directory / "tokenizer.json"))
    lines = ["".join(rng.choice(parts) for _ in range(rng.randrange(1, 9))) for _ in range(texts)]
    specials = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    bad = []
    for special in (False, True):
        tokenizer.encode_special_tokens = not special
        flags = ["--parse-special"] if special else []
        expected = [tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
        output = run(program, "encode", "-m", directory, "--lines", *flags,
                     text="\n".join(lines).encode())
        ids = "\n".join(" ".join(map(str, line)) for line in expected).encode() + b"\n"
        for line, found, right in zip(lines, output.decode().split("\n"), expected):
            if [int(i) for i in found.split()] != right:
                bad.append(f"{line!r}, special {special}: {found}, not {right}")
        for with_special in (False, True):
            flags = ["--with-special"] if with_special else []
            output = run(program, "decode", "-m", directory, "--lines", *flags, text=ids)
            for right, found in zip(expected, output.decode(errors="replace").split("\n")):
                # The package itself does not leave out special tokens that the normalizer changed.
                shown = [i for i in right if with_special or i not in specials]
                text = tokenizer.decode(shown, skip_special_tokens=False)
                if found != text:
                    bad.append(f"{right}, with special {with_special}: {found!r}, not {text!r}")
    tokenizer.encode_special_tokens = False
    return bad


def ids_of(program, directory, file, *flags):
    output = run(program, "encode", "-m", directory, "--input", file, *flags)
    return [int(i) for i in output.split()]


def difference(found, expected):
    at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), "the end")
    return f"{len(found)} ids, not {len(expected)}; differ at {at}"


def write_again(program, directory, work):
    """The directory of a tiny model that refrain trains with a tokenizer: it has a copy of that."""
    data, out = work / "one.txt", work / "copy"
    data.write_text("a b c d e f g h\n" * 40)
    shutil.rmtree(out, ignore_errors=True)
    command = [program, "train", "--data", data, "--tokenizer", directory, "--out", out, "--layers",
               1, "--heads", 1, "--d-model", 8, "--context", 8, "--batch-size", 1, "--max-steps", 1]
    done = subprocess.run([*map(str, command)], capture_output=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr.decode()}")
    return out


def compare_ids(program, directory, theirs, file):
    """The same of ids and decoded text alone."""
    expected = theirs.encode(file.read_bytes().decode(), add_special_tokens=False).ids
    found = ids_of(program, directory, file, "--parse-special")
    bad = [] if found == expected else [difference(found, expected)]
    line = " ".join(map(str, expected)).encode()
    decoded = run(program, "decode", "-m", directory, "--with-special", text=line)
    if decoded != theirs.decode(expected, skip_special_tokens=False).encode():
        bad.append("decoded text differs")
    return bad


def compare_form(program, directory, theirs, file, work):
    """Differences of a form of tokenizer between refrain and the package, a line each."""
    text = file.read_bytes().decode()
    bad = []
    expected = theirs.encode(text, add_special_tokens=False).ids
    whole = theirs.encode(text).ids
    theirs.encode_special_tokens = True
    plain = theirs.encode(text, add_special_tokens=False).ids
    for ids, *flags in ([expected, "--parse-special"], [plain],
                        [whole, "--parse-special", "--add-special-tokens"]):
        found = ids_of(program, directory, file, *flags)
        if found != ids:
            bad.append(f"{' '.join(flags) or 'plain'}: {difference(found, ids)}")
    line = " ".join(map(str, expected)).encode()
    for skip, *flags in ([True], [False, "--with-special"]):
        decoded = run(program, "decode", "-m", directory, *flags, text=line)
        if decoded != theirs.decode(expected, skip_special_tokens=skip).encode():
            bad.append(f"decoded text differs {' '.join(flags)}")
    again = write_again(program, directory, work)
    read = Tokenizer.from_file(str(again / "tokenizer.json"))
    if read.encode(text).ids != whole:
        bad.append("the package reads otherwise what refrain wrote")
    return bad


def compare_broken(program, directory, theirs, file):
    """Bytes that are not UTF-8 come back from a byte-level tokenizer without a normalizer."""
    bytes_ = file.read_bytes()
    decoded = run(program, "decode", "-m", directory, "--with-special",
                  text=run(program, "encode", "-m", directory, "--input", file))
    ids = ids_of(program, directory, file)
    same = decoded == bytes_ and theirs.decode(ids, skip_special_tokens=False) == bytes_.decode(
        errors="replace")
    return [] if same else ["bytes that are not UTF-8 do not come back"]


def compare_forms(program, texts, arguments, work):
    rng = random.Random(2)
    text = tokenizer_forms.mixed_text(arguments.megabytes, texts)
    file, broken = work / "mixed.txt", work / "broken.txt"
    file.write_bytes(text.encode())
    broken.write_bytes(b"".join(
        part.encode() + bytes(rng.randrange(128, 256) for _ in range(rng.randrange(3)))
        for part in text[:200000].split(" ")))
    sample = text[:400000] + "".join(t[:200000] for t in texts)
    failures = 0
    for name, make in tokenizer_forms.FORMS.items():
        if arguments.forms and name not in arguments.forms:
            continue
        directory = work / "form"
        directory.mkdir(exist_ok=True)
        theirs = make(sample, arguments.size + 3000)
        theirs.save(str(directory / "tokenizer.json"))
        if arguments.ids_only:
            bad = compare_ids(program, directory, theirs, file)
        else:
            bad = compare_form(program, directory, theirs, file, work)
        if name in tokenizer_forms.LOSSLESS:
            bad += compare_broken(program, directory, theirs, broken)
        failures += len(bad)
        print(f"{name}: {len(text.encode()) / 1e6:.1f} MB:", "; ".join(bad) or "the same", flush=True)
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("refrain")
    parser.add_argument("texts", nargs="+", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=2000,
                        help="tokens beyond the alphabet, about")
    parser.add_argument("--rounds", type=int, default=30,
                        help="sets of added tokens for each text and kind")
    parser.add_argument("--megabytes", type=float, default=10,
                        help="of text for each form of published models")
    parser.add_argument("--ids-only", action="store_true",
                        help="of forms: compare ids and decoded text once, and not what is added to "
                        "texts, plain texts, and files that refrain writes again")
    parser.add_argument("--forms", nargs="+", choices=tokenizer_forms.FORMS,
                        help="compare these forms alone")
    arguments = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        texts = [path.read_bytes().decode() for path in arguments.texts]
        failures += compare_forms(arguments.refrain, texts, arguments, work)
        if arguments.forms:
            arguments.texts = []
        random_files = []
        for i, text in enumerate(random_texts(1)):
            random_files.append(work / f"random_{i}.txt")
            random_files[-1].write_bytes(text.encode())
        for i, source in enumerate(arguments.texts):
            files = {source, arguments.texts[i - 1], *random_files}
            text = source.read_bytes().decode()
            size = arguments.size + 2 * len(set(text))  # the alphabet may be large
            for kind, (spec, train) in KINDS.items():
                tokenizer = train(text, size)
                directory = work / "model"
                directory.mkdir(exist_ok=True)

                def ours():
                    run(arguments.refrain, "train", "--kind", spec.format(size),
                        "--data", source, "--out", directory)

                def theirs():
                    tokenizer.save(str(directory / "tokenizer.json"))

                directions = {"package -> refrain": theirs}
                if spec:
                    directions["refrain -> package"] = ours
                for direction, make in directions.items():
                    make()
                    bad = compare(arguments.refrain, directory, files)
                    failures += len(bad)
                    result = "; ".join(bad) or "the same"
                    print(f"{source.name}: {kind}: {direction}: {result}", flush=True)
                rng = random.Random(f"{source.name} {kind}")
                saved = tokenizer.to_str()
                bad = []
                for _ in range(arguments.rounds):
                    fresh = Tokenizer.from_str(saved)
                    bad += compare_added(arguments.refrain, directory, fresh, rng)
                failures += len(bad)
                print(f"{source.name}: {kind}: added tokens:", "; ".join(bad[:5]) or "the same",
                      flush=True)
    print(f"{failures} differences" if failures else "all the same")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())

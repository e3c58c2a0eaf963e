#!/usr/bin/env python3
"""Checks that refrain's BLEU and chrF are sacreBLEU's.

usage: sacrebleu_compat.py --refrain BIN [--data DIR] [--rounds N]
needs: sacrebleu 2

Texts of every kind are compared with spoilt copies of themselves: lines of the files under --data
(whole sentences of parallel corpora, prose), and random strings of what is hard (punctuation,
numbers, entities, white space of all sorts, scripts without spaces). Every tokenization and both
kinds of chrF must give the package's score to 1e-9; signatures must be the same but for the
version. A line a check; the exit status is 1 when one failed.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from sacrebleu.metrics import BLEU, CHRF

TOLERANCE = 1e-9
MOST_LINES = 400  # of a file

HARD = ["a", "b", "the", "Word", "x-ray", "don't", "1", "23", "4.5", "1,000", "3-4", ".", ",", "..",
        ".,", ",.", "...", "-", "--", "'", '"', "(", ")", "[", "]", "{", "}", "!", "?", ";", ":",
        "/", "\\", "@", "#", "$", "%", "^", "&", "*", "+", "=", "<", ">", "_", "`", "|", "~",
        "&quot;", "&amp;", "&lt;", "&gt;", "&amp;lt;", "&apos;", "<skipped>", "é", "e\u0301", "ß",
        "日", "本", "。", "、", "「", "」", "１", "．", "一九", "👍🏽", "\u200b", "\ufeff", "\u0660",
        "\t", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f", "\x7f", "\x85", "\xa0", "\u1680",
        "\u180e", "\u2003", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000"]


def hard_line(draw):
    space = draw.choice(["", " ", " ", "  "])
    return "x" + space.join(draw.choices(HARD, k=draw.randint(0, 25)))


def spoilt(line, draw, how_much):
    """The line with words (or characters) lost, doubled, swapped and replaced."""
    parts, between = (line.split(" "), " ") if " " in line.strip() else (list(line), "")
    made = []
    for part in parts:
        if draw.random() >= how_much:
            made.append(part)
            continue
        made += {"lose": [], "double": [part, part], "replace": [draw.choice(parts)],
                 "cut": [part[:-1]], "add": [part + draw.choice(HARD)]}[
                     draw.choice(["lose", "double", "replace", "cut", "add"])]
    if len(made) > 1 and draw.random() < how_much:
        i = draw.randrange(len(made) - 1)
        made[i], made[i + 1] = made[i + 1], made[i]
    return between.join(made).replace("\n", " ").replace("\r", " ")


def corpora(data, rounds, draw):
    yield "nothing matches", ["a b c d e"], ["f g h i j"]
    yield "no translations", ["", "", ""], ["one two", "three", "four five six seven"]
    yield "no references", ["one two", "three", "four five six seven"], ["", "", ""]
    yield "nothing at all", [""], [""]
    yield "too short for 4-grams", ["one two three", "four"], ["one two three", "four"]
    yield "one long match", ["one two three four", "x"], ["one two three four", "y"]
    yield "much too short", ["one two three four"], ["one two three four five six seven eight"]
    for i in range(rounds):
        references = [hard_line(draw) for _ in range(draw.choice([1, 3, 30]))]
        for j in range(len(references)):
            if draw.random() < 0.1:
                references[j] = ""
        yield f"hard {i}", [spoilt(r, draw, 0.4) for r in references], references
    for path in sorted(data.rglob("*")) if data else []:
        if not path.is_file() or path.stat().st_size > 1 << 22:
            continue
        try:
            lines = path.read_bytes().decode().replace("\r", "").split("\n")
        except UnicodeDecodeError:
            continue
        lines = [line[:2000] for line in lines if "\0" not in line]
        if len(lines) > MOST_LINES:
            lines = draw.sample(lines, MOST_LINES)
        for how_much in (0, 0.1, 0.5):
            yield (f"{path.relative_to(data)} spoilt by {how_much}",
                   [spoilt(line, draw, how_much) for line in lines], lines)


def metrics():
    """Flags of `refrain score`, what of its answer they are about, and the package's metric."""
    for tokenize in ("13a", "char", "none"):
        yield ["--bleu-tokenize", tokenize], "bleu", BLEU(tokenize=tokenize, force=True)
    for word_order in ("0", "2"):
        yield ["--chrf-word-order", word_order], "chrf", CHRF(word_order=int(word_order))


def check(refrain, folder, hypotheses, references):
    """What differs, or an empty string; and the scores."""
    for name, lines in (("hyp", hypotheses), ("ref", references)):
        (folder / name).write_bytes("".join(line + "\n" for line in lines).encode())
    scores, wrong = [], []
    for flags, key, metric in metrics():
        done = subprocess.run([refrain, "score", "--hyp", folder / "hyp", "--ref", folder / "ref",
                               "--json", *flags], capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            return done.stderr.strip(), scores
        ours, theirs = json.loads(done.stdout)[key], metric.corpus_score(hypotheses, [references])
        signature = metric.get_signature().format()
        numbers = [(ours["score"], theirs.score)]
        if key == "bleu":
            numbers += [(ours["brevity_penalty"], theirs.bp),
                        (ours["hypothesis_tokens"], theirs.sys_len),
                        (ours["reference_tokens"], theirs.ref_len),
                        *zip(ours["precisions"], theirs.precisions)]
        without_version = [s.rpartition("|version:")[0] for s in (ours["signature"], signature)]
        if without_version[0] != without_version[1]:
            wrong.append(f"signature {ours['signature']}, expected {signature}")
        if any(abs(a - b) > TOLERANCE for a, b in numbers):
            wrong.append(f"{ours}, expected {theirs}")
        scores.append(f"{theirs.name}{' ' + flags[1] if key == 'bleu' else ''} {theirs.score:.2f}")
    return "; ".join(wrong), scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    draw, failed, checks = random.Random(1), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, hypotheses, references in corpora(arguments.data, arguments.rounds, draw):
            wrong, scores = check(arguments.refrain, pathlib.Path(folder), hypotheses, references)
            checks += 1
            failed += bool(wrong)
            print(f"{'FAIL' if wrong else 'ok  '}  {name}: {wrong or ', '.join(scores)}",
                  flush=True)
    print(f"{checks - failed} of {checks} agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

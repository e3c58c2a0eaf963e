#!/usr/bin/env python3
"""Language models around PyTorch's nn.RNN, nn.LSTM and nn.GRU, and what PyTorch makes of them.

usage: torch_cells.py REFRAIN DIR        needs: torch, safetensors

Writes state_dicts with random weights, lets `refrain convert` read them, and compares the logits of
the directories it writes with the modules'. A line a check; the exit status is 1 when one failed.
run.py runs the same checks beside the others. Gradients are compared in the test suite, with what
tools/make_golden_cells.py has from PyTorch.
"""
import argparse
import pathlib
import subprocess
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

CELLS = dict(rnn=torch.nn.RNN, lstm=torch.nn.LSTM, gru=torch.nn.GRU)

# Sums of a hundred terms in float32, a few layers and 40 steps deep, on both sides; logits are
# about 1.
TOLERANCE = 1e-5
IDS = [(7 * i * i + 3 * i + 1) % 61 for i in range(40)]

# What must convert: layers, widths of the embedding and the cells, biases.
SHAPES = {
    "one layer": dict(layers=1),
    "two layers": dict(layers=2),
    "narrow embedding": dict(layers=2, embedding=20),
    "wide embedding": dict(layers=2, embedding=70),
    "no biases": dict(layers=2, bias=False),
}
# What must be refused, by a word.
REFUSED = {
    "bidirectional": dict(bidirectional=True),
    "proj_size": dict(proj_size=16),
}


class CellModel(torch.nn.Module):
    def __init__(self, kind, layers=1, vocabulary=61, embedding=48, hidden=48, seed=0, **settings):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(vocabulary, embedding)
        self.rnn = CELLS[kind](embedding, hidden, layers, **settings)
        width = settings.get("proj_size", hidden) * (2 if settings.get("bidirectional") else 1)
        self.decoder = torch.nn.Linear(width, vocabulary)
        # As they start, gates hardly leave their middle and a wrong one would hardly show.
        for name, p in self.rnn.named_parameters():
            p.data *= 2 if name.startswith("weight") else 4

    def forward(self, ids):
        return self.decoder(self.rnn(self.embedding(ids))[0])


def convert(refrain, kind, module, directory):
    """The finished process; the model directory is directory / "model"."""
    directory.mkdir(parents=True)
    weights = directory / "weights.safetensors"
    save_file(module.state_dict(), weights)
    return subprocess.run([refrain, "convert", "--from", f"torch-{kind}", weights, "--out",
                           directory / "model"], capture_output=True, text=True, timeout=300)


def compare(refrain, kind, directory, settings):
    """Largest difference of the logits."""
    module = CellModel(kind, **settings)
    done = convert(refrain, kind, module, directory)
    assert done.returncode == 0, done.stderr.strip()
    out = directory / "logits.safetensors"
    subprocess.run([refrain, "logits", "-m", directory / "model", "--ids", " ".join(map(str, IDS)),
                    "--out", out], check=True, timeout=300)
    with safe_open(out, "pt") as f, torch.no_grad():
        worst = (f.get_tensor("logits") - module(torch.tensor(IDS))).abs().max().item()
    assert worst <= TOLERANCE, f"logits differ by {worst:.2e}"
    return f"logits to {worst:.1e}"


def refused(refrain, kind, directory, word, settings):
    done = convert(refrain, kind, CellModel(kind, **settings), directory)
    line = done.stderr.strip()
    assert done.returncode == 2 and "\n" not in line and word in line, (
        f"exit {done.returncode}, expected 2 and one line that names {word}: {line[-300:]}")
    return f"refused: {line}"


def checks(refrain, directory):
    """Name and function of every check."""
    for kind in CELLS:
        for name, settings in SHAPES.items():
            place = directory / f"{kind} {name}".replace(" ", "_")
            yield (f"torch-{kind}, {name}",
                   lambda kind=kind, place=place, settings=settings:
                   compare(refrain, kind, place, settings))
    for word, settings in REFUSED.items():
        yield (f"torch-lstm, refused: {word}",
               lambda word=word, settings=settings:
               refused(refrain, "lstm", directory / f"refused_{word}", word, settings))


def main():
    parser = argparse.ArgumentParser(description="checks conversion of PyTorch's recurrent cells")
    parser.add_argument("refrain", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("directory", type=pathlib.Path, help="works there; leaves everything")
    args = parser.parse_args()
    failed = 0
    for name, function in checks(args.refrain, args.directory):
        try:
            print(f"ok    {name}: {function()}", flush=True)
        except AssertionError as e:
            failed += 1
            print(f"FAIL  {name}: {e}", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

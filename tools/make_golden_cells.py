#!/usr/bin/env python3
"""Makes tests/golden/cells.safetensors: what PyTorch's nn.RNN, nn.LSTM and nn.GRU give, forward and
backward, for two sequences of different lengths with a state before them, and in a language model.

usage: make_golden_cells.py [--check] [FILE]        needs: torch, safetensors

Everything is computed in float64 from numbers that are exact in float32. --check makes everything
anew and compares it with FILE instead of writing it.

Layout. Every tensor is F32; <cell> is rnn, lstm or gru. R rows are the sequences laid end to end,
S their number, H the units.

  offsets [S + 1]              sequence s is rows offsets[s] .. offsets[s + 1]
  <cell>.weight_ih_l0 ...      the module's parameters, by its names
  <cell>.x [R, D]              input
  <cell>.found [S, H or 2 H]   the state before: h and, of the lstm, c
  <cell>.dh, <cell>.dleft      weights of the loss: sum(h dh) + sum(left dleft)
  <cell>.h [R, H]              output
  <cell>.left                  the state after, as `found`
  <cell>.grad.<name>           gradient of the loss by x, found and the parameters
  <cell>.lm.<name>             a language model of two layers, as its module names its parameters
  tokens, targets [T]          what it is trained on: one sequence from its start
  <cell>.logits [T, V]         what it gives
  <cell>.grad.lm.<name>        gradient of the mean cross entropy
"""
import argparse
import pathlib

import torch

from make_golden import check, write

CELLS = dict(rnn=torch.nn.RNN, lstm=torch.nn.LSTM, gru=torch.nn.GRU)
D, H, LENGTHS, SEED = 6, 5, (7, 4), 20240518
V, E, LAYERS, T = 11, 4, 2, 9  # of the language model


class LanguageModel(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.encoder = torch.nn.Embedding(V, E)
        self.rnn = CELLS[kind](E, H, LAYERS)
        self.decoder = torch.nn.Linear(H, V)

    def forward(self, tokens):
        return self.decoder(self.rnn(self.encoder(tokens))[0])


def draw(generator, *shape, scale=1.0):
    """Normal numbers in float64 that are exact in float32."""
    x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.float().double()


def make_cell(kind, generator):
    cell = CELLS[kind](D, H, dtype=torch.float64)
    for p in cell.parameters():
        p.data = draw(generator, *p.shape, scale=0.6)
    rows, sequences, width = sum(LENGTHS), len(LENGTHS), H * (2 if kind == "lstm" else 1)
    given = dict(x=draw(generator, rows, D), found=draw(generator, sequences, width),
                 dh=draw(generator, rows, H), dleft=draw(generator, sequences, width))
    x, found = given["x"].requires_grad_(), given["found"].requires_grad_()
    h, left = [], []
    for rows_of_one, state in zip(x.split(LENGTHS), found):
        parts = [part[None] for part in state.split(H)]
        out, after = cell(rows_of_one, tuple(parts) if kind == "lstm" else parts[0])
        h.append(out)
        left.append(torch.cat(after, 1) if kind == "lstm" else after)
    given |= dict(cell.named_parameters(), h=torch.cat(h), left=torch.cat(left))
    loss = (given["h"] * given["dh"]).sum() + (given["left"] * given["dleft"]).sum()
    loss.backward()
    gradients = {f"grad.{name}": t.grad for name, t in given.items()
                 if t.is_leaf and t.requires_grad}
    return {f"{kind}.{name}": t.detach() for name, t in (given | gradients).items()}


def make_language_model(kind, tokens, targets, generator):
    model = LanguageModel(kind).double()
    for p in model.parameters():
        p.data = draw(generator, *p.shape, scale=0.6)
    logits = model(tokens)
    torch.nn.functional.cross_entropy(logits, targets).backward()
    made = {f"{kind}.logits": logits.detach()}
    for name, p in model.named_parameters():
        made |= {f"{kind}.lm.{name}": p.detach(), f"{kind}.grad.lm.{name}": p.grad}
    return made


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/cells.safetensors"
    parser = argparse.ArgumentParser(description="makes the golden file of the recurrent cells")
    parser.add_argument("file", nargs="?", type=pathlib.Path, default=default)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(SEED)
    tokens, targets = torch.randint(V, (2, T), generator=generator)
    tensors = {"offsets": torch.tensor([0, *LENGTHS]).cumsum(0), "tokens": tokens,
               "targets": targets}
    for kind in CELLS:
        tensors |= make_cell(kind, generator)
        tensors |= make_language_model(kind, tokens, targets, generator)
    tensors = {name: t.float().contiguous() for name, t in tensors.items()}
    if args.check:
        check(args.file, tensors, {})
    else:
        write(args.file, tensors, {})
        print(f"{args.file}: {args.file.stat().st_size} bytes")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Fails when a file includes what its layer may not see, and when a room grows too large: more than
25 files in a folder, more than 500 lines in a file, or more than six arguments of a function. CTest
runs it as `layers`.

usage: check_layers.py [project root]
"""
import pathlib
import re
import sys

import signatures

# Folder under src/refrain -> folders it may include, besides itself (ARCHITECTURE.md).
MAY_SEE = {
    "base": [],
    "kernels": ["base"],
    "layers": ["base", "kernels"],
    "mixers": ["base", "kernels", "layers"],
    "io": ["base"],
    "text": ["base", "io"],
    "data": ["base", "io", "text"],
    "eval": ["base", "io"],
    "model": ["base", "kernels", "layers", "mixers", "io"],
    "formats": ["base", "kernels", "layers", "mixers", "io", "text", "model"],
    "train": ["base", "kernels", "layers", "mixers", "io", "text", "data", "model", "formats"],
    "autoencoder": ["base", "kernels", "layers", "mixers", "io", "text", "data", "model", "formats", "train"],
    "generate": ["base", "kernels", "layers", "mixers", "io", "text", "data", "model"],
}
# A dependency's headers -> the one door that may include them.
DOORS = {
    "hwy/": r"(kernels/.*|mixers/\w+/(\w+_)?kernel)(\.cc|-inl\.h)$",
    "dnnl": r"bench/gemm\.cc$",  # decision 0003
    "omp.h": r"$^",  # decision 0006
    "thread": r"(base/thread_pool|bench/gemm)\.cc$",
    "nlohmann/": r"io/json\.(h|cc)$",
    "zlib.h": r"io/\w+\.cc$",
    "pcre2.h": r"text/tokenizer/regex\.cc$",
    "utf8proc.h": r"text/tokenizer/unicode_forms\.cc$",
    "toml++/": r"cli/config_file\.cc$",
}
# Products of matrices are asked for by kernels, and above them by Linear.
PRODUCTS_MAY_STAND = ("layers/linear.h", "layers/adapter.cc")  # and what stands beside a map
PRODUCTS = re.compile(r"\b(gemm|linear_forward|linear_backward_(input|weight))\s*\(")
# Nothing below cli/ prints, exits or reads the environment.
FORBIDDEN = re.compile(r"\b(std::cout|std::cerr|printf\s*\(|std::exit\s*\(|abort\s*\(|getenv\s*\()")

# Where a kind of mixer may be named, besides its own folder and the registry.
KINDS_MAY_STAND = {
    "formats/families/": "the files of other programs' families are stacks of attention",
    "formats/llama2c.cc": "and so are llama2.c's",
    "formats/gguf/names.cc": "and llama.cpp's, whose keys have the word in their names",
    "kernels/sequence/recurrent.h": "cells of recurrent layers have the names of their mixers",
    "bench": "each section is about a kind",
    "cli/verbs/bench.cc": "and the verb says which",
}


MOST_FILES, MOST_LINES, MOST_ARGUMENTS = 25, 500, 6
CODE = ("src", "cli", "bench", "examples", "tests", "tools", "cmake")

# Files with more lines, and why.
LONG_FILES = {
    "tests/cli/cli_test.py": "the base of the tests of the program, and what has no file of its own",
    "tests/cli/runs_test.py": "one run directory, treated in all ways",
    "tests/cli/settings_test.py": "one group a kind of setting",
    "tests/cli/train_test.py": "the promises of training, each with its helpers",
    "tests/formats/checkpoint_test.cc": "one directory of a model, spoilt in all ways",
    "tests/formats/config_json_test.cc": "the same of its config.json",
    "tests/support/mixer_contract.h": "the contract is one thing",
    "tests/text/source_test.cc": "readers of all kinds of files over the same texts",
    "tests/text/tokenizer_test.cc": "all kinds of tokenizers by the same rules",
}


def too_large(top: pathlib.Path) -> list[str]:
    """Folders, files and functions of more than they may hold."""
    bad = []
    for folder in CODE:
        for d in [top / folder, *(top / folder).rglob("*/")]:
            files = [f for f in d.glob("*") if f.is_file()] if d.is_dir() else []
            if len(files) > MOST_FILES and "finds" not in d.parts:
                bad.append(f"{d.relative_to(top)}: {len(files)} files; more than {MOST_FILES} are two rooms")
            for f in files:
                if f.suffix not in (".cc", ".h", ".py"):
                    continue
                rel, lines = f.relative_to(top).as_posix(), f.read_text().count("\n")
                if (lines > MOST_LINES) != (rel in LONG_FILES):
                    bad.append(f"{rel}: {lines} lines; more than {MOST_LINES} need a reason in LONG_FILES, "
                               "others have none there")
                of = signatures.python if f.suffix == ".py" else signatures.cpp
                bad += [f"{rel}:{n}: {name} takes {count} arguments; more than {MOST_ARGUMENTS} are a struct"
                        for n, name, count in of(f.read_text()) if count > MOST_ARGUMENTS]
    return bad


def kinds_of(root: pathlib.Path) -> list[str]:
    kinds = re.findall(r'\{"(\w+)", mixer_kind<', (root / "mixers" / "registry.cc").read_text())
    assert len(kinds) >= 8, "the registry's lines are not found"
    return kinds


def kind_named(code: str, kinds: list[str]) -> str | None:
    """The kind that a line of code depends on: its name, or one of its settings, as a string."""
    named = re.search(rf'"({"|".join(kinds)})(\.\w+)?"', code)
    included = re.match(r'\s*#include "refrain/mixers/(\w+)/', code)
    return named[1] if named else included[1] if included else None


def main() -> int:
    top = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    root = top / "src" / "refrain"
    bad = too_large(top)
    kinds = kinds_of(root)
    # The program sees all layers; the doors are closed to it too.
    for f in sorted([*root.rglob("*.[hc]*"), *(top / "cli").rglob("*.[hc]*"), *(top / "bench").rglob("*.[hc]*")]):
        library = f.is_relative_to(root)
        rel = f.relative_to(root if library else top).as_posix()
        layer = rel.split("/")[0]
        if rel == "refrain.h":
            continue  # the umbrella
        for n, line in enumerate(f.read_text().splitlines(), 1):
            code = line.split("//")[0]
            if kind := kind_named(code, kinds):
                if not rel.startswith(("mixers/", *KINDS_MAY_STAND)):
                    bad.append(f"{rel}:{n}: {kind} is known in its folder and the registry only")
            if library and FORBIDDEN.search(code):
                bad.append(f"{rel}:{n}: the library does not print, exit or read the environment")
            if library and layer != "kernels" and rel not in PRODUCTS_MAY_STAND and PRODUCTS.search(code):
                bad.append(f"{rel}:{n}: products of matrices go through Linear")
            m = re.match(r'\s*#include [<"]([^>"]+)', line)
            if not m:
                continue
            seen = re.match(r"refrain/(\w+)/", m[1])
            if library and seen and seen[1] != layer and seen[1] not in MAY_SEE[layer]:
                bad.append(f"{rel}:{n}: {layer} must not include {m[1]}")
            other = re.match(r"refrain/mixers/(\w+)/", m[1])
            if other and layer == "mixers" and rel.count("/") == 2 and other[1] != rel.split("/")[1]:
                bad.append(f"{rel}:{n}: a mixer must not include another, {m[1]}")
            for lib, door in DOORS.items():
                if m[1].startswith(lib) and not re.search(door, rel):
                    bad.append(f"{rel}:{n}: {m[1]} has its own door; go through it")
    print("\n".join(bad) or "layers: ok")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Compares refrain's chat templates with transformers' on the templates of published models, as far
as installed Python packages hold them: every string with a template in the sources of transformers
and llama_cpp, and GGUF files that are given. (One that reads Jinja's `self` is left out.)
tests/golden/chat has the conversations; each is rendered with and without what asks for an answer.

With --model, the tokenizer of a directory or a GGUF file renders them itself (apply_chat_template),
and its ids of them must be those of `refrain tokenizer encode`.

usage: chat_real.py build/release/chat_render [--gguf FILE...]
                    [--model DIR --refrain build/release/refrain]
"""
import argparse
import ast
import copy
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

from chat_compat import GOLDEN, TOKENS, Ours, compare

PACKAGES = ["transformers", "llama_cpp"]


def templates_of(package):
    """(name, template) of the package's sources, each template once."""
    spec = importlib.util.find_spec(package)
    if not spec:
        print(f"{package}: not installed")
        return
    for path in sorted(pathlib.Path(spec.origin).parent.rglob("*.py")):
        text = path.read_text(errors="replace")
        if "{%" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if (isinstance(node, ast.Constant) and isinstance(node.value, str)
                    and "{%" in node.value and "messages" in node.value
                    and not re.search(r"\{\{.*\bself\.", node.value)):
                yield f"{package}/{path.name}:{node.lineno}", node.value


def template_of_gguf(path):
    from gguf import GGUFReader
    field = GGUFReader(path).fields["tokenizer.chat_template"]
    return bytes(field.parts[-1]).decode()


def conversations():
    for one in json.loads((GOLDEN / "conversations.json").read_text()):
        for prompt in (False, True):
            case = copy.deepcopy(one)
            name = case.pop("name")
            case["add_generation_prompt"] = prompt
            case["variables"] = TOKENS | case.get("variables", {})
            yield f"{name}, prompt {prompt}", case


def compare_model(ours, directory, program):
    """Differences of texts and ids from what the model's own tokenizer says."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(directory)
    total = differ = refused = 0
    texts, ids = [], []
    for name, case in conversations():
        del case["variables"]
        case["template"] = tokenizer.chat_template
        case["variables"] = {k: v for k, v in tokenizer.special_tokens_map.items()
                             if isinstance(v, str)}
        arguments = dict(tools=case.get("tools"), tokenize=False,
                         add_generation_prompt=case["add_generation_prompt"])
        try:
            right = tokenizer.apply_chat_template(case["messages"], **arguments)
        except Exception:
            right, refused = None, refused + 1
        found, error = ours(case)
        total += 1
        if (found and found[0]) != right:
            differ += 1
            print(f"DIFFERENT {name}\n  theirs: {right!r}\n  ours:   {found or error!r}")
        if right is not None:
            texts.append(right)
            ids.append(tokenizer.apply_chat_template(
                case["messages"], **{**arguments, "tokenize": True}, return_dict=False))
    print(f"{directory}: {total} texts, {refused} of them refused by both: {differ} differ")
    for text, right in zip(texts, ids):
        done = subprocess.run([program, "tokenizer", "encode", "-m", directory, "--input", "-",
                               "--parse-special"], input=text.encode(), capture_output=True)
        if [int(i) for i in done.stdout.split()] != right:
            differ += 1
            print(f"DIFFERENT ids of {text!r}: {done.stderr.decode()}")
    print(f"{directory}: ids of {len(texts)} texts compared")
    return differ


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--gguf", nargs="+", default=[])
    parser.add_argument("--model")
    parser.add_argument("--refrain")
    arguments = parser.parse_args()
    ours = Ours(arguments.program)
    found = {}
    for package in PACKAGES:
        for name, template in templates_of(package):
            found.setdefault(template, name)
    for path in arguments.gguf:
        found.setdefault(template_of_gguf(path), path)
    different = 0
    for template, name in found.items():
        print(f"{name}: ", end="", flush=True)
        different += compare(ours, ((n, dict(c, template=template)) for n, c in conversations()), 5)
    if arguments.model:
        different += compare_model(ours, arguments.model, arguments.refrain)
    print(f"{len(found)} templates: {different} differences")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())

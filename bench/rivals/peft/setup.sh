#!/usr/bin/env bash
# Makes the virtual environment that table.py, tests/compat/adapter_compat.py and
# tests/compat/chat_labels.py run in, outside of the source tree, and prints the path of its Python.
# usage: setup.sh [DIR]     default: ${XDG_CACHE_HOME:-$HOME/.cache}/refrain/rivals-peft
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/refrain/rivals-peft}
[[ -x $directory/bin/python ]] || python3 -m venv "$directory" >&2
pip=("$directory/bin/python" -m pip install --quiet)
# The CPU build where its index can be reached; PyPI's brings gigabytes for graphics cards.
"${pip[@]}" --retries 2 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 >&2
"${pip[@]}" --requirement "$here/requirements.txt" >&2
echo "$directory/bin/python"

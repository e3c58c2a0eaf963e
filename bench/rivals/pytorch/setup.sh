#!/usr/bin/env bash
# Makes the virtual environment that table.py, tests/compat/run.py and tools/make_golden.py run
# in, outside of the source tree, and prints the path of its Python.
# usage: setup.sh [DIR]     default: ${XDG_CACHE_HOME:-$HOME/.cache}/refrain/rivals-pytorch
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/refrain/rivals-pytorch}
if ! python3 -c 'import ensurepip' 2>/dev/null; then
  echo "setup.sh: Python's venv module is missing: apt-get install python3-venv" >&2
  exit 1
fi
[[ -x $directory/bin/python ]] || python3 -m venv "$directory" >&2
pip=("$directory/bin/python" -m pip install --quiet)
"${pip[@]}" --requirement "$here/requirements.txt" >&2
# The CPU build where its index can be reached; PyPI's brings gigabytes for graphics cards.
"${pip[@]}" --retries 2 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 >&2
echo "$directory/bin/python"

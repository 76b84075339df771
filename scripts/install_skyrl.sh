#!/usr/bin/env bash
# Install a real server of the Tinker protocol, SkyRL's for JAX on the CPU, into a virtual environment of its own:
# DIR/bin/python -m skyrl.tinker.api, under DIR/bin/uv run.
# --no-deps: skyrl names what only its GPU backends and its data sets need, which is 4 of 6 GB.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$1
pins=$(dirname "$0")/../constraints-skyrl.txt
works() { "$dir/bin/python" -c 'import skyrl.tinker.api, skyrl.tinker.engine, skyrl.backends.jax' >/dev/null 2>&1; }

! works || exit 0

python3 -m venv "$dir"
pip=("$dir/bin/python" -m pip --disable-pip-version-check -qq install --only-binary :all:)
"${pip[@]}" -c "$pins" aiosqlite cloudpathlib fastapi flax greenlet hf_transfer httpx jax numpy optax peft psutil \
    python-multipart rich safetensors sqlmodel tokenizers torch transformers typer uv uvicorn
"${pip[@]}" --no-deps -c "$pins" skyrl

# Before Python 3.12 pydantic reads no typing.TypedDict.
sed -i -E 's/^(from typing import .*), TypedDict$/\1\nfrom typing_extensions import TypedDict/' \
    "$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/skyrl/tinker/types.py"

works || { echo "$dir: the server cannot be imported" >&2; exit 1; }

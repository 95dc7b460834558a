#!/usr/bin/env bash
# Writes requirements.lock anew from pyproject.toml. Pins that still fit are kept; options go to `uv pip compile`:
#
#   scripts/lock.sh [--upgrade | --upgrade-package NAME]
#
# uv is fetched into a folder that is thrown away: the project itself does not need it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh

if ! find_python || [ -n "$python_lacks" ]; then
    echo 'lock: needs a Python 3.11 or newer with venv and ensurepip' >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -I -m venv "$work/venv"
"$work/venv/bin/python" -I -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

[ ! -f requirements.lock ] || cp requirements.lock "$work/pins"
# 3.11 is the oldest Python served; --universal covers every newer one with markers.
"$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --all-extras --no-header \
    --python "$work/venv/bin/python" --cache-dir "$work/cache" --output-file "$work/pins" "$@" pyproject.toml >/dev/null

{
    cat <<'HEADER'
# The exact version of everything that runs, tests or builds the project, on Python 3.11 and newer.
# Written by `make lock` (newest versions: `make lock ARGS=--upgrade`); do not edit.
# It is a constraints file, what is asked for is installed at these versions:
#     pip install --constraint requirements.lock '.[embedded]'
HEADER
    cat "$work/pins"
} >"$work/requirements.lock"
mv "$work/requirements.lock" requirements.lock

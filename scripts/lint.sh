#!/usr/bin/env bash
# The checks that run nothing: format, lint, types, layers. Stops at the first that fails.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/step.sh

step ruff format --check
step ruff check
step mypy
step lint-imports --no-logo

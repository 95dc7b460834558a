#!/usr/bin/env bash
# Runs every benchmark: the modules of benchmarks/ that have a main.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/step.sh

for file in benchmarks/[!_]*.py; do
    if grep -qs '^if __name__ == "__main__":' "$file"; then
        step python -m "benchmarks.$(basename "$file" .py)" "$@"
    fi
done

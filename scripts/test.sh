#!/usr/bin/env bash
# Every check of the project, the quick ones first; stops at the first that fails. Arguments go to pytest.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/step.sh

bash scripts/lint.sh

# halves: these tests wait more than they work, so that half of them take as long beside the other half as alone.
halves() {
    local beside failed=0
    coverage run -m pytest tests/broker tests/unit >"$log" 2>&1 &
    beside=$!
    trap 'kill "$beside" 2>/dev/null' EXIT
    coverage run -m pytest tests/contracts tests/faults || failed=1
    printf '\n==> tests/broker and tests/unit ran beside these\n'
    wait "$beside" || failed=1
    trap - EXIT
    cat "$log"
    return "$failed"
}

coverage erase
if [ $# -gt 0 ]; then
    step coverage run -m pytest "$@"
else
    log=$(mktemp)
    step halves
    rm -f "$log"
fi
step coverage combine --quiet
step coverage report
printf '\nall checks passed\n'

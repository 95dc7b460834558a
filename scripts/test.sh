#!/usr/bin/env bash
# Every check of the project, the quick ones first; stops at the first that fails. Arguments go to pytest.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/step.sh

bash scripts/lint.sh
coverage erase
step coverage run -m pytest "$@"
step coverage combine --quiet
step coverage report
printf '\nall checks passed\n'

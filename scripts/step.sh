# shellcheck shell=bash
# Sourced by the scripts that check: the environment's programs first, and one headline per step.
# Debian keeps the brokers that the tests start in /usr/sbin, which is not on everyone's PATH.
PATH=$PWD/.venv/bin:$PATH:/usr/local/sbin:/usr/sbin

# step COMMAND...: runs it under a headline; when it fails the script ends with its exit code.
step() {
    printf '\n==> %s\n' "$*"
    "$@" || {
        local code=$?
        printf '\n==> failed: %s\n' "$*" >&2
        exit "$code"
    }
}

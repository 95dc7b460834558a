#!/usr/bin/env bash
# Makes .venv ready and prints one line per step that had to be done; with nothing to do it is silent and quick.
#
#   scripts/setup.sh demo|dev|test [PYTHON]
#
#   demo  the service and its embedded broker
#   dev   the same and the developer's tools
#   test  the same and what the tests start: redis-server, mosquitto and its command line clients
#
# PYTHON names the interpreter to use; without it the newest one that runs is taken. What is missing on the machine is
# installed with apt-get when run by root on Debian or Ubuntu; otherwise one line says what to install.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/python.sh

root=$PWD
venv=.venv
stamp=$venv/.ready # written last: an environment without it was left half-way and is built anew
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# quietly WHAT COMMAND...: announces WHAT; shows the end of the output only when COMMAND fails, and returns its failure.
quietly() {
    say "$1"
    "${@:2}" >"$log" 2>&1 </dev/null || {
        tail -n 30 "$log" >&2
        return 1
    }
}

# True where apt-get may be used: for root on Debian or Ubuntu.
can_apt() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null &&
        grep -Eq '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release 2>/dev/null
}

# Without the lock of one_at_a_time (9): a daemon that a package starts would hold it for ever. pip does inherit it, so
# that one left behind by a killed set-up ends before the next begins.
apt() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" 9<&-; }

apt_update() {
    # One unreachable source must not stop an installation that the others can serve.
    [ -n "${apt_updated:-}" ] || quietly 'apt-get update' apt update || say 'apt-get update failed; trying with the lists at hand'
    apt_updated=yes
}

apt_install() {
    apt_update
    quietly "apt-get install $*" apt install --yes --no-install-recommends "$@"
}

# Installs the newest python3.N-venv (and with it python3.N) that the machine's sources have, first of all the one that
# completes the interpreter already there.
apt_python() {
    local version
    apt_update
    for version in "${python_version%.*}" 3.14 3.13 3.12 3.11; do
        [ -n "$version" ] || continue
        # No pipe into grep -q: it may end first, and pipefail then turns a find into a failure.
        if [[ $(LC_ALL=C apt-cache policy "python$version-venv") == *'Candidate: '[0-9]* ]]; then
            apt_install "python$version" "python$version-venv"
            return
        fi
    done
}

need_python() {
    find_python "$@" && [ -z "$python_lacks" ] && return
    if [ $# -eq 0 ] && can_apt; then
        apt_python || true
        hash -r
        find_python && [ -z "$python_lacks" ] && return
    fi
    if [ -n "$python" ]; then
        die "$python ($python_version) lacks $python_lacks: install what is missing" \
            "(Debian, Ubuntu: apt-get install python${python_version%.*}-venv)"
    elif [ $# -gt 0 ]; then
        die "$1 does not run or is older than 3.11"
    fi
    die 'no Python 3.11 or newer that runs is on the PATH: install one (Debian, Ubuntu: apt-get install python3 python3-venv)'
}

need_servers() {
    local program missing=()
    # Debian's packages; each brings the program that is looked for.
    for program in redis-server mosquitto mosquitto_sub; do
        command -v "$program" >/dev/null || missing+=("${program/mosquitto_sub/mosquitto-clients}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if can_apt && apt_install "${missing[@]}"; then return; fi
    die "the tests need ${missing[*]}: install what is missing (Debian, Ubuntu: apt-get install ${missing[*]})"
}

# A stamp alone is no proof: the interpreter may be gone, or half of the environment deleted by hand.
healthy() {
    [ -f "$stamp" ] && [ -x "$venv/bin/companion" ] &&
        "$venv/bin/python" -I -c 'import importlib.metadata as m, pip; m.version("mqtt-companion")' 2>/dev/null
}

# Everything is pinned by requirements.lock, the build backend too: it is installed first, and the package is then built
# with it rather than in an isolated environment that would fetch the newest. Wheels only: no compiler is ever needed.
pip_install() {
    "$venv/bin/python" -I -m pip install --only-binary=:all: --constraint requirements.lock "$@"
}

install_packages() {
    pip_install hatchling editables && pip_install --no-build-isolation --report "$report" --editable ".[$1]"
}

# Names the packages that pip has just installed without a pin, for a dependency that was added but not locked.
unpinned() {
    "$venv/bin/python" -I - "$report" requirements.lock <<'PYTHON'
import json, re, sys

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

with open(sys.argv[1], encoding="utf-8") as report, open(sys.argv[2], encoding="utf-8") as lock:
    installed = {canonical(item["metadata"]["name"]) for item in json.load(report)["install"]}
    pinned = {canonical(line.partition("==")[0]) for line in lock if "==" in line}
print(*sorted(installed - pinned - {"mqtt-companion"}))
PYTHON
}

# The folder, the interpreter and the versions are part of the base: when one changes, the environment is built anew.
# Another pyproject.toml or more extras are installed on top.
need_packages() {
    local extras=$1 base project loose had_base='' had_project='' had_extras=''
    base=$({ printf '%s\n' "$root" "$python_version" && cat requirements.lock; } | sha256sum)
    project=$(sha256sum <pyproject.toml)
    if healthy; then
        { read -r had_base && read -r had_project && read -r had_extras; } <"$stamp" || had_base=''
    fi
    if [ "$had_base" = "${base%% *}" ]; then
        [ "$had_extras" != embedded,dev ] || extras=$had_extras # never take the tools away again
        [ "$had_project $had_extras" != "${project%% *} $extras" ] || return 0
        rm -f "$stamp"
    else
        rm -f "$stamp"
        rm -rf "$venv"
        quietly "creating $venv with Python $python_version" "$python" -I -m venv "$venv" || die "no $venv"
    fi
    quietly "installing the packages for [$extras]" install_packages "$extras" ||
        die 'the packages could not be installed (if the dependencies were changed: make lock)'
    loose=$(unpinned)
    [ -z "$loose" ] || die "requirements.lock does not pin $loose: run make lock"
    printf '%s\n' "${base%% *}" "${project%% *}" "$extras" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# One set-up at a time; others wait for it, and then find nothing left to do.
one_at_a_time() {
    command -v flock >/dev/null || return 0
    exec 9<scripts/setup.sh
    flock --nonblock 9 && return
    say 'waiting for another set-up of this folder'
    flock --timeout 900 9 || die 'another set-up of this folder has been running for 15 minutes'
}

case ${1-} in
    demo) extras=embedded ;;
    dev | test) extras=embedded,dev ;;
    *) die 'usage: scripts/setup.sh demo|dev|test [PYTHON]' ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log report=$work/report.json
one_at_a_time
[ "$1" != test ] || need_servers
need_python "${@:2}"
need_packages "$extras"

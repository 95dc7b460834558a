# shellcheck shell=bash
# Sourced by the other scripts: finds the Python that environments are built with.

# Runs inside a candidate. Prints its version, the modules it lacks joined by commas (or "-"), and its real path:
# never that of a shim or of a virtual environment, which may be the very one about to be replaced.
python_probe='
import sys
if sys.version_info < (3, 11):
    sys.exit(1)
def lacks(name):
    try:
        __import__(name)
    except ImportError:
        return True
    return False
lacking = ",".join(filter(lacks, ("ensurepip", "sqlite3", "ssl", "venv", "zlib")))
print("%d.%d.%d" % sys.version_info[:3], lacking or "-", getattr(sys, "_base_executable", sys.executable))
'

# find_python [NAME...]: sets python, python_version and python_lacks to the first of NAME that really runs, is at
# least 3.11 and complete; failing that, to the first that runs but lacks modules. Returns 1 when none runs.
# Every match on the PATH is tried, not only the first: a version manager's shim may stand before a real program.
# shellcheck disable=SC2034 # set for the script that sources this one
find_python() {
    local name candidate version lacks path
    python='' python_version='' python_lacks=''
    [ $# -gt 0 ] || set -- python3.14 python3.13 python3.12 python3.11 python3
    for name in "$@"; do
        while IFS= read -r candidate; do
            read -r version lacks path < <("$candidate" -I -c "$python_probe" 2>/dev/null </dev/null) || continue
            if [ -z "$python" ] || [ "$lacks" = - ]; then
                python=$path python_version=$version python_lacks=${lacks#-}
            fi
            [ -n "$python_lacks" ] || return 0
        done < <(type -aP -- "$name")
    done
    [ -n "$python" ]
}

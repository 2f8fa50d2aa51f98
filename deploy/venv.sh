#!/bin/sh
# Make a virtual environment with rkvlm in it, and print the directory of its commands. `deploy/venv.sh [EXTRA]`.
#
# Uses the active environment if there is one, else VLM_VENV, else .venv in the checkout. Installs python3-venv on
# Debian and Ubuntu where it is missing. Everything it says goes to stderr.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
extra=${1:+[$1]}
venv=${VIRTUAL_ENV:-${VLM_VENV:-$root/.venv}}

say() { printf '%s\n' "$*" >&2; }

command -v python3 >/dev/null 2>&1 || "$root/deploy/apt.sh" python3 python3-venv
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    say "rkvlm needs Python 3.10 or newer; python3 here is $(python3 --version)."
    exit 1
fi
if [ ! -x "$venv/bin/python" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || "$root/deploy/apt.sh" python3-venv
    python3 -m venv "$venv"
fi
# A stamp that is newer than pyproject.toml says that nothing has to be installed.
stamp=$venv/.rkvlm-${1:-core}
# shellcheck disable=SC3013  # every sh of Debian, Ubuntu and busybox has -nt
if [ ! -e "$stamp" ] || [ "$root/pyproject.toml" -nt "$stamp" ]; then
    say "Installing rkvlm$extra into $venv (a few minutes the first time) ..."
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root$extra" >&2
    touch "$stamp"
fi
printf '%s\n' "$venv/bin"

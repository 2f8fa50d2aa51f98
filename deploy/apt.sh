#!/bin/sh
# Install packages of Debian or Ubuntu: `deploy/apt.sh PACKAGE...`. Everything it says goes to stderr.
set -eu
exec >&2
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
if ! command -v apt-get >/dev/null 2>&1; then
    printf 'Missing: %s. Install it with the package manager of this system and run this again.\n' "$*"
    exit 1
fi
printf 'Installing %s ...\n' "$*"
$as_root apt-get update -q
$as_root apt-get install -q -y --no-install-recommends "$@"

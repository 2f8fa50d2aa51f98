#!/bin/sh
# Run the tests; installs what they need first. Arguments go to pytest.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
bin=$("$root/deploy/venv.sh" dev)
command -v chromium >/dev/null 2>&1 || "$root/deploy/apt.sh" chromium # for the tests of pages
cd "$root"
exec "$bin/python" -m pytest "$@"

#!/bin/sh
# Run the tests; installs what they need first. Arguments go to pytest.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
bin=$("$root/deploy/venv.sh" dev)
cd "$root"
exec "$bin/python" -m pytest "$@"

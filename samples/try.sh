#!/bin/sh
# Ask the demo model about a sample picture; installs what that needs first. `samples/try.sh [PICTURE [QUESTION]]`.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
bin=$("$here/../deploy/venv.sh")
[ $# -gt 0 ] || set -- "$here/pictures/traffic-light.jpg"
exec "$bin/vlm" describe "$@"

#!/bin/sh
# Describe every sample picture, one line each.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
bin=$("$here/../deploy/venv.sh")
for picture in "$here"/pictures/*.[!j]* "$here"/pictures/*.jpg; do
    printf '%s: ' "$(basename "$picture")"
    "$bin/vlm" describe "$picture" --model demo
done

#!/bin/sh
# From a PC: set up a board over ssh or adb in one command, or bring it up to date.
set -eu

usage() {
    cat <<'USAGE'
push.sh --ssh [USER@]HOST [--ssh-config FILE] WHAT...
push.sh --adb [SERIAL] WHAT...

  --ssh [USER@]HOST   the board; a user who is not root needs sudo there
  --ssh-config FILE   for ssh -F: port, key and the like
  --adb [SERIAL]      the board on USB, the only one when no serial is given
  --wheel FILE        the wheel; without it one is built from this checkout
  --model DIR         a model directory to copy (several times for several)
  --library FILE      your librkllmrt.so or librknnrt.so to copy
  --dry-run           say what would be run, and touch nothing

Sends the wheel, the files of deploy/ and what is named, and runs install.sh on the board. It can be run again; leave
out --model when the models are there already. The board needs a package index or wheels for its Python (pip's own
settings count).
USAGE
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
there=/var/tmp/rkvlm-push
over='' board='' config='' dry_run='' wheel='' models='' libraries=''

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "push.sh: $*"
    exit 1
}

need() { command -v "$1" >/dev/null 2>&1 || fail "there is no $1 on this machine. Install it."; }

absolute() {
    [ -e "$1" ] || fail "there is no $1."
    (CDPATH='' cd -- "$(dirname -- "$1")" && printf '%s/%s\n' "$(pwd)" "$(basename -- "$1")")
}

# A word as the board's shell has to see it.
quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

# One connection for all that follows: a password is asked for once.
through_ssh() {
    ssh ${config:+-F "$config"} -o ControlMaster=auto -o ControlPath="$work/ssh" -o ControlPersist=60 "$@"
}

through_adb() {
    if [ -n "$board" ]; then adb -s "$board" "$@"; else adb "$@"; fi
}

leave() {
    [ "$over" = adb ] || [ -n "$dry_run" ] || through_ssh -O exit "$board" 2>/dev/null || :
    rm -rf "$work"
}

# Run a command line on the board. An old adb does not hand on how it ended, so it is printed and read.
on_board() {
    if [ -n "$dry_run" ]; then
        say "would run on the board: $1"
    elif [ "$over" = ssh ]; then
        through_ssh "$board" "$1"
    else
        through_adb shell "$1; echo rkvlm-exit=\$?" | tr -d '\r' | tee "$work/told" | sed '/^rkvlm-exit=/d'
        grep -q '^rkvlm-exit=0$' "$work/told" || fail "the command failed on the board: $1"
    fi
}

send() {
    if [ -n "$dry_run" ]; then
        say "would send: $1"
    elif [ "$over" = ssh ]; then
        tar -C "$(dirname -- "$1")" -chf - -- "$(basename -- "$1")" | through_ssh "$board" "tar -C $there -xf -"
    else
        through_adb push "$1" "$there/" >&2
    fi
}

build() {
    if [ -n "$dry_run" ]; then
        say "would build a wheel of this checkout"
        wheel=$work/rkvlm.whl
        return
    fi
    say "Building the wheel ..."
    bin=$("$here/venv.sh")
    "$bin/python" -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir "$work" "$here/.." >&2
    for wheel in "$work"/rkvlm-*.whl; do :; done
}

push() {
    [ -n "$wheel" ] || build
    words="--wheel $(quoted "$there/$(basename -- "$wheel")")"
    say "Sending to $there on the board ..."
    on_board "rm -rf $there && mkdir -m 700 $there"
    for file in "$here/install.sh" "$here/rkvlm.service" "$here/60-rkvlm.rules" "$here/vlm.toml" "$wheel"; do
        send "$file"
    done
    # Not read from stdin: ssh would take the rest of it.
    while IFS= read -r path <&3; do
        [ -n "$path" ] || continue
        send "$path"
        kind=--library
        [ ! -d "$path" ] || kind=--model
        words="$words $kind $(quoted "$there/$(basename -- "$path")")"
    done 3<<PATHS
$libraries$models
PATHS
    say "Running install.sh on the board ..."
    on_board "as_root=; [ \"\$(id -u)\" = 0 ] || as_root=sudo; \$as_root sh $there/install.sh $words"
    on_board "rm -rf $there"
}

[ $# -gt 0 ] || {
    usage
    exit 1
}
while [ $# -gt 0 ]; do
    case $1 in
    --ssh | --ssh-config | --wheel | --model | --library)
        [ $# -gt 1 ] || fail "$1 needs a value."
        case $1 in
        --ssh) over=ssh board=$2 ;;
        --ssh-config) config=$(absolute "$2") ;;
        --wheel) wheel=$(absolute "$2") ;;
        --model)
            [ -d "$2" ] || fail "--model: $2 is no directory."
            case $(basename -- "$2") in
            *[!A-Za-z0-9._-]*) fail "--model: rename $2; expected a name of letters, digits and . _ - only." ;;
            esac
            models="$models$(absolute "$2")
"
            ;;
        --library)
            libraries="$libraries$(absolute "$2")
"
            ;;
        esac
        shift
        ;;
    --adb)
        over=adb
        case ${2:-} in
        '' | --*) ;;
        *)
            board=$2
            shift
            ;;
        esac
        ;;
    --dry-run) dry_run=yes ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown word $1; --help lists what there is." ;;
    esac
    shift
done
case $over:$board in
'':*) fail "say where the board is: --ssh [USER@]HOST or --adb." ;;
ssh:-*) fail "--ssh: $board is no host." ;;
esac
[ -n "$dry_run" ] || need "$over"
work=$(mktemp -d)
trap leave EXIT
push

#!/bin/sh
# Set up `vlm serve` as a systemd service on this machine, or bring one that is set up up to date. Run it as root.
set -eu

usage() {
    cat <<'USAGE'
install.sh [install] [--wheel FILE] [--model DIR]... [--library FILE]... [--dry-run]
install.sh uninstall [--purge] [--dry-run]

  --wheel FILE     the rkvlm wheel to install (the one beside this script, when there is one)
  --model DIR      a model directory, copied to /var/lib/rkvlm/models
  --library FILE   librkllmrt.so or librknnrt.so, copied to /usr/lib
  --purge          with uninstall: the models, the settings and the user too
  --dry-run        say what would be done, and do nothing

It can be run again: the settings stay, all else is brought up to date.
USAGE
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
home=/opt/rkvlm state=/var/lib/rkvlm settings=/etc/rkvlm user=rkvlm
unit=/etc/systemd/system/rkvlm.service
rules=/etc/udev/rules.d/60-rkvlm.rules
command=/usr/local/bin/vlm
dry_run='' purge='' wheel='' models='' libraries=''

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "install.sh: $*"
    exit 1
}

said_and_done() { [ -n "$dry_run" ] || say "$*"; }

# Do it, or only say it.
run() {
    if [ -n "$dry_run" ]; then say "would run: $*"; else "$@"; fi
}

absolute() {
    [ -e "$1" ] || fail "there is no $1."
    (CDPATH='' cd -- "$(dirname -- "$1")" && printf '%s/%s\n' "$(pwd)" "$(basename -- "$1")")
}

with_systemd() { command -v systemctl >/dev/null 2>&1; }
systemd_runs() { with_systemd && [ -d /run/systemd/system ]; }

check() {
    [ -n "$dry_run" ] || [ "$(id -u)" = 0 ] || fail "run it as root (sudo), or with --dry-run."
    [ "$action" = install ] || return 0
    if [ -z "$wheel" ]; then
        for found in "$here"/rkvlm-*.whl; do [ ! -e "$found" ] || wheel=$found; done
    fi
    [ -n "$wheel" ] || fail "no wheel: build one with \`python -m build --wheel\` and name it with --wheel."
}

packages() {
    if python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then return; fi
    command -v apt-get >/dev/null 2>&1 || fail "missing: Python 3.10 or newer with its venv module. Install it first."
    say "Installing Python ..."
    run apt-get update -q
    run apt-get install -q -y --no-install-recommends python3 python3-venv
    [ -n "$dry_run" ] || python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "rkvlm needs Python 3.10 or newer; this system has $(python3 --version)."
}

service_user() {
    for group in render video; do
        getent group "$group" >/dev/null || run groupadd --system "$group"
    done
    if ! getent passwd "$user" >/dev/null; then
        say "Making the user $user ..."
        run useradd --system --user-group --home-dir "$state" --shell /usr/sbin/nologin "$user"
    fi
    run usermod --append --groups render,video "$user"
}

program() {
    # A venv whose Python is gone, because the system was upgraded, is made anew.
    if ! "$home/venv/bin/python" -c '' 2>/dev/null; then
        say "Making $home/venv ..."
        run mkdir -p "$home"
        run python3 -m venv --clear "$home/venv"
    fi
    say "Installing $(basename -- "$wheel") into $home/venv ..."
    run "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
    # A wheel that was built again has the same version.
    run "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheel"
    run mkdir -p "$(dirname -- "$command")"
    run ln -sfn "$home/venv/bin/vlm" "$command"
}

# The paths of --model and --library are kept one on a line.
copy_libraries() {
    printf '%s' "$libraries" | while IFS= read -r file; do
        say "Copying $(basename -- "$file") to /usr/lib ..."
        run install -m 644 "$file" "/usr/lib/$(basename -- "$file")"
    done
    [ -z "$libraries" ] || run ldconfig
}

copy_models() {
    run install -d -m 755 "$state" "$state/models"
    run chown "$user:$user" "$state"
    printf '%s' "$models" | while IFS= read -r model; do
        say "Copying the model $(basename -- "$model") ..."
        run cp -r -L --update --preserve=timestamps "$model" "$state/models/"
        run chmod -R u=rwX,go=rX "$state/models/$(basename -- "$model")"
    done
}

settings_files() {
    run install -d -m 755 "$settings"
    if [ -e "$settings/vlm.toml" ]; then
        say "$settings/vlm.toml stays as it is."
        return
    fi
    say "Writing $settings/vlm.toml ..."
    run install -m 640 -g "$user" "$here/vlm.toml" "$settings/vlm.toml"
    first=$(printf '%s' "$models" | head -n 1)
    [ -z "$first" ] ||
        run sed -i "s|^# model = .*|model = \"$state/models/$(basename -- "$first")\"|" "$settings/vlm.toml"
}

service() {
    say "Installing the unit and the device rules ..."
    run install -D -m 644 "$here/rkvlm.service" "$unit"
    run install -D -m 644 "$here/60-rkvlm.rules" "$rules"
    if ! with_systemd; then
        say "There is no systemd here: start $command serve by other means."
        return
    fi
    run systemctl enable rkvlm.service
    if ! systemd_runs; then
        say "systemd does not run here: the service starts with the machine."
        return
    fi
    if command -v udevadm >/dev/null 2>&1; then
        run udevadm control --reload
        run udevadm trigger
    fi
    run systemctl daemon-reload
    # The start waits for the model, which may take minutes.
    run systemctl restart --no-block rkvlm.service
}

install_all() {
    packages
    service_user
    program
    copy_libraries
    copy_models
    settings_files
    service
    said_and_done "Done. \`journalctl -u rkvlm -f\` shows it start, $settings/vlm.toml has its settings."
}

uninstall_all() {
    if with_systemd && [ -e "$unit" ]; then
        if systemd_runs; then run systemctl stop rkvlm.service; fi
        run systemctl disable rkvlm.service
    fi
    run rm -f "$unit" "$rules" "$command"
    run rm -rf "$home"
    if systemd_runs; then run systemctl daemon-reload; fi
    if [ -z "$purge" ]; then
        said_and_done "Removed. $state, $settings and the user $user are still there (--purge)."
        return
    fi
    run rm -rf "$state" "$settings"
    if getent passwd "$user" >/dev/null; then run userdel "$user"; fi
    said_and_done "Removed. What was copied to /usr/lib (librkllmrt.so, librknnrt.so) is still there: others may use it."
}

action=install
case ${1:-} in
install | uninstall)
    action=$1
    shift
    ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
    --wheel | --model | --library)
        [ $# -gt 1 ] || fail "$1 needs a path."
        path=$(absolute "$2")
        case $1 in
        --wheel) wheel=$path ;;
        --model)
            [ -d "$path" ] || fail "--model: $2 is no directory."
            case $(basename -- "$2") in
            *[!A-Za-z0-9._-]*) fail "--model: rename $2; expected a name of letters, digits and . _ - only." ;;
            esac
            models="$models$path
"
            ;;
        --library)
            case $(basename -- "$path") in
            librkllmrt.so | librknnrt.so) ;;
            *) fail "--library: expected librkllmrt.so or librknnrt.so, got $(basename -- "$path")." ;;
            esac
            libraries="$libraries$path
"
            ;;
        esac
        shift
        ;;
    --purge) purge=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help)
        usage
        exit
        ;;
    *) fail "unknown word $1; --help lists what there is." ;;
    esac
    shift
done
check
"${action}_all"

"""A Debian of the tests' own, to install things in: debootstrap from the packages that apt is configured for here.

Made once, kept in the tests' cache directory as a tar file, and unpacked for each test, so that no test sees another
one's changes. Everything runs in a mount and process namespace of its own: what is mounted there is gone with it, and
the root's /proc is never on this machine's disk. Needs root.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
from pathlib import Path

PACKAGES = "python3,python3-venv,systemd,openssh-server,ca-certificates,adduser"
PIP_CONF = "[global]\nno-index = true\nfind-links = /wheels\n"
SECONDS = 1200


class Unavailable(Exception):
    """The root cannot be had here now; says why."""


def run(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is text, and how it ended is for the caller."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
        **more,
    )


def archive() -> Path:
    """The tar file of the root, made unless it is there. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("debootstrap and chroot need root")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rkvlm-tests"
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "debian-root.tar"
    with (cache / "debian-root.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            _make(file)
    return file


def _make(file: Path) -> None:
    if not shutil.which("debootstrap"):
        raise Unavailable("there is no debootstrap here; `apt-get install debootstrap` brings it")
    suite, mirror = _source()
    work = file.with_suffix(".work")
    part = file.with_suffix(".part")
    words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, work, *mirror]
    packed = f"tar -C {work} --one-file-system --exclude=./var/cache/apt/archives/*.deb -cf {part} ."
    script = f"{shlex.join(map(str, words))} && {packed}"
    try:
        done = run("unshare", "--mount", "--propagation=private", "sh", "-c", script)
        if done.returncode:
            raise Unavailable(f"debootstrap: {' '.join(done.stdout.splitlines()[-2:])}")
        part.rename(file)
    finally:
        run("rm", "-rf", "--one-file-system", work, part)


def _source() -> tuple[str, list[str]]:
    """The release that apt has packages of here, and where they come from."""
    suite = run("sh", "-c", '. /etc/os-release; [ "$ID" = debian ] && echo "$VERSION_CODENAME"').stdout.strip()
    if not suite:
        raise Unavailable("this is no Debian, whose packages the root is made of")
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {suite}", "Created-By: Packages")
    found = [line for line in targets.stdout.splitlines() if line.startswith(("http:", "https:"))]
    return suite, found[:1]


class Root:
    """A root for one test. Its pip takes packages from `wheels`, which is mounted there, and from nowhere else."""

    def __init__(self, place: Path, wheels: Path) -> None:
        self.place, self._wheels = place, wheels
        place.mkdir()
        place.chmod(0o755)
        done = run("tar", "-C", place, "-xf", archive())
        assert done.returncode == 0, done.stdout
        (place / "wheels").mkdir()
        (place / "etc/pip.conf").write_text(PIP_CONF)

    def command(self, *words: object) -> list[str]:
        """The words that run a command in it, in namespaces of its own and with a /proc."""
        mounts = f'mount --bind {self._wheels} {self.place}/wheels && exec chroot {self.place} "$@"'
        space = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={self.place}/proc"]
        return [*space, "sh", "-c", mounts, "sh", *map(str, words)]

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        plain = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        return run(*self.command(*words), env={**plain, **environment})

    def told(self, *words: object, **environment: str) -> str:
        done = self.run(*words, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def remove(self) -> None:
        run("rm", "-rf", "--one-file-system", self.place)

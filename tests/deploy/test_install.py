"""install.sh and push.sh in a Debian of the tests' own (the slow part), and what they say they would do (the rest).

There is no board, no systemd that runs and no NPU in it: the unit is installed, checked and enabled, not started. What
ssh reaches is an sshd inside that Debian; what adb reaches is a script in its place that keeps to adb's words.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from debian_root import Root, run
from sample_pictures import ROOT

INSTALL, PUSH = ROOT / "deploy" / "install.sh", ROOT / "deploy" / "push.sh"
DEMO = ROOT / "samples" / "demo" / "model"
AS_SERVICE = ("setpriv", "--reuid=rkvlm", "--regid=rkvlm", "--init-groups", "env", "VLM_CONFIG=/etc/rkvlm/vlm.toml")
STAR = ("vlm", "describe", "/tmp/blue-star.jpg", "What colour is the star?")


def asked(debian: Root) -> str:
    """What the installed program answers, as the service's user."""
    shutil.copy(ROOT / "samples" / "pictures" / "blue-star.jpg", debian.place / "tmp")
    return debian.told(*AS_SERVICE, *STAR).splitlines()[-1]


def files(debian: Root) -> set[str]:
    places = ("opt/rkvlm", "etc/rkvlm", "var/lib/rkvlm", "etc/udev/rules.d/60-rkvlm.rules", "usr/local/bin/vlm")
    places += ("etc/systemd/system/rkvlm.service", "etc/systemd/system/multi-user.target.wants/rkvlm.service")
    return {place for place in places if os.path.lexists(debian.place / place)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_install_twice_and_uninstall_twice(debian: Root, wheel: Path) -> None:
    shutil.copy(wheel, debian.place / "root/deploy")
    shutil.copytree(DEMO, debian.place / "root/demo")
    (debian.place / "root/librkllmrt.so").write_text("yours")
    words = ("sh", "/root/deploy/install.sh", "--model", "/root/demo", "--library", "/root/librkllmrt.so")
    debian.told(*words)
    assert len(files(debian)) == 7
    assert asked(debian) == "The star is blue."
    settings = debian.place / "etc/rkvlm/vlm.toml"
    assert 'model = "/var/lib/rkvlm/models/demo"' in settings.read_text()
    groups = debian.told("id", "--name", "--groups", "rkvlm").split()
    assert {"rkvlm", "render", "video"} <= set(groups)
    assert (debian.place / "usr/lib/librkllmrt.so").read_text() == "yours"
    verified = debian.run("systemd-analyze", "verify", "/etc/systemd/system/rkvlm.service")
    assert (verified.returncode, verified.stdout) == (0, "")

    settings.write_text(settings.read_text() + "port = 8081\n")
    (debian.place / "opt/rkvlm/venv/bin/vlm").unlink()  # damaged, as by a disk that was full
    said = debian.told(*words)
    assert "stays as it is" in said
    assert "Making" not in said
    assert settings.read_text().endswith("port = 8081\n")
    assert asked(debian) == "The star is blue."

    for _ in range(2):
        debian.told("sh", "/root/deploy/install.sh", "uninstall")
        assert files(debian) == {"etc/rkvlm", "var/lib/rkvlm"}
    for _ in range(2):
        debian.told("sh", "/root/deploy/install.sh", "uninstall", "--purge")
        assert files(debian) == set()
    assert debian.run("id", "rkvlm").returncode != 0


@contextmanager
def sshd(debian: Root, folder: Path) -> Iterator[Path]:
    """An sshd in that Debian, on a free port of loopback with keys of its own. Gives ssh's configuration for it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    inside = debian.place / "root/ssh"
    inside.mkdir(mode=0o700)
    shutil.copy(folder / "host", inside)
    (inside / "host").chmod(0o600)
    shutil.copy(folder / "user.pub", inside / "keys")
    (inside / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey /root/ssh/host\nAuthorizedKeysFile /root/ssh/keys\n"
        "PasswordAuthentication no\nUsePAM no\nPidFile none\n"
    )
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    config = folder / "config"
    config.write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {folder}/user\n"
        f"  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {folder}/known\n  BatchMode yes\n"
    )
    (debian.place / "run/sshd").mkdir(exist_ok=True)
    daemon = debian.command("/usr/sbin/sshd", "-D", "-e", "-f", "/root/ssh/config")
    with (folder / "log").open("w") as log, subprocess.Popen(daemon, stdin=subprocess.DEVNULL, stderr=log) as process:
        try:
            until = time.monotonic() + 60
            while "listening on" not in (folder / "log").read_text():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, "sshd did not come up within 60 s"
                time.sleep(0.05)
            yield config
        finally:
            process.kill()  # unshare ignores SIGTERM; sshd goes with it


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_push_over_ssh_twice(debian: Root, tmp_path: Path) -> None:
    if not shutil.which("ssh"):
        pytest.skip("there is no ssh here; `apt-get install openssh-client` brings it")
    library = tmp_path / "librknnrt.so"
    library.write_text("yours")
    model = tmp_path / "it's" / "demo"
    shutil.copytree(DEMO, model)
    keys = tmp_path / "keys"
    keys.mkdir()
    with sshd(debian, keys) as config:
        where = ("--ssh", "board", "--ssh-config", config)
        first = run(PUSH, *where, "--model", model, "--library", library)
        assert first.returncode == 0, first.stdout
        assert asked(debian) == "The star is blue."
        assert (debian.place / "usr/lib/librknnrt.so").read_text() == "yours"
        assert (debian.place / "var/lib/rkvlm/models/demo/tokenizer.json").exists()
        assert not (debian.place / "var/tmp/rkvlm-push").exists()
        second = run(PUSH, *where)
        assert second.returncode == 0, second.stdout
        assert "stays as it is" in second.stdout
        (debian.place / "etc/pip.conf").write_text("[global]\nno-index = true\n")
        shutil.rmtree(debian.place / "opt/rkvlm")
        failed = run(PUSH, *where)
        assert failed.returncode != 0, "what fails on the board fails here"


def test_push_over_ssh_says_what_it_would_do(tmp_path: Path) -> None:
    done = run(PUSH, "--ssh", "me@board", "--model", DEMO, "--dry-run", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stdout
    would = [line for line in done.stdout.splitlines() if line.startswith("would ")]
    assert [line.split("/")[-1] for line in would if "send" in line] == [
        *("install.sh", "rkvlm.service", "60-rkvlm.rules", "vlm.toml"),
        *("rkvlm.whl", "model"),
    ]
    assert "install.sh --wheel '/var/tmp/rkvlm-push/rkvlm.whl' --model '/var/tmp/rkvlm-push/model'" in would[-2]


def test_push_over_adb(tmp_path: Path, tools: Path) -> None:
    """Over a stand-in for adb, which writes down what it is told and fails on the board when asked to."""
    (tools / "adb").write_text(
        f"""#!/bin/sh
        echo "$@" >> {tmp_path}/told
        case "$*" in
        *install.sh*--wheel*) [ -e {tmp_path}/broken ] && printf 'no space\\r\\nrkvlm-exit=1\\r\\n' && exit ;;
        esac
        case "$*" in *shell*) printf 'done\\r\\nrkvlm-exit=0\\r\\n' ;; esac
        """
    )
    (tools / "adb").chmod(0o755)
    wheel = tmp_path / "rkvlm-0-py3-none-any.whl"
    wheel.touch()
    words = (PUSH, "--adb", "12ab", "--wheel", wheel, "--model", DEMO)
    done = run(*words)
    assert done.returncode == 0, done.stdout
    told = (tmp_path / "told").read_text().splitlines()
    assert all(line.startswith("-s 12ab ") for line in told)
    assert [line.split()[3].split("/")[-1] for line in told if " push " in line][-2:] == [wheel.name, "model"]
    (tmp_path / "broken").touch()
    failed = run(*words)
    assert failed.returncode == 1
    assert "no space" in failed.stdout
    assert "failed on the board" in failed.stdout


def test_install_says_what_it_would_do(tmp_path: Path) -> None:
    wheel = tmp_path / "rkvlm-0-py3-none-any.whl"
    wheel.touch()
    done = run(INSTALL, "--dry-run", "--wheel", wheel, "--model", DEMO)
    assert done.returncode == 0, done.stdout
    for words in ("pip install", "/etc/systemd/system/rkvlm.service", "/var/lib/rkvlm/models/"):
        assert any(line.startswith("would run:") and words in line for line in done.stdout.splitlines()), words
    assert "Done" not in done.stdout
    gone = run(INSTALL, "uninstall", "--purge", "--dry-run")
    assert "would run: rm -rf /opt/rkvlm" in gone.stdout


@pytest.mark.parametrize("script", [INSTALL, PUSH])
def test_a_model_whose_name_would_have_to_be_quoted(script: Path, tmp_path: Path) -> None:
    model = tmp_path / 'a "model"'
    model.mkdir()
    done = run(script, "--model", model)
    assert done.returncode == 1
    assert "expected a name of letters" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([PUSH, "--model", DEMO], "say where the board is"),
        ([PUSH, "--ssh"], "--ssh needs a value"),
        ([PUSH, "--ssh", "-oProxyCommand=x", "--dry-run"], "is no host"),
        ([PUSH, "--ssh", "board", "--model", "/nothing"], "is no directory"),
        ([PUSH, "--sh", "board"], "unknown word --sh"),
        ([INSTALL, "--dry-run"], "no wheel"),
        ([INSTALL, "--wheel", "/nothing.whl"], "there is no /nothing.whl"),
        ([INSTALL, "--library", INSTALL], "expected librkllmrt.so or librknnrt.so, got install.sh"),
    ],
)
def test_words_that_cannot_be(words: list[object], said: str) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert said in done.stdout

"""The files of deploy/ by the programs that read them: systemd, shellcheck, nginx, Prometheus, buildah.

What is not on this machine is not checked by it, and the skip says so.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from debian_root import PIP_CONF, archive, run
from sample_pictures import ROOT
from service_rig import Served, serve, standin_words, told

from vlm.profile import load_profile
from vlm.settings import load_serve_settings

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "rkvlm.service"


def need(program: str, package: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"there is no {program} here; `apt-get install {package}` brings it")


def test_the_scripts_by_shellcheck() -> None:
    need("shellcheck", "shellcheck")
    done = run("shellcheck", *sorted(DEPLOY.glob("*.sh")))
    assert done.returncode == 0, done.stdout


def test_the_unit_is_hardened() -> None:
    """systemd's own score, 0 (closed) to 10, which has to be under 4; and what the NPU needs is not taken away."""
    need("systemd-analyze", "systemd")
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    if "unrecognized option" in done.stdout:
        pytest.skip("this systemd-analyze reads no unit offline; 250 and newer do")
    score = re.search(r"Overall exposure level.*: ([\d.]+)", done.stdout)
    assert score, done.stdout
    assert float(score[1]) < 4
    lines = UNIT.read_text().splitlines()
    for line in ("DeviceAllow=char-drm rw", "DeviceAllow=/dev/rknpu rw", "DeviceAllow=char-dma_heap rw"):
        assert line in lines
    assert "ReadWritePaths=/run/lock" in lines, "processes outside meet it at the NPU's lock files"
    assert not {"PrivateDevices=yes", "ProcSubset=pid", "PrivateUsers=yes"} & set(lines)


@pytest.mark.parametrize("change", ["", "ExecStart=vlm serve\n", "Hardened=yes\n"])
def test_the_unit_by_systemd(tmp_path: Path, change: str) -> None:
    """As it is, and broken in two ways to see that the check sees it. The program is a stand-in."""
    need("systemd-analyze", "systemd")
    unit = tmp_path / UNIT.name
    program = tmp_path / "vlm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text().replace("/opt/rkvlm/venv/bin/vlm", str(program))
    unit.write_text(text.replace("[Service]\n", f"[Service]\n{change}"))
    done = run("systemd-analyze", "verify", "--man=no", unit)
    ours = [line for line in done.stdout.splitlines() if UNIT.name in line]
    assert bool(ours) == bool(change), done.stdout


def test_settings_to_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_settings: None) -> None:
    text = (DEPLOY / "vlm.toml").read_text()
    file = tmp_path / "vlm.toml"
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M).replace("sha256:...", "sha256:" + "0" * 64))
    monkeypatch.setenv("VLM_CONFIG", str(file))
    assert load_serve_settings().host == "0.0.0.0"


def test_the_dashboard_asks_for_figures_that_there_are(tmp_path: Path, clean_settings: None) -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    with serve("--model", "demo") as served:
        text = served.ready().get("/metrics").text
    declared = set(re.findall(r"^# TYPE (\w+)", text, flags=re.M))
    declared |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", text, flags=re.M)}
    wanted = {name for expression in asked for name in re.findall(r"\bvlm_\w+", expression)}
    assert len(wanted) > 10
    assert wanted <= declared
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places)


def test_the_memory_page_holds_what_the_profiles_say() -> None:
    """The memory of one picture's embedding, and how many fit in the default of VLM_CACHE_BYTES."""
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d,]+) \| (\d+) \|$", (ROOT / "docs/memory.md").read_text(), flags=re.M)
    assert len(rows) >= 4
    for name, size, pictures in rows:
        encoder = load_profile(name).encoder
        expected = encoder.tokens * encoder.width * encoder.outputs * 4
        assert (int(size.replace(",", "")), int(pictures)) == (expected, (64 << 20) // expected), name


def test_compose_gives_what_the_container_file_asks_for() -> None:
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    text = (DEPLOY / "Containerfile").read_text()
    mounted = {volume.split(":")[1] for volume in service["volumes"]} | set(service["devices"])
    needed = {"/dev/dri", "/dev/dma_heap", "/run/lock", "/usr/lib/librkllmrt.so", "/usr/lib/librknnrt.so"}
    assert needed <= mounted
    assert all(path in text for path in needed)
    assert service["build"] == {"context": "..", "dockerfile": "deploy/Containerfile"}


@contextmanager
def nginx(folder: Path, served: Served) -> Iterator[str]:
    """nginx with the example, on a free port and with a certificate of the tests' own, before a service."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        plain, secure = (str(probe.getsockname()[1]) for probe in (one, two))
    subject = ("-subj", "/CN=vlm.example.org", "-days", "1", "-nodes")
    made = run("openssl", "req", "-x509", *subject, "-keyout", folder / "key.pem", "-out", folder / "fullchain.pem")
    assert made.returncode == 0, made.stdout
    example = (DEPLOY / "nginx.conf").read_text().replace("/etc/ssl/rkvlm", str(folder))
    example = example.replace("listen 80", f"listen 127.0.0.1:{plain}").replace(
        "listen 443", f"listen 127.0.0.1:{secure}"
    )
    (folder / "example.conf").write_text(example.replace("127.0.0.1:8080", served.url.removeprefix("http://")))
    shutil.copy("/etc/nginx/proxy_params", folder)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid;\nerror_log {folder}/errors;\ndaemon off;\nevents {{}}\nhttp {{\n"
        f"access_log off;\n{temporary}include example.conf;\n}}\n"
    )
    words = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]
    checked = run(*words, "-t")
    assert checked.returncode == 0, checked.stdout
    assert "warn" not in checked.stdout
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", int(secure))):
                assert time.monotonic() < until, "nginx did not come up within 60 s"
                time.sleep(0.05)
            yield f"https://127.0.0.1:{secure}"
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_tokens_through_nginx_as_they_are_told(tmp_path: Path, clean_settings: None) -> None:
    need("nginx", "nginx-light")
    folder = tmp_path / "nginx"
    folder.mkdir(mode=0o755)
    with (
        serve(*standin_words(tmp_path, "1.3.0"), "--allowed-hosts", "vlm.example.org") as served,
        nginx(folder, served.ready()) as url,
        httpx.Client(base_url=url, verify=False, headers={"host": "vlm.example.org"}) as client,
    ):
        body = {
            "model": "demo",
            "stream": True,
            "messages": [{"role": "user", "content": "[id=a][tokens=60][pace=50]"}],
        }
        with client.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = (line for line in response.iter_lines() if '"content":"a:' in line.replace(" ", ""))
            first = next(lines)
            assert served.get("/healthz").json()["in_flight"] == 1, "the first token came when the answer was over"
            rest = list(lines)
        pieces = [json.loads(line.partition("data: ")[2])["choices"][0]["delta"]["content"] for line in (first, *rest)]
        assert "".join(pieces) == told("a", 60)
        assert client.post("/v1/describe", content=b"x" * (33 << 20), timeout=60).status_code == 413


@pytest.mark.slow
def test_prometheus_takes_the_example(tmp_path: Path) -> None:
    need("promtool", "prometheus")
    key = tmp_path / "key"
    key.touch()
    for name in ("prometheus.yml", "prometheus-alerts.yml"):
        (tmp_path / name).write_text((DEPLOY / name).read_text().replace("/etc/prometheus/rkvlm.key", str(key)))
    done = run("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_container_builds_and_answers(tmp_path: Path, wheels: Path) -> None:
    """Built by buildah, for this machine's architecture, on the tests' own Debian in place of the public image."""
    need("buildah", "buildah")
    # In a process namespace of its own: with chroot isolation the steps would see, and could end, everyone's processes.
    space = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    store = [*space, "buildah", "--root", tmp_path / "images", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]

    def buildah(*words: object) -> str:
        done = run(*store, *words, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path)})
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout.strip()

    (tmp_path / "pip.conf").write_text(PIP_CONF)
    base = buildah("from", "scratch").splitlines()[-1]
    try:
        buildah("add", "--quiet", base, archive(), "/")
        buildah("commit", "--quiet", base, "rkvlm-base")
        mounts = ["--volume", f"{wheels}:/wheels:ro", "--volume", f"{tmp_path}/pip.conf:/etc/pip.conf:ro"]
        plain = ["--isolation", "chroot", "--network", "host", "--pull-never", *mounts]
        buildah(
            "build",
            *plain,
            "--build-arg=BASE=localhost/rkvlm-base",
            "-f",
            DEPLOY / "Containerfile",
            "-t",
            "rkvlm",
            ROOT,
        )
        made = buildah("from", "--pull-never", "localhost/rkvlm").splitlines()[-1]
        buildah("copy", made, ROOT / "samples/pictures/blue-star.jpg", "/star.jpg")
        asked = ["vlm", "describe", "/star.jpg", "What colour is the star?"]
        assert buildah("run", "--isolation", "chroot", made, "--", *asked).splitlines()[-1] == "The star is blue."
        assert buildah("run", "--isolation", "chroot", made, "--", "id", "-un").splitlines()[-1] == "rkvlm"
    finally:
        run(*store, "rm", "--all")
        run(*store, "rmi", "--all", "--force")

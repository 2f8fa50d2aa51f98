"""What systemd hears of `vlm serve`, over a socket of the tests' own, and how long an engine counts as well."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sample_pictures import ROOT
from service_rig import serve, standin_words, wait_until

from vlm import EngineLimits, Health
from vlm.engine.health import Totals
from vlm.engine.messages import CacheFigures
from vlm.server.notify import Notifier, Vigil

LIMITS = EngineLimits(deadline_s=300, abort_s=10, kill_s=5, start_s=600, restart_max_s=30)
IDLE = Health("ready", True, None, 0, 0, 1, 0, CacheFigures(), Totals(0, 0, 0, {}, 0, 0), None)


class Systemd:
    """Listens where systemd would."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while (text := self._socket.recv(4096).decode()) != "end":
            self.heard += text.split("\n")

    def close(self) -> None:
        Notifier(self.address, None).say("end")
        self._reader.join()
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    own = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@rkvlm-test-{os.getpid()}")
    yield own
    own.close()


def test_ready_then_alive_then_stopping(systemd: Systemd, tmp_path: Path, clean_settings: None) -> None:
    with serve(
        *standin_words(tmp_path, "1.3.0", "[slow=700]"), NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="300000"
    ) as served:
        wait_until(lambda: any(line.startswith("STATUS=starting") for line in systemd.heard))
        assert "READY=1" not in systemd.heard
        served.ready()
        wait_until(lambda: "READY=1" in systemd.heard)
        before = systemd.heard.count("WATCHDOG=1")
        wait_until(lambda: systemd.heard.count("WATCHDOG=1") > before + 3)
        assert served.end(signal.SIGTERM) == 0
    wait_until(lambda: "STOPPING=1" in systemd.heard)
    assert systemd.heard.index("READY=1") < systemd.heard.index("STOPPING=1")


def test_a_process_that_is_held_up_is_not_vouched_for(tmp_path: Path, clean_settings: None) -> None:
    own = Systemd(str(tmp_path / "notify"))
    try:
        with serve("--model", "demo", NOTIFY_SOCKET=own.address, WATCHDOG_USEC="150000") as served:
            wait_until(lambda: "WATCHDOG=1" in own.heard)
            served.process.send_signal(signal.SIGSTOP)
            try:
                wait_until(lambda: (served_state(served.process.pid)) == "T")
                before = own.heard.count("WATCHDOG=1")
                threading.Event().wait(0.6)
                assert own.heard.count("WATCHDOG=1") <= before + 1  # one may have been on its way
            finally:
                served.process.send_signal(signal.SIGCONT)
    finally:
        own.close()


def served_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_a_watchdog_for_another_process_is_not_fed() -> None:
    mine = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1000000"}
    assert Notifier.from_environment({**mine, "WATCHDOG_PID": str(os.getpid())})._watchdog_s == 1
    for more in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}):
        assert Notifier.from_environment({**mine, **more})._watchdog_s is None


def test_nobody_listens(tmp_path: Path) -> None:
    for address in (None, "", str(tmp_path / "nobody"), "@nobody-" + "x" * 200):
        Notifier(address, None).say("READY=1")


@pytest.mark.parametrize(
    ("state", "limit_s"), [("ready", None), ("busy", 315), ("starting", 635), ("restarting", 635), ("stopping", None)]
)
def test_how_long_a_state_may_last(state: str, limit_s: int | None) -> None:
    vigil = Vigil(LIMITS)
    health = replace(IDLE, state=state)
    assert vigil.well(health, 1000.0)
    assert vigil.well(health, 1000.0 + (limit_s or 1e6))
    if limit_s:
        assert not vigil.well(health, 1001.0 + limit_s)


def test_whatever_comes_to_an_end_begins_the_time_anew() -> None:
    busy = replace(IDLE, state="busy")
    for totals in (
        Totals(2, 1, 0, {}, 0, 0),
        Totals(2, 0, 1, {}, 0, 0),
        Totals(2, 0, 0, {"EngineDeadlineError": 1}, 0, 0),
        Totals(2, 0, 0, {}, 1, 0),
    ):
        vigil = Vigil(LIMITS)
        assert vigil.well(busy, 0.0)
        assert vigil.well(replace(busy, totals=totals), 310.0)
        assert vigil.well(replace(busy, totals=totals), 620.0)
        assert not vigil.well(replace(busy, totals=totals), 630.0)


def test_a_failed_engine_is_not_well_and_a_full_queue_is() -> None:
    assert not Vigil(LIMITS).well(replace(IDLE, state="failed", answering=False), 0.0)
    assert Vigil(LIMITS).well(replace(IDLE, state="busy", answering=False, waiting=64), 0.0)


def test_the_unit_leaves_time_for_what_the_settings_allow() -> None:
    lines = (ROOT / "deploy" / "rkvlm.service").read_text().splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    limits = EngineLimits()
    assert float(unit["TimeoutStartSec"]) > limits.starts * limits.start_s
    assert float(unit["TimeoutStopSec"]) > 30 + limits.abort_s + limits.kill_s  # grace_s

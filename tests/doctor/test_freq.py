"""`vlm freq` on the trees, as a user runs it: the files are plain ones, so what is written can be read back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import trees

from vlm.freq import NODES, STATE

NPU = "sys/class/devfreq/fdab0000.npu"
BIG = "sys/devices/system/cpu/cpufreq/policy6/scaling"


def command(*words: object) -> list[str]:
    return [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "freq", *map(str, words)]


def freq(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done


def contents(root: Path) -> dict[str, str]:
    """What every file under /sys says, in one word."""
    return {
        str(path.relative_to(root)): path.read_text().strip() for path in (root / "sys").rglob("*") if path.is_file()
    }


def governors(root: Path, soc: str) -> list[str]:
    return [(root / node.governor).read_text().strip() for node in NODES[soc] if node.governor]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    trees.rk3588(tmp_path)
    return tmp_path


@pytest.mark.parametrize("soc", NODES)
def test_fixed_at_the_highest_and_put_back(soc: str, tmp_path: Path) -> None:
    trees.board(tmp_path, soc)
    before = contents(tmp_path)
    assert freq("fix", "--root", tmp_path).returncode == 0
    assert set(governors(tmp_path, soc)) == {"userspace"}
    for node in NODES[soc]:
        highest = (tmp_path / node.available).read_text().split()[-1]
        assert (tmp_path / node.speed).read_text() == highest
    assert freq("restore", "--root", tmp_path).returncode == 0
    after = contents(tmp_path)
    # A frequency that a governor chooses is not put back: the governor is.
    kept = {name: text for name, text in before.items() if not name.endswith(("set_freq", "setspeed"))}
    assert {name: after[name] for name in kept} == kept
    assert not (tmp_path / STATE).exists()


def test_a_clock_that_was_fixed_by_its_owner_keeps_his_frequency(board: Path) -> None:
    trees.devfreq(board, "fdab0000.npu", 1000000000, "userspace")
    freq("fix", "--root", board)
    freq("restore", "--root", board)
    assert (board / f"{NPU}/governor").read_text().strip() == "userspace"
    assert (board / f"{NPU}/userspace/set_freq").read_text() == "300000000"


def test_fixing_twice_keeps_what_was_there_first(board: Path) -> None:
    freq("fix", "--root", board)
    freq("fix", "--root", board)
    freq("restore", "--root", board)
    assert (board / f"{NPU}/governor").read_text() == "rknpu_ondemand"


def test_nodes_that_are_not_there_are_passed_over(board: Path) -> None:
    shutil.rmtree(board / "sys/class/devfreq/dmc")
    shutil.rmtree(board / "sys/class/devfreq/fb000000.gpu")
    shown = freq("show", "--root", board).stdout
    assert [line.split()[0] for line in shown.splitlines() if "not there" in line] == ["DDR", "GPU"]
    done = freq("fix", "--root", board)
    assert (done.returncode, "dmc" in done.stdout) == (0, False)
    assert not (board / "sys/class/devfreq/dmc").exists()
    assert freq("restore", "--root", board).returncode == 0


def test_a_dry_run_says_and_writes_nothing(board: Path) -> None:
    before = contents(board)
    done = freq("fix", "--dry-run", "--root", board)
    assert f"would write 1000000000 to /{NPU}/userspace/set_freq" in done.stdout
    assert freq("run", "--dry-run", "--root", board, "--", "false").returncode == 0
    assert (contents(board), (board / STATE).exists()) == (before, False)


def test_show_as_json(board: Path) -> None:
    told = json.loads(freq("show", "--json", "--root", board).stdout)
    assert (told["fixed"], told["clocks"][0]["hz"], told["clocks"][1]["available_hz"][-1]) == (
        False,
        300000000,
        1800000000,
    )


def test_a_board_without_any_node_is_told_so(tmp_path: Path) -> None:
    trees.mainline(tmp_path)
    done = freq("fix", "--root", tmp_path)
    assert (done.returncode, "no node" in done.stderr) == (13, True)


def test_a_pc_has_nothing_to_fix(tmp_path: Path) -> None:
    trees.pc(tmp_path)
    done = freq("show", "--root", tmp_path)
    assert (done.returncode, "rk3588" in done.stderr) == (13, True)


def test_nothing_to_restore_and_a_state_that_is_none(board: Path) -> None:
    done = freq("restore", "--root", board)
    assert (done.returncode, STATE in done.stderr) == (13, True)
    trees.put(board, STATE, "[{]")
    done = freq("restore", "--root", board)
    assert (done.returncode, "restart the board" in done.stderr) == (13, True)


def test_what_the_kernel_refuses_is_said_and_the_rest_put_back(board: Path) -> None:
    """A directory in place of the node: it can be written by nobody, root neither."""
    (board / f"{BIG}_setspeed").unlink()
    (board / f"{BIG}_setspeed").mkdir()
    done = freq("fix", "--root", board)
    assert (done.returncode, "CPU 6-7" in done.stderr) == (13, True)
    assert (board / f"{NPU}/governor").read_text() == "rknpu_ondemand"
    assert not (board / STATE).exists()


def test_root_is_asked_for() -> None:
    # Root may write anything: it becomes nobody, once everything is imported, which nobody may be unable to read.
    code = (
        "import os, sys; from contextlib import suppress; from vlm.cli import main\n"
        "words = sys.argv[:]; sys.argv = [*words, '--dry-run']\n"
        "with suppress(SystemExit): main()\n"
        "sys.argv = words; os.geteuid() or os.setuid(65534); main()"
    )
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        trees.rk3588(root)
        (root / "run").chmod(0o555)
        words = [sys.executable, "-c", code, "freq", "fix", "--root", str(root)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, "sudo" in done.stderr) == (13, True)
        assert (root / f"{NPU}/governor").read_text().strip() == "rknpu_ondemand"


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_run_restores_however_the_command_ends(code: str, expected: int, board: Path) -> None:
    look = f"print(open({str(board / NPU / 'governor')!r}).read(), flush=True); "
    done = freq("run", "--root", board, "--", sys.executable, "-c", look + code)
    assert (done.returncode, done.stdout.strip()) == (expected, "userspace")
    assert (board / f"{NPU}/governor").read_text() == "rknpu_ondemand"


def test_run_of_no_command(board: Path) -> None:
    done = freq("run", "--root", board, "--", "no-such-command")
    assert (done.returncode, "no-such-command" in done.stderr) == (13, True)
    assert (board / f"{NPU}/governor").read_text() == "rknpu_ondemand"


def start(board: Path, code: str) -> subprocess.Popen[bytes]:
    """Run a command with the clocks fixed, and wait until it says that it is there."""
    # A shell's background job ignores SIGINT, and so would what is started from these tests if they are one.
    words = ["env", "--default-signal=INT", *command("run", "--root", board, "--", sys.executable, "-c", code)]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not ((board / "there").exists() and (board / "there").read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    assert (board / f"{NPU}/governor").read_text() == "userspace"
    return process


WAIT = "import os, time, pathlib; pathlib.Path({there!r}).write_text(str(os.getpid())); time.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_command_and_restores(number: signal.Signals, board: Path) -> None:
    process = start(board, WAIT.format(there=str(board / "there")))
    process.send_signal(number)
    assert process.wait(timeout=60) in (128 + number, 1)
    assert (board / f"{NPU}/governor").read_text() == "rknpu_ondemand"


def test_after_a_crash_restore_puts_back(board: Path) -> None:
    process = start(board, WAIT.format(there=str(board / "there")))
    process.kill()
    process.wait(timeout=60)
    os.kill(int((board / "there").read_text()), signal.SIGKILL)
    assert (board / f"{NPU}/governor").read_text() == "userspace"
    assert "fixed by" in freq("show", "--root", board).stdout
    assert freq("restore", "--root", board).returncode == 0
    assert (board / f"{NPU}/governor").read_text() == "rknpu_ondemand"


def test_run_leaves_clocks_fixed_that_were_fixed_before(board: Path) -> None:
    freq("fix", "--root", board)
    done = freq("run", "--root", board, "--", "true")
    assert (done.returncode, "stay so" in done.stderr) == (0, True)
    assert (board / f"{NPU}/governor").read_text() == "userspace"

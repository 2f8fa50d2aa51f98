"""Whose turn it is on the NPU: in one process, between processes, and when one of them dies."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.errors import NPUBusyError, NPULockError
from vlm.gate import Gate
from vlm.lockfiles import LOCK_DIRS, Holder, lock_dir

WORKER = Path(__file__).parent / "gate_worker.py"
CORES = (0, 1, 2)
SETS = st.sets(st.sampled_from(CORES), min_size=1).map(frozenset)
PATIENCE_S = 60.0


class GaveUp(Exception):
    pass


class Boom(Exception):
    pass


class Job(threading.Thread):
    """One run: arrives, holds its cores until it is told to end, well or with an exception."""

    def __init__(self, way: Gate, cores: frozenset[int], held: dict[int, int]) -> None:
        super().__init__(daemon=True)
        self.cores, self._way, self._held = cores, way, held
        self.arrived, self.granted, self.ends = threading.Event(), threading.Event(), threading.Event()
        self.gives_up = self.fails = False
        self.wrong = ""

    def run(self) -> None:
        try:
            with self._way.take(self.cores, check=self._check):
                for core in self.cores:
                    self._held[core] += 1
                    if self._held[core] != 1:
                        self.wrong = f"core {core} is held {self._held[core]} times"
                self.granted.set()
                self.arrived.set()
                self.ends.wait(PATIENCE_S)
                for core in self.cores:
                    self._held[core] -= 1
                if self.fails:
                    raise Boom
        except (Boom, GaveUp):
            pass

    def _check(self) -> None:
        self.arrived.set()
        if self.gives_up:
            raise GaveUp


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), SETS),
        st.tuples(st.sampled_from(["end", "fail", "give up"]), st.integers(0, 20)),
    ),
    max_size=24,
)


def walk(steps: list[tuple[str, object]]) -> None:
    """Take the steps, and after each compare who holds cores with who should: all with nobody before in their way."""
    with TemporaryDirectory() as place:
        way, held = Gate(Path(place)), dict.fromkeys(CORES, 0)
        line: list[Job] = []
        all_jobs: list[Job] = []

        def should_hold(job: Job) -> bool:
            return all(job.cores.isdisjoint(other.cores) for other in line[: line.index(job)])

        def leave(job: Job, how: str) -> None:
            job.fails, job.gives_up = how == "fail", how == "give up"
            job.ends.set()
            job.join(PATIENCE_S)
            assert not job.is_alive()
            line.remove(job)

        for step, what in steps:
            if isinstance(what, frozenset):
                line.append(Job(way, what, held))
                all_jobs.append(line[-1])
                line[-1].start()
                assert line[-1].arrived.wait(PATIENCE_S)
            elif line:
                waiting = step == "give up"
                those = [job for job in line if should_hold(job) != waiting]
                if those:
                    leave(those[int(str(what)) % len(those)], step)
            for job in line:
                if should_hold(job):
                    assert job.granted.wait(PATIENCE_S), "somebody starves"
                else:
                    assert not job.granted.is_set(), "somebody was let in before those who came first"
        while line:
            leave(next(job for job in line if should_hold(job) and job.granted.wait(PATIENCE_S)), "end")
        assert [job.wrong for job in all_jobs if job.wrong] == []
        assert held == dict.fromkeys(CORES, 0)
        assert way.holders(CORES) == dict.fromkeys(CORES)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_no_core_twice_no_one_starves_and_cores_come_back(steps: list[tuple[str, object]]) -> None:
    walk(steps)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(STEPS)
def test_no_core_twice_in_long(steps: list[tuple[str, object]]) -> None:
    walk(steps)


def test_many_threads_at_once(tmp_path: Path) -> None:
    """All at the same moment, on three gates, as three processes would be."""
    ways, held, wrong = [Gate(tmp_path) for _ in range(3)], dict.fromkeys(CORES, 0), []
    lock = threading.Lock()

    def work(number: int) -> None:
        for turn in range(25):
            cores = [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]][(number + turn) % 6]
            with ways[number % 3].take(cores):
                with lock:
                    wrong.extend(core for core in cores if held[core])
                    held.update(dict.fromkeys(cores, 1))
                with lock:
                    held.update(dict.fromkeys(cores, 0))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [thread for thread in threads if thread.is_alive()] == []
    assert wrong == []


# --- between processes ----------------------------------------------------------------------------------------------


class Processes:
    """Workers that are killed when the test is over."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(WORKER), str(self.place), *map(str, words)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def holding(self, *words: object) -> tuple[subprocess.Popen[str], int]:
        """A process that holds cores; and its child's number, or 0."""
        process = self.start("hold", *words)
        assert process.stdout is not None
        held, _, child = process.stdout.readline().partition(" ")
        assert held == "held"
        return process, int(child)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def run_workers(processes: Processes, plans: list[list[str]], runs: int) -> None:
    workers = [processes.start("work", seed, runs, *sets) for seed, sets in enumerate(plans)]
    assert [worker.communicate(timeout=PATIENCE_S * 4)[0] for worker in workers] == ["done\n"] * len(workers)


def test_no_core_is_held_by_two_processes(processes: Processes) -> None:
    """Plans that overlap and plans that do not, at the same time."""
    run_workers(processes, [["0,1", "2"], ["0,1,2"], ["0", "1,2"], ["0,1,2", "1"]], runs=60)


PLANS = st.lists(st.lists(SETS.map(lambda cores: ",".join(map(str, cores))), min_size=1, max_size=3), max_size=5)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(PLANS)
def test_no_core_is_held_by_two_processes_in_long(plans: list[list[str]]) -> None:
    with TemporaryDirectory() as place:
        run_workers(Processes(Path(place)), plans, runs=60)


def test_cores_come_back_after_kill_9_however_busy_it_was(processes: Processes, tmp_path: Path) -> None:
    for _ in range(5):
        worker = processes.start("work", 1, 1_000_000, "0,1", "2", "0,1,2")
        while not (tmp_path / "rkvlm-npu-core2.lock").exists():
            time.sleep(0.01)
        time.sleep(0.05)
        worker.kill()
        worker.wait()
        with Gate(tmp_path).take(CORES, wait=False):
            assert worker.returncode == -signal.SIGKILL
        for mark in tmp_path.glob("mark*"):
            mark.unlink()


def test_who_does_not_wait_is_told_who_holds_the_npu(processes: Processes, tmp_path: Path) -> None:
    process, _ = processes.holding("1,2")
    way = Gate(tmp_path)
    with way.take([0], wait=False):
        pass
    with pytest.raises(NPUBusyError) as caught:
        way.take([0, 1], wait=False)
    assert (caught.value.exit_code, caught.value.http_status) == (10, 503)
    for said in (f"process {process.pid}", "gate_worker.py", "core 1", "--no-wait"):
        assert said in str(caught.value)
    assert way.holders(CORES)[0] is None, "what was taken before is given back"
    process.kill()
    process.wait()
    with way.take(CORES, wait=False):
        pass


def test_who_waits_says_for_whom_once(processes: Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    way = Gate(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            process, _ = processes.holding("0")
            threading.Timer(1.0, lambda process=process: process.communicate("go on\n")).start()
            with way.take([0]):
                assert process.wait(PATIENCE_S) == 0
    (said,) = caplog.messages
    assert "core 0" in said
    assert f"process {processes.started[0].pid}" in said


@pytest.mark.parametrize("child", ["fork", "spawn"])
def test_a_child_does_not_keep_a_dead_parents_cores(processes: Processes, tmp_path: Path, child: str) -> None:
    process, pid = processes.holding("0,1,2", child)
    try:
        with pytest.raises(NPUBusyError):
            Gate(tmp_path).take([0], wait=False)
        process.kill()
        process.wait()
        os.kill(pid, 0)
        with Gate(tmp_path).take(CORES, wait=False):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_process_with_run_after_run_lets_others_in(processes: Processes, tmp_path: Path) -> None:
    busy = processes.start("again")
    assert busy.stdout is not None
    assert busy.stdout.readline() == "began\n"
    way, counter, waited = Gate(tmp_path), tmp_path / "turns", []
    for _ in range(15):
        while not counter.exists() or not counter.read_text():
            time.sleep(0.001)
        before = int(counter.read_text())
        with way.take(CORES):
            waited.append(int(counter.read_text()) - before)
        time.sleep(0.02)
    assert busy.poll() is None
    print(f"turns that a process without a pause had before each of ours: {sorted(waited)}")
    assert sorted(waited)[7] <= 10, "most of our turns came soon"


def test_waiting_for_another_process_can_be_ended(tmp_path: Path) -> None:
    one, other, third = Gate(tmp_path), Gate(tmp_path), Gate(tmp_path)

    def give_up() -> None:
        raise GaveUp

    with one.take([1]):
        with pytest.raises(GaveUp):
            other.take([0, 1], check=give_up)
        with third.take([0], wait=False):
            pass
    with third.take(CORES, wait=False):
        pass


def test_nothing_is_held_by_a_run_that_needs_no_core(tmp_path: Path) -> None:
    with Gate(tmp_path / "not there").take(CORES[:0]), Gate(tmp_path).take(CORES), Gate(tmp_path).take(()):
        pass


def test_cores_may_be_given_back_twice_and_by_another_thread(tmp_path: Path) -> None:
    way = Gate(tmp_path)
    hold = way.take([0])
    thread = threading.Thread(target=hold.release)
    thread.start()
    thread.join()
    with way.take([0]):
        hold.release()
        with pytest.raises(NPUBusyError):
            Gate(tmp_path).take([0], wait=False)


# --- the files ------------------------------------------------------------------------------------------------------


def test_files_are_for_everyone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with Gate(tmp_path).take([0, 2]):
            pass
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        f"rkvlm-npu-core{core}.{kind}" for core in (0, 2) for kind in ("lock", "next")
    ]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_service_and_a_login_user_meet(tmp_path: Path, processes: Processes) -> None:
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o1777)
    told, _ = processes.start("user").communicate(timeout=PATIENCE_S)
    assert told == "both\n"
    assert {(file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) for file in tmp_path.glob("*.lock")} == {
        (0, 0o666),
        (65534, 0o666),
    }


def test_no_link_is_followed(tmp_path: Path) -> None:
    target = tmp_path / "of somebody else"
    target.write_text("precious")
    (tmp_path / "rkvlm-npu-core0.lock").symlink_to(target)
    with pytest.raises(NPULockError, match="symbolic link"):
        Gate(tmp_path).take([0])
    with pytest.raises(NPULockError, match="symbolic link"):
        Gate(tmp_path).holders([0])
    assert target.read_text() == "precious"


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    (Path.mkdir if kind == "directory" else os.mkfifo)(tmp_path / "rkvlm-npu-core0.next")
    with pytest.raises(NPULockError, match=r"rkvlm-npu-core0\.next"):
        Gate(tmp_path).take([0])


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NPULockError, match="VLM_LOCK_DIR") as caught:
        Gate(tmp_path / "gone").take([0])
    assert (caught.value.exit_code, caught.value.http_status) == (10, 500)


def test_a_file_that_was_deleted_locks_nobody_out_and_nobody_in(tmp_path: Path) -> None:
    one, other = Gate(tmp_path), Gate(tmp_path)
    file = tmp_path / "rkvlm-npu-core0.lock"
    hold = one.take([0])
    deleted = threading.Event()

    def delete() -> None:
        if not deleted.is_set():
            file.unlink()
            deleted.set()
            hold.release()

    with other.take([0], check=delete):
        assert deleted.is_set()
        assert file.exists(), "what is held is the file that others find"


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_what_a_lock_file_says_is_not_trusted(junk: bytes) -> None:
    with TemporaryDirectory() as place:
        way = Gate(Path(place))
        with way.take([0]):
            (Path(place) / "rkvlm-npu-core0.lock").write_bytes(junk)
            who = way.holders([0])[0]
        assert isinstance(who, Holder)
        assert str(who).isprintable()
        assert who.pid >= 0


def test_where_the_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lock_dir(tmp_path) == tmp_path
    assert lock_dir() == next(place for place in LOCK_DIRS if place.is_dir())
    monkeypatch.setattr("vlm.lockfiles.LOCK_DIRS", (tmp_path / "gone", tmp_path))
    assert lock_dir() == tmp_path

"""A process of its own at the gate, for tests/test_gate.py: python gate_worker.py DIRECTORY COMMAND ..."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path

from vlm.gate import Gate, gate


def say(*words: object) -> None:
    print(*words, flush=True)


def hold(directory: Path, cores: list[int], child: str = "") -> None:
    """Hold the cores until killed or told to go on. child: how a child that outlives this process is made."""
    with gate(directory).take(cores):
        pid = 0
        if child == "fork":
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
        elif child == "spawn":
            pid = subprocess.Popen(["sleep", "600"], close_fds=False).pid
        say("held", pid)
        sys.stdin.readline()


def work(directory: Path, seed: int, sets: list[list[int]], runs: int) -> None:
    """Run after run on cores chosen at random; a core that is held already is seen by the mark that it has."""
    way, choose = gate(directory), random.Random(seed)
    for _ in range(runs):
        cores = choose.choice(sets)
        try:
            with way.take(cores):
                for core in cores:
                    os.close(os.open(directory / f"mark{core}", os.O_CREAT | os.O_EXCL))
                time.sleep(choose.random() / 500)
                for core in cores:
                    (directory / f"mark{core}").unlink()
                if choose.random() < 0.3:
                    raise RuntimeError("a run that fails")
        except FileExistsError as exc:
            say("twice", exc.filename)
        except RuntimeError:
            pass
    say("done")


def again_and_again(directory: Path) -> None:
    """One run after another, with nothing in between, until told to stop."""
    way = gate(directory)
    say("began")
    turns = 0
    while not select.select([0], [], [], 0)[0]:
        with way.take([0, 1, 2]):
            turns += 1
            (directory / "turns").write_text(str(turns))
            time.sleep(0.005)


def as_another_user(directory: Path) -> None:
    """Take a core, as root, then as nobody."""
    os.umask(0o077)
    with gate(directory).take([0]):
        pass
    os.setgid(65534)
    os.setuid(65534)
    with Gate(directory).take([0, 1]):
        say("both")


if __name__ == "__main__":
    place, command = Path(sys.argv[1]), sys.argv[2]
    rest = sys.argv[3:]
    if command == "hold":
        hold(place, [int(core) for core in rest[0].split(",")], *rest[1:])
    elif command == "work":
        work(place, int(rest[0]), [[int(core) for core in cores.split(",")] for cores in rest[2:]], int(rest[1]))
    elif command == "again":
        again_and_again(place)
    elif command == "user":
        as_another_user(place)

"""The parent is killed: the model's process goes too, whatever it is stuck in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_rig import is_gone, standin_choice

GONE_S = 5

SCRIPT = """
import sys, time, vlm
engine = vlm.Engine(vlm.ModelChoice.model_validate_json(sys.argv[1]))
engine.start()
prompt = sys.argv[2]
if prompt != "opening":
    engine.wait_ready()
if prompt not in ("idle", "opening"):
    reply = engine.ask(vlm.Question((vlm.Turn("user", (vlm.TextPart(prompt),)),), {"max_new_tokens": 900}))
    while reply.position != 0:
        time.sleep(0.01)
while engine.health().pid is None:
    time.sleep(0.01)
print(engine.health().pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("doing", ["idle", "opening", "[hang]", "[tokens=900][pace=50]", "[prefill=600000]"])
def test_killed(tmp_path: Path, doing: str) -> None:
    choice = standin_choice(tmp_path, "[slow=60000]" if doing == "opening" else "")
    words = [sys.executable, "-c", SCRIPT, choice.model_dump_json(), doing]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.3)  # for the question to reach the library
        assert not is_gone(child)
        os.kill(parent.pid, signal.SIGKILL)
        until = time.monotonic() + GONE_S
        while not is_gone(child):
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_parent_that_forgets_to_close(tmp_path: Path) -> None:
    script = SCRIPT.replace("time.sleep(600)", "")
    words = [sys.executable, "-c", script, standin_choice(tmp_path).model_dump_json(), "[hang]"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    until = time.monotonic() + GONE_S
    while not is_gone(int(done.stdout)):
        assert time.monotonic() < until
        time.sleep(0.02)

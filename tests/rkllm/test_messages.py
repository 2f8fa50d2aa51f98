"""What the runtime prints while a model is opened: kept, read, turned into errors; and nobody else's output lost."""

from __future__ import annotations

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backends import DEMO, Backend, c_backend, finish
from sample_pictures import PICTURES
from standin import StandIn

from vlm import errors
from vlm.errors import (
    ContextTooLongError,
    DriverTooOldError,
    ModelFileError,
    ModelLoadError,
    NPUMemoryError,
    OptionError,
    RuntimeTooOldError,
    WrongPlatformError,
)
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.diagnosis import CAUSES
from vlm.rkllm.library import host_library
from vlm.rkllm.model import Model, Request, RuntimeFacts

LOG = "vlm.rkllm.runtime"
Built = Callable[[str], StandIn]


@pytest.fixture
def c(built: Built, tmp_path: Path) -> Iterator[Backend]:
    """The stand-in of 1.2.3, whose log says everything."""
    backend = c_backend(built("1.2.3"), tmp_path)
    yield backend
    finish(backend)


def named(backend: Backend, words: str) -> Path:
    """A model file with words for the stand-in in its name."""
    path = backend.path.with_name(f"m{words}.rkllm")
    path.touch()
    return path


def opened(backend: Backend, words: str, **options: object) -> Model:
    backend.path = named(backend, words)
    return backend.open(**options)


def refused(backend: Backend, words: str, **options: object) -> errors.RkvlmError:
    with pytest.raises(errors.RkvlmError) as caught:
        Model(named(backend, words), backend.library, **options)
    return caught.value


# --- facts ------------------------------------------------------------------------------------------------------------


def test_facts_are_what_each_release_says(standin: Backend) -> None:
    release = standin.library.release
    model = opened(standin, "[driver=0.9.7][board=RK3576][target=RK3576][cores=2][limit=4096][toolkit=1.1.4b5]")
    first = RuntimeFacts(runtime=release, driver="0.9.7", platform="RK3576")
    if release == "1.1.4":
        assert model.facts == first
        return
    dtype = "W8A8" if RELEASES.index(release) >= RELEASES.index("1.2.1") else None
    second = {"toolkit": "1.1.4b5", "max_context_limit": 4096, "npu_core_num": 2, "target_platform": "RK3576"}
    assert model.facts == RuntimeFacts(**{**vars(first), **second, "model_dtype": dtype})


def test_what_is_not_known_is_none(c: Backend) -> None:
    assert opened(c, "[toolkit=unknown]").facts.toolkit is None


def test_the_host_says_the_same() -> None:
    if not (DEMO / "config.json").exists():
        pytest.skip("samples/demo/model holds no model yet")
    with Model(DEMO, host_library("1.2.3")) as model:
        assert (model.facts.runtime, model.facts.platform, model.facts.driver) == ("1.2.3", "host", None)
        assert model.facts.max_context_limit is not None


def test_the_lines_are_drained_once_and_logged(c: Backend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    opened(c, "[driver=0.9.6]")
    kinds = ["W rkllm: Warning", "I rkllm: rkllm-runtime", "I rkllm: loading", "I rkllm: rkllm-toolkit"]
    said = c.library.drain_messages()
    assert sorted(line.split(": ")[1][:6] for line in said) == sorted(kind.split(": ")[1][:6] for kind in kinds)
    assert c.library.drain_messages() == []
    logged = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == LOG]
    assert [line for _, line in logged] == said
    assert {level for level, line in logged if line.startswith("I")} == {"INFO"}
    assert [level for level, line in logged if line.startswith("W")] == ["WARNING"]


def test_an_error_is_told_once(c: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """By the exception where opening failed; by the log where it went on and nobody else tells of it."""
    caplog.set_level(logging.INFO)
    assert "nobody has seen" in str(refused(c, "[fail=strange][driver=0.9.6]"))
    assert {r.levelname for r in caplog.records if r.name == LOG} == {"INFO"}
    caplog.clear()
    opened(c, "[fail=strange][lax]")
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        "E rkllm: a sentence that nobody has seen before"
    ]


# --- why a model does not load ----------------------------------------------------------------------------------------

# words in the model's name -> the error, and what it must say besides the runtime's own lines
FAILURES: dict[str, tuple[type[errors.RkvlmError], list[str]]] = {
    "[fail=invalid]": (ModelFileError, ["no .rkllm file", "git-lfs", "rkllm-toolkit 1.2.3", "invalid rkllm model!"]),
    "[fail=magic]": (ModelFileError, ["no .rkllm file", "rknn_init fail! ret=-1"]),
    "[fail=magic][zero]": (ModelFileError, ["no .rkllm file", "rkllm_init returned 0."]),
    "[fail=characters]": (ModelFileError, ["no .rkllm file", "invalid magic characters 'abcd'"]),
    "[fail=old]": (ModelFileError, ["toolkit too old for runtime 1.2.3"]),
    "[fail=target]": (WrongPlatformError, ["another SoC (RK3588) than this one (RK3588)"]),
    "[fail=failed][target=RK3576]": (WrongPlatformError, ["another SoC (RK3576) than this one (RK3588)", "Convert it"]),
    "[fail=failed][target=RK3588][board=RK3588S]": (ModelLoadError, ["rkllm_init failed"]),
    "[fail=memory]": (NPUMemoryError, ["base_domain_id", "size: 3085697024", "rkllm_init returned -1"]),
    "[fail=memory][null]": (NPUMemoryError, ["returned 0 and no handle", "size: 3085697024"]),
    "[fail=memory][driver=0.9.6]": (NPUMemoryError, ["driver version is too low"]),
    "[fail=domain]": (NPUMemoryError, ["can not create weight memory for domain1"]),
    "[null]": (NPUMemoryError, ["gave no handle", "returned 0 and no handle"]),
    "[fail=files]": (ModelLoadError, ["ulimit -n", "errno: 24"]),
    "[fail=matmul][driver=0.9.6]": (DriverTooOldError, ["driver is 0.9.6; 0.9.8 or newer"]),
    "[fail=failed][driver=0.9.6]": (DriverTooOldError, ["driver is 0.9.6; 0.9.8 or newer"]),
    "[fail=failed][toolkit=1.9.0]": (RuntimeTooOldError, ["rkllm-toolkit 1.9.0, and the runtime is older: 1.2.3"]),
    "[fail=failed][toolkit=1.2.3b1]": (ModelLoadError, ["rkllm_init failed"]),
    "[fail=soc]": (ModelLoadError, ["does not find an SoC", "Your platform is unknown"]),
    "[fail=cpus][cores=3]": (OptionError, ["3 NPU cores", "cpu_mask"]),
    "[limit=256]": (OptionError, ["context of 512 tokens", "at most 256", "max_context[512] must be less"]),
    "[limit=256][lax]": (OptionError, ["context of 512 tokens", "at most 256", "rkllm_init returned 0."]),
    "[fail=strange]": (ModelLoadError, ["E rkllm: a sentence that nobody has seen before"]),
    "[fail=silent]": (ModelLoadError, ["did not say why", "RKLLM_LOG_LEVEL=2"]),
    "[refuse]": (ModelLoadError, ["did not say why"]),
}


@pytest.mark.parametrize("words", FAILURES)
def test_why_a_model_does_not_load(c: Backend, words: str) -> None:
    kind, phrases = FAILURES[words]
    error = refused(c, words, max_context_len=512)
    assert type(error) is kind
    assert [phrase for phrase in phrases if phrase not in str(error)] == []
    assert "unknown" not in str(error).partition("rkllm_init returned")[0]
    # It is given back only where there is a model behind it, and used in no other way: `finish` looks for violations.
    assert len(c.standin.seen("destroy")) == (words == "[limit=256][lax]")
    c.standin.reset()


def test_every_cause_can_be_reached_and_every_kind_of_error(c: Backend) -> None:
    said = [refused(c, words, max_context_len=512) for words in FAILURES]
    c.standin.reset()
    for cause in CAUSES:
        text = re.sub(r"\\\{\w+\\\}", ".+", re.escape(cause.text))
        assert any(type(error) is cause.kind and re.search(text, str(error)) for error in said), cause.text
    assert {type(e) for e in said} == {ModelLoadError, OptionError, *ModelLoadError.__subclasses__()}


def test_the_causes_of_1_1_4_whose_log_is_shorter(built: Built, tmp_path: Path) -> None:
    backend = c_backend(built("1.1.4"), tmp_path)
    for words in ("[fail=invalid]", "[fail=magic][zero]", "[fail=memory]", "[null]", "[fail=matmul][driver=0.9.6]"):
        assert type(refused(backend, words)) is FAILURES[words][0]
    assert "another SoC (unknown) than this one (RK3588)" in str(refused(backend, "[fail=target]"))
    finish(backend)


def test_the_file_tells_its_toolkit_where_the_runtime_cannot(c: Backend) -> None:
    path = named(c, "[fail=invalid]")
    path.write_bytes(b"x" * 500 + b"rkllm-toolkit version: 1.3.1\0")
    with pytest.raises(RuntimeTooOldError, match=r"made with rkllm-toolkit 1\.3\.1, and the runtime is older: 1\.2\.3"):
        Model(path, c.library)
    path.write_bytes(b"rkllm-toolkit version: 1.3.1" + b"x" * 500)
    with pytest.raises(ModelFileError):
        Model(path, c.library)


def test_repeated_lines_are_quoted_once(c: Backend) -> None:
    assert str(refused(c, "[fail=matmul]")).count("matmul(w8a8)") == 1


def test_the_context_limit_is_known_without_asking_for_a_context(c: Backend) -> None:
    model = opened(c, "[limit=64][lax]", max_new_tokens=64)
    with pytest.raises(ContextTooLongError, match=r"^Text and \d+ new tokens do not fit a context of 64"):
        model.generate(Request(prompt="a"))


def test_a_failed_run_is_told_of_an_old_driver(c: Backend) -> None:
    model = opened(c, "[driver=0.9.6]")
    with pytest.raises(errors.RunError, match=r"returned -1\. The NPU's driver is 0\.9\.6; 0\.9\.8 or newer"):
        model.generate(Request(prompt="[fail]")).text()


# --- the descriptors --------------------------------------------------------------------------------------------------


def descriptors() -> dict[str, str]:
    """What every open descriptor of this process leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}") + str(os.get_inheritable(int(name)))
        except OSError:
            continue  # the directory's own
    return found


def test_fifty_models_leave_no_descriptor_behind_and_1_and_2_as_they_were(c: Backend) -> None:
    Model(named(c, ""), c.library).close()
    before = descriptors()
    for number in range(25):
        with Model(named(c, ""), c.library):
            pass
        refused(c, list(FAILURES)[number % len(FAILURES)], max_context_len=512)
        assert descriptors() == before
    c.standin.reset()


CHILD = """
import ctypes, os, sys, threading, time
from vlm.errors import RkvlmError
from vlm.rkllm.library import open_library
from vlm.rkllm.messages import Capture
from vlm.rkllm.model import Model, ModelSettings, Request
library, path = open_library(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None)
"""


class Child:
    """A process of its own: its streams are what a user's are."""

    def __init__(self, backend: Backend, words: str) -> None:
        self.arguments = [str(backend.standin.path), str(named(backend, words))]
        # C's stdout is buffered, as it is when nobody asks Python for the contrary.
        self.environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "RKLLM_LOG_LEVEL")}

    @contextmanager
    def waiting(self, code: str) -> Iterator[subprocess.Popen[str]]:
        """The process while it goes on; it is ended at the end of the block."""
        command = [sys.executable, "-c", CHILD + code, *self.arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, env=self.environment, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, code: str, redirect: str = "", **options: object) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f'exec "$@" {redirect}', "bash", sys.executable, "-W", "error", "-c", CHILD + code]
        options = {"capture_output": True, "text": True, "timeout": 60, "env": self.environment, **options}
        return subprocess.run([*command, *self.arguments], check=False, **options)


def test_what_other_threads_print_comes_through_whole(c: Backend) -> None:
    done = Child(c, "[slow=150][driver=0.9.6]").run(
        "stop, number = threading.Event(), 0\n"
        "def talk():\n"
        "    global number\n"
        "    for number in range(100_000):\n"
        "        print('out', number)\n"
        "        print('err', number, file=sys.stderr)\n"
        "        if stop.wait(0.002): break\n"
        "thread = threading.Thread(target=talk)\n"
        "thread.start()\n"
        "Model(path, library).close()\n"
        "stop.set(); thread.join()\n"
        "print('in all', number)"
    )
    *lines, last = done.stdout.splitlines()
    count = int(last.split()[-1]) + 1
    assert count > 20
    assert sorted(lines) == sorted(f"out {n}" for n in range(count))  # two may change places where it ends
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("err")]
    assert len(warnings) == 1  # Python's own last resort for a warning, where logging is not set up
    spoken = [line for line in done.stderr.splitlines() if line not in warnings]
    assert sorted(spoken) == sorted(f"err {n}" for n in range(count))


def test_nothing_unknown_is_swallowed(c: Backend) -> None:
    done = Child(c, "[print=half a line; ]").run("with Model(path, library) as m: print(m.facts.toolkit)")
    assert done.stdout.startswith("half a line; I rkllm: loading rkllm model from")
    assert done.stdout.splitlines()[1:] == ["1.2.3"]


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_stay_closed_and_the_lines_are_read(c: Backend, redirect: str, tmp_path: Path) -> None:
    result = tmp_path / "result"
    Child(c, "").run(
        "with Model(path, library) as m: said = [m.facts.driver, m.facts.runtime]\n"
        "for fd in (0, 1, 2):\n"
        "    try: os.fstat(fd); said.append('open')\n"
        "    except OSError: said.append('closed')\n"
        f"with open({str(result)!r}, 'w') as file: file.write(' '.join(map(str, said)))",
        redirect,
    )
    # What goes to stdout is read also where stderr is closed, and the other way round: here it is stdout's.
    states = ["closed" if mark in redirect.split() else "open" for mark in ("<&-", ">&-", "2>&-")]
    assert result.read_text().split() == ["0.9.8", "1.2.3", *states]


def test_where_nothing_can_be_taken_the_model_opens_all_the_same(c: Backend) -> None:
    done = Child(c, "").run(
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "filler = []\n"
        "try:\n"
        "    while True: filler.append(os.dup(0))\n"
        "except OSError: pass\n"
        "with Model(path, library) as model: print(model.facts.runtime, model.generate(Request(prompt='hi')).text())"
    )
    assert "None t:0 t:1 t:2 t:3 t:4 " in done.stdout.splitlines()
    assert "cannot be read here" in done.stderr


@pytest.mark.timeout(60)
def test_a_thread_that_waits_for_a_line_in_c_holds_nothing_up(c: Backend) -> None:
    with Child(c, "").waiting(
        "line = ctypes.create_string_buffer(80)\n"
        "wait = lambda: libc.fgets(line, 80, ctypes.c_void_p.in_dll(libc, 'stdin'))\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "Model(path, library).close()\n"
        "print('opened', flush=True)"
    ) as process:
        assert process.stdout.readline() == "opened\n"


def test_cs_stdout_is_still_a_terminals_afterwards(c: Backend) -> None:
    """C decides at its first write how it buffers; here that write is the runtime's, into our file."""
    master, slave = pty.openpty()
    with open(master, "rb", buffering=0) as terminal:
        Child(c, "").run(
            "Model(path, library).close()\nlibc.printf(b'from C\\n')\nos.write(1, b'from Python\\n')\n"
            "libc.printf(b'cut short'); os._exit(0)",
            capture_output=False,
            stdout=slave,
        )
        os.close(slave)
        assert terminal.read(200).decode().splitlines() == ["from C", "from Python"]


@pytest.mark.timeout(60)
def test_an_interrupted_programs_last_words_are_seen(c: Backend) -> None:
    with Child(c, "[slow=5000]").waiting(
        "print('begins', flush=True)\nModel(path, library, settings=ModelSettings(stop_timeout_s=0.2))"
    ) as process:
        assert process.stdout.readline() == "begins\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]


def test_a_process_of_our_own_may_keep_it_on(c: Backend) -> None:
    done = Child(c, "").run(
        "capture = Capture()\n"
        "libc.printf(b'I rkllm: one\\nI rkl'); print('mine')\n"
        "first = capture.take()\n"
        "libc.printf(b'lm: two\\n')\n"
        "second, third, last = capture.take(), capture.take(), (libc.printf(b'E RKNN: end'), capture.close())[1]\n"
        "print(first, second, third, last, capture.close())"
    )
    assert done.stdout.splitlines() == [
        "mine",
        "['I rkllm: one'] ['I rkllm: two'] [] ['E RKNN: end'] []",
    ]


# --- the command line -------------------------------------------------------------------------------------------------

ANSWER = "a:0 a:1 a:2 "


def describe(backend: Backend, words: str, *options: str, level: str | None = None) -> subprocess.CompletedProcess[str]:
    model = named(backend, f"[width=160][image-tokens=49]{words}")
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", *options]
    command += ["describe", str(PICTURES / "blue-star.jpg"), "[id=a][tokens=3]", "-m", "demo"]
    command += ["--llm", str(model), "--library", str(backend.standin.path)]
    names = ("PYTHONUNBUFFERED", "RKLLM_LOG_LEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("VLM_")}
    environment |= {"RKLLM_LOG_LEVEL": level} if level else {}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_stdout_is_the_answer_only_whatever_c_prints(c: Backend) -> None:
    done = describe(c, "[print=something unmarked]")
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n")
    assert "something unmarked" in done.stderr
    assert "rkllm-runtime" not in done.stderr


def test_verbose_shows_what_the_runtime_says_on_stderr(c: Backend) -> None:
    done = describe(c, "", "--verbose")
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n")
    assert f"INFO {LOG}: I rkllm: rkllm-runtime version: 1.2.3" in done.stderr
    assert "I rkllm:  Generate" in done.stderr  # of the run, which level 1 asks for
    assert "kv cache size" not in done.stderr


def test_the_log_level_of_the_environment_is_left_alone(c: Backend) -> None:
    done = describe(c, "", "-v", level="2")
    assert (done.stdout, "kv cache size" in done.stderr) == (ANSWER + "\n", True)


def test_a_failed_load_is_one_message_and_an_exit_code(c: Backend) -> None:
    done = describe(c, "[fail=memory]")
    assert (done.returncode, done.stdout) == (NPUMemoryError.exit_code, "")
    assert done.stderr.count("failed to malloc npu memory") == 1
    assert done.stderr.startswith("vlm: The runtime would not load")

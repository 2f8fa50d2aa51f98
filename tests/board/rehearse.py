"""The rehearsal of a board on a PC, with one command:

    python tests/board/rehearse.py

In the aarch64 root of make_root.py, made to look like a board: the vendor's own rknn-toolkit-lite2 wheel through our
encoder, and the whole of `vlm describe`, with stand-ins for the two libraries that need an NPU, compiled for aarch64.
They run no model; they write down what they are given. What they show: which calls arrive, in which order, with what;
and which of our errors a failure becomes. What they do not show: anything that the NPU, its driver or the vendor's two
libraries do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from make_root import CHECKOUT, Root, Unavailable, open_root

sys.path.insert(0, str(CHECKOUT / "tests" / "native"))
from rknn_file import write_rknn
from standin import build, build_rknn

WHEELS = ("2.5.0", "2.3.2")
TARGET = "aarch64-linux-gnu.2.28"
RELEASE = "1.3.0"
PICTURE = CHECKOUT / "samples" / "pictures" / "blue-star.jpg"
OPENING = ["rknn_init", "rknn_set_core_mask", "rknn_query 5", "rknn_query 13"]
RUN = ["rknn_query 0", "rknn_query 1", "rknn_inputs_set", "rknn_run", "rknn_query 0", "rknn_query 2"]
RUN += ["rknn_outputs_get", "rknn_outputs_release"]
MEMORY_MB = 300


class Board:
    """A root of its own that looks like a board, and what runs there. Given back by `close`."""

    def __init__(self, root: Root, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.files = folder / "root"
        # Linked where that can be: what is written below is written into new files.
        shutil.copytree(root.files, self.files, symlinks=True, copy_function=_link)
        self.library = self.files / "usr" / "lib" / "librknnrt.so"
        shutil.copy(build_rknn(TARGET), self.library)
        self.tree = self.files / "proc" / "device-tree" / "compatible"
        self.tree.parent.mkdir(parents=True)
        self.be("rk3588")
        node = self.files / "dev" / "dri" / "renderD129"
        node.parent.mkdir(parents=True)
        node.touch()
        environment = root.interpreter().parents[1]
        self.python = folder / "venv" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        (folder / "venv" / "lib").symlink_to(environment / "lib")
        root.write_python(folder / "venv", self.files)
        self.llm = folder / "model[width=160][image-tokens=49].rkllm"
        self.llm.touch()
        self.rkllm = build(RELEASE, TARGET)
        self.encoder = write_rknn(folder / "encoder.rknn")

    def be(self, soc: str) -> None:
        """Have the device tree name this SoC."""
        self.tree.write_bytes(f"rockchip,{soc}-evb\0rockchip,{soc}\0".encode())

    @contextlib.contextmanager
    def without_library(self, instead: bytes | None = None) -> Iterator[None]:
        """librknnrt.so away, or something else in its place."""
        kept = self.library.rename(self.folder / "kept.so")
        if instead is not None:
            self.library.write_bytes(instead)
        try:
            yield
        finally:
            kept.replace(self.library)

    def run(
        self, wheel: str, *words: object, path: Path = CHECKOUT, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Python on the board, with this release of rknn-toolkit-lite2."""
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([str(self.root.wheel(f"rknn-toolkit-lite2=={wheel}")), str(path)]),
            "PYTHONPYCACHEPREFIX": str(self.root.home / f"bytecode-{wheel}"),
            **settings,
        }
        command = [str(word) for word in (self.python, *words)]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=900, check=False
        )

    def told(self, wheel: str, function: str, **arguments: Any) -> Any:
        """What a function of on_board.py returns."""
        done = self.run(
            wheel, CHECKOUT / "tests" / "board" / "on_board.py", function, json.dumps(arguments, default=str)
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        return json.loads(done.stdout)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def unpacked_wheel(folder: Path) -> Path:
    """The wheel of this checkout, unpacked away from it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


# --- the steps; each returns what it has to say ----------------------------------------------------------------------


def dependencies(board: Board) -> str:
    """`pip check` of our dependencies' aarch64 wheels, with ours."""
    with tempfile.TemporaryDirectory(dir=board.folder) as folder:
        done = board.run(WHEELS[0], "-m", "pip", "check", path=unpacked_wheel(Path(folder)))
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n"), done.stdout + done.stderr
    return done.stdout.strip()


def hand_off(board: Board, wheel: str) -> str:
    """From the picture's bytes in librknnrt.so to the embedding's address in librkllmrt.so, and the answer back."""
    told = board.told(wheel, "hand_off", picture=PICTURE, encoder=board.encoder, llm=board.llm, library=board.rkllm)
    assert told["wheel"] == wheel
    assert told["the same picture"], "the picture's bytes changed on their way to librknnrt.so"
    assert told["the same numbers"], "the numbers changed on their way from librknnrt.so"
    assert not [line for line in [*told["rknn"], *told["rkllm"]] if "violation" in line], told
    calls = [" ".join(str(line[key]) for key in ("call", "command") if key in line) for line in told["rknn"]]
    own = ["rknn_query 0", "rknn_query 1", "rknn_query 2"]  # our comparison with the profile
    assert calls == [*OPENING, *own, *RUN, "rknn_destroy"], calls
    (mask,) = (line["mask"] for line in told["rknn"] if line["call"] == "rknn_set_core_mask")
    (given,) = (line for line in told["rknn"] if line["call"] == "rknn_inputs_set")
    assert (mask, given["type"], given["fmt"], given["pass_through"], given["size"]) == (7, 3, 1, 0, 112 * 112 * 3)
    (run,) = (line for line in told["rkllm"] if line.get("call") == "run")
    assert (run["address"], run["n_image_tokens"]) == (told["address"], 49)
    assert told["answer"] == "There is a star."
    return f"uint8 NHWC unchanged, core mask {mask}, embedding at {run['address']:#x} in both, {told['answer']!r}"


def described(board: Board, wheel: str) -> str:
    """`vlm describe` as on a board: the answer on stdout, and nothing else there."""
    report = board.folder / "report"
    report.unlink(missing_ok=True)
    main = ("-W", "error", "-c", "from vlm.cli import main; main()", "describe", PICTURE, "[say=It is blue.][piece=3]")
    parts = ("--model", "demo", "--encoder", board.encoder, "--llm", board.llm, "--library", board.rkllm)
    done = board.run(wheel, *main, *parts, RKVLM_STANDIN_REPORT=str(report))
    assert (done.returncode, done.stdout, done.stderr) == (0, "It is blue.\n", ""), done
    calls = [line.get("call") for line in map(json.loads, report.read_text().splitlines())]
    order = [calls.index(name) for name in ("rknn_init", "init", "rknn_run", "run", "destroy", "rknn_destroy")]
    assert order == sorted(order), calls
    return done.stdout.strip()


def plan(board: Board, wheel: str) -> str:
    """`vlm npu`, which prints the plan of the cores."""
    if not (CHECKOUT / "vlm" / "cli" / "npu.py").exists():
        return "there is no `vlm npu` in this checkout"
    done = board.run(wheel, "-W", "error", "-c", "from vlm.cli import main; main()", "npu")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "rk3588" in done.stdout.lower(), done.stdout
    return done.stdout.strip()


def shapes(board: Board, wheel: str) -> str:
    """Several outputs, interleaved per token, and the shapes that a .rknn may give them."""
    kinds: list[list[list[int]]] = [[[1, 49, 160]], [[49, 160]], [[1, 1, 49, 160]], [[1, 49, 160]] * 3]
    cases = []
    for number, outputs in enumerate(kinds):
        path = write_rknn(board.folder / f"shape-{number}.rknn", outputs)
        cases.append({"path": str(path), "outputs": len(outputs)})
    told = board.told(wheel, "open_each", cases=cases)
    assert told == [{"shape": [1, 49, 160 * len(outputs)], "right": True} for outputs in kinds], told
    return ", ".join(" + ".join(str(tuple(shape)) for shape in outputs) for outputs in kinds)


def shipped(board: Board, wheel: str) -> str:
    """The demo's own .rknn files, as the vendor's toolkit made them, each on its SoC."""
    files = sorted((CHECKOUT / "samples" / "demo" / "model").glob("*.rknn"))
    for path in files:
        soc = path.stem.rpartition("_")[2]
        board.be(soc)
        masks = {"rk3588": 7, "rk3576": 3}
        told = board.told(wheel, "open_each", cases=[{"path": path, "soc": soc, "core_mask": masks.get(soc)}])
        assert told == [{"shape": [1, 49, 160], "right": True}], (path, told)
    board.be("rk3588")
    return ", ".join(path.name for path in files) or "there is none in this checkout"


def failures(board: Board, wheel: str) -> str:
    """What goes wrong, and which error it becomes: its class, exit code and hint."""
    good = {"path": str(board.encoder)}
    said = write_failing(board.folder)
    picture = {"path": str(PICTURE)}
    table: list[tuple[Callable[[], contextlib.AbstractContextManager[None]], str, list[tuple[Any, str, int, str]]]] = [
        (
            contextlib.nullcontext,
            "rk3588",
            [
                (picture, "EncoderFileError", 4, "is not a .rknn file by its content; convert the encoder"),
                ({**good, "core_mask": 6}, "CoreMaskError", 46, "6 is not a core mask of the vendor's; those are 0"),
                ({**good, "soc": "rk3576"}, "EncoderPlatformError", 41, "was built for rk3588, and this is rk3576"),
                ({**good, "tokens": 64}, "EncoderMismatchError", 4, "tokens: the profile says 64, the file has 49"),
                ({**good, "outputs": 4}, "EncoderMismatchError", 4, "outputs: the profile says 4, the file has 1"),
                (said["mask"], "CoreMaskError", 46, "this SoC does not take the core mask"),
                (said["memory"], "EncoderMemoryError", 45, "the NPU has no memory for it; close what else"),
                (said["code"], "EncoderMemoryError", 45, "RKNN_ERR_MALLOC_FAIL"),
                (said["driver"], "RKNNDriverError", 44, "May this user open /dev/dri/renderD129"),
                (said["old"], "RKNNLibraryError", 43, "/usr/lib/librknnrt.so is too old for it"),
                (said["other"], "EncoderError", 4, "RKNN init failed. error code: RKNN_ERR_FAIL"),
                (said["run"], "EncoderError", 4, "the encoder failed: rknn_run returned -1. What"),
                (said["outputs"], "EncoderError", 4, "Get outputs failed, error code: RKNN_ERR_FAIL"),
                (said["nan"], "EmbeddingError", 4, "NaN or infinity"),
            ],
        ),
        (contextlib.nullcontext, "rk3576", [(good, "EncoderPlatformError", 41, "built for another SoC")]),
        (
            contextlib.nullcontext,
            "rk3562",
            [({"path": said["small"], "core_mask": 1}, "CoreMaskError", 46, "the others none")],
        ),
        (
            contextlib.nullcontext,
            "rk3576",
            [({"path": said["two"], "core_mask": 7}, "CoreMaskError", 46, "RK3576 those of cores 0 and 1")],
        ),
        (contextlib.nullcontext, "rk3399", [(good, "RKNNDriverError", 44, "the device tree names no SoC")]),
        (board.without_library, "rk3588", [(good, "RKNNLibraryError", 43, "which is not at /usr/lib/librknnrt.so")]),
        (
            lambda: board.without_library(b"\x7fELF"),
            "rk3588",
            [(good, "RKNNLibraryError", 43, "/usr/lib/librknnrt.so cannot be loaded")],
        ),
    ]
    count = 0
    for missing, soc, cases in table:
        board.be(soc)
        with missing():
            told = board.told(wheel, "open_each", cases=[case for case, *_ in cases])
        for (case, kind, code, hint), got in zip(cases, told, strict=True):
            assert (got.get("error"), got.get("exit")) == (kind, code), (case, got)
            assert hint in got["text"], (hint, got)
            count += 1
    board.be("rk3588")
    return f"{count} failures, each with its class, exit code and hint"


def write_failing(folder: Path) -> dict[str, Any]:
    """Encoder files that the stand-in fails with, as librknnrt.so does."""
    words = {
        "mask": "[mask=-1]",
        "memory": "[init=-1][say=failed to malloc npu memory!, size: 59187712, flags: 0x2]",
        "code": "[init=-4]",
        "driver": "[init=-1][say=failed to open rknpu module, need to insmod rknpu dirver!]",
        "old": "[init=-1][say=Invalid RKNN model version 6]",
        "other": "[init=-1]",
        "run": "[run=-1]",
        "outputs": "[outputs=-1]",
        "nan": "[nan]",
    }
    files: dict[str, Any] = {
        name: {"path": str(write_rknn(folder / f"{name}.rknn", words=text)), "core_mask": 7}
        for name, text in words.items()
    }
    files["small"] = str(write_rknn(folder / "small.rknn", target="rk3562"))
    files["two"] = str(write_rknn(folder / "two.rknn", target="rk3576"))
    return files


def memory(board: Board, wheel: str) -> str:
    """RSS with a large encoder: no second copy of the file stays."""
    path = write_rknn(board.folder / "large.rknn", megabytes=MEMORY_MB)
    told = board.told(wheel, "memory", path=path)
    path.unlink()
    after, peak = ((told[what] - told["before"]) / told["file"] for what in ("after", "peak"))
    assert after < 1.3, told
    assert 1.8 < peak < 2.4, told
    return f"{MEMORY_MB} MB file: RSS {after:.2f} times the file once open, {peak:.2f} at its peak"


def repeated(board: Board, wheel: str, count: int = 1000) -> str:
    """Many inferences: memory stays, and so do embeddings that were kept."""
    told = board.told(wheel, "runs", path=board.encoder, count=count)
    assert told["unchanged"], "a kept embedding changed"
    grown = (told["late"] - told["early"]) / 1e6
    assert grown < 8, told
    return (
        f"{count} inferences: RSS {told['early'] / 1e6:.1f} MB, then {told['late'] / 1e6:.1f} MB; embeddings unchanged"
    )


STEPS = (hand_off, described, plan, shapes, shipped, failures, memory, repeated)


@contextlib.contextmanager
def open_board() -> Iterator[Board]:
    """The board, for the length of the block. Raises Unavailable."""
    root = open_root()
    for wheel in WHEELS:
        root.wheel(f"rknn-toolkit-lite2=={wheel}")
    with tempfile.TemporaryDirectory(prefix="rkvlm-rehearsal-") as folder:
        yield Board(root, Path(folder))


def main() -> None:
    try:
        with open_board() as board:
            print(f"{dependencies.__doc__} {dependencies(board)}", flush=True)
            for wheel in WHEELS:
                print(f"\nrknn-toolkit-lite2 {wheel}", flush=True)
                for step in STEPS:
                    began = time.monotonic()
                    said = step(board, wheel)
                    print(f"- {step.__doc__}\n  {said} ({time.monotonic() - began:.0f} s)", flush=True)
    except Unavailable as exc:
        sys.exit(f"The rehearsal could not run: {exc}")


if __name__ == "__main__":
    main()

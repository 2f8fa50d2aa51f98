"""The vendor's wheel, and what it and librknnrt.so say: they print where others raise.

The wheel logs through Python's logging, as "acuityLogger" with a handler for stderr, and returns -1 or None. Its lines
are taken here, and what went wrong is told from them: its own code of librknnrt.so's, RKNN_ERR_..., and librknnrt.so's
lines, as users have published them.
"""

from __future__ import annotations

import logging
import platform
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from encoders.errors import (
    CoreMaskError,
    EncoderError,
    EncoderFileError,
    EncoderMemoryError,
    EncoderPlatformError,
    RKNNDriverError,
    RKNNLibraryError,
    RKNNWheelError,
)

LIBRARY = Path("/usr/lib/librknnrt.so")
"""The one place where the wheel looks for it."""

WHEEL_PYTHONS = ((3, 7), (3, 12))
"""The first and the last CPython that the vendor publishes wheels for."""

_VENDOR = "https://github.com/airockchip/rknn-toolkit2/tree/master/rknpu2/runtime/Linux/librknn_api/aarch64"
# Said of every model whose shapes are fixed, as all of ours are.
_USUAL = re.compile(r"static shape|dynamic range", re.IGNORECASE)

_log = logging.getLogger("encoders.rknn")
_taken = threading.local()


def import_wheel(path: Path) -> Any:
    """The wheel's class RKNNLite. Raises RKNNWheelError that says why it cannot be imported. path: what needs it."""
    try:
        from rknnlite.api import RKNNLite
    except ImportError as exc:
        need = f"{str(path)!r} needs rknn-toolkit-lite2, "
        last = ".".join(map(str, WHEEL_PYTHONS[1]))
        if platform.machine() != "aarch64":
            raise RKNNWheelError(
                f"{need}which runs on a board (aarch64), and this is {platform.machine()}; use the .onnx encoder here."
            ) from exc
        if sys.version_info[:2] > WHEEL_PYTHONS[1]:
            raise RKNNWheelError(
                f"{need}which the vendor publishes for Python up to {last}, and this is Python "
                f"{platform.python_version()}; make the environment with Python {last} or older."
            ) from exc
        raise RKNNWheelError(f"{need}which cannot be imported ({exc}); run `pip install rknn-toolkit-lite2`.") from exc
    logging.getLogger("acuityLogger").addFilter(_take)
    return RKNNLite


@contextmanager
def wheel_words() -> Iterator[list[str]]:
    """What the wheel logs in this thread in the block, line by line, instead of on stderr."""
    before = getattr(_taken, "lines", None)
    heard: list[str] = []
    _taken.lines = heard
    try:
        yield heard
    finally:
        _taken.lines = before


def _take(record: logging.LogRecord) -> bool:
    lines: list[str] | None = getattr(_taken, "lines", None)
    if lines is None:
        return True
    for line in record.getMessage().splitlines():
        if line.strip():
            lines.append(f"{record.levelname[0]} {line.rstrip()}")
    return False


def log_words(lines: Sequence[str]) -> None:
    """Hand on to logging what was said while all went well; a warning is one only if it is not said of every model."""
    for line in lines:
        warning = line.startswith(("W ", "E ")) and not _USUAL.search(line)
        _log.log(logging.WARNING if warning else logging.DEBUG, "%s", line)


def last_words(lines: Sequence[str]) -> str:
    """The line that says most of why something failed: the exception's, which the wheel prints last."""
    errors = [line for line in lines if not line.startswith(("I ", "W ", "D "))]
    return _plain(errors[-1]) if errors else "it does not say why."


def _plain(line: str) -> str:
    return re.sub(r"^[EW] (RKNN: \[[\d:.]+\] )?", "", line)


_CAUSES: tuple[tuple[str, type[EncoderError], str], ...] = (
    (
        r"Can not find dynamic library|librknnrt\.so is missing",
        RKNNLibraryError,
        f"it needs librknnrt.so, which is not at {LIBRARY}; get it from {_VENDOR} and put it there.",
    ),
    (
        r"undefined symbol|Invalid RKNN model version",
        RKNNLibraryError,
        f"{LIBRARY} is too old for it; put that of the release that the file was made with in its place ({_VENDOR}).",
    ),
    (r"librknnrt\.so: ", RKNNLibraryError, f"{LIBRARY} cannot be loaded; get it anew from {_VENDOR}."),
    (
        r"does not match the RKNPU hardware|TARGET_PLATFORM_UNMATCH|failed to check rknpu hardware version",
        EncoderPlatformError,
        "it was built for another SoC than this one; take the file for this one, or convert the encoder with "
        "`vlm convert vision`.",
    ),
    (
        r"failed to malloc npu memory|failed to allocate (?:handle|memory)|MALLOC_FAIL",
        EncoderMemoryError,
        "the NPU has no memory for it; close what else uses the NPU, or take a smaller or an int8 encoder.",
    ),
    (
        r"core_mask is only supported|automatically replaced|set npu core mode|core mode .* not supported",
        CoreMaskError,
        "this SoC does not take the core mask: RK3588 takes all of the vendor's, RK3576 those of cores 0 and 1, the "
        "others none.",
    ),
    (
        r"failed to open rknpu|failed to open rknn device|driver open fail|DEVICE_UNAVAILABLE|_check_container",
        RKNNDriverError,
        "the NPU's driver cannot be opened. Is this the vendor's kernel, with rknpu in it? May this user open "
        "/dev/dri/renderD129 (group render or video)? Has a container been given it, and /proc/device-tree/compatible?",
    ),
    (
        r"Invalid RKNN (?:format|fromat)|invalid RKNN_MAGIC|MODEL_INVALID",
        EncoderFileError,
        "it is damaged, or no .rknn that this runtime reads; copy it anew, or convert the encoder again.",
    ),
    (
        r"Please specify the target|Unsupported run platform|Unsupported target",
        RKNNDriverError,
        "the device tree names no SoC that rknn-toolkit-lite2 runs on (RK3588, RK3576, RK3562, RV1126B ...).",
    ),
)


def mask_replaced(lines: Sequence[str]) -> bool:
    """Whether the wheel took another core mask than it was given, which it calls a success."""
    return any("automatically replaced" in line for line in lines)


def init_error(path: Path, lines: Sequence[str]) -> EncoderError:
    """What it means that the wheel did not open the file, from what was said."""
    telling = [line for line in lines if not _USUAL.search(line)]
    for pattern, kind, advice in _CAUSES:
        found = next((line for line in telling if re.search(pattern, line, re.IGNORECASE)), None)
        if found is not None:
            said = "" if found.startswith("E   File") else f" The runtime says: {_plain(found)}"
            return kind(f"{str(path)!r} cannot be opened: {advice}{said}")
    return EncoderError(f"{str(path)!r} cannot be opened. The runtime says: {last_words(lines)}")

"""Vision encoders in .rknn files, on the NPU, through rknn-toolkit-lite2 (2.3.2 and 2.5.0)."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoders.base import ImageEmbedding, VisionSpec
from encoders.errors import CoreMaskError, EncoderError, EncoderFileError, EncoderPlatformError, RKNNWheelError
from encoders.files import RKNN_MAGIC, begins, file_identity, rknn_targets
from encoders.rknn_words import import_wheel, init_error, last_words, log_words, mask_replaced, wheel_words
from encoders.tensors import (
    Difference,
    blank,
    check_pixels,
    count_difference,
    joined,
    output_differences,
    refuse_differences,
    words,
)

CORE_MASKS = {"auto": 0, "0": 1, "1": 2, "2": 4, "0,1": 3, "0,1,2": 7, "all": 0xFFFF}
"""The vendor's core masks, by the cores that they name; there is none for cores 1 and 2, nor for 0 and 2."""

# The wheel leaves reference cycles behind, about 42 kB an inference (rknn-toolkit2 #42).
COLLECT_EVERY = 8
_NCHW = 0

Capture: TypeAlias = Callable[[], AbstractContextManager[list[str]]]

_log = logging.getLogger(__name__)


class RKNNEncoder:
    """An encoder in a .rknn file; a context manager. Not safe for use by two threads at once.

    The file takes one tensor of uint8 RGB pixels (1, height, width, 3); mean and std are baked into it. It gives
    `spec.outputs` tensors of (tokens, width) or (1, tokens, width), in the order in which the language model wants them
    interleaved. core_mask: one of CORE_MASKS, None where the SoC has one core and takes no mask; that the SoC has the
    cores is for the caller to know. soc: this machine's, "rk3588", to be compared with what the file was built for;
    None leaves that to librknnrt.so. capture: takes what librknnrt.so prints (it gives its log to nobody) for the
    length of a block, and fills the list when that is over; by default it goes where it goes.

    Raises CoreMaskError, EncoderFileError, EncoderPlatformError, RKNNWheelError, RKNNLibraryError, RKNNDriverError,
    EncoderMemoryError or EncoderMismatchError; EncoderError for what is none of these.
    """

    npu = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: VisionSpec,
        *,
        core_mask: int | None = None,
        soc: str | None = None,
        capture: Capture = lambda: nullcontext([]),
    ) -> None:
        self._path = Path(path)
        self.spec = spec
        self.identity = file_identity(self._path)
        self._images = self._code = 0
        self._wheel: Any = None
        _check_mask(core_mask)
        _check_file(self._path, soc)
        try:
            self._open(core_mask, capture)
            self._check_tensors()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RKNNEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode(self, pixels: NDArray[np.uint8], content_hash: str) -> ImageEmbedding:
        """Embed one image: uint8 RGB (1, height, width, 3) to float32 (1, tokens, width x outputs).

        With one output, the embedding is the very array that the wheel made. Raises EncoderError when the pixels have
        another shape or dtype, when the encoder is closed, and when the run fails; EmbeddingError when the numbers are
        not finite.
        """
        check_pixels(pixels, self.spec)
        outputs = self._run(pixels)
        if len(outputs) == 1 and not outputs[0].flags.owndata:
            outputs = [outputs[0].copy()]  # A view of a buffer that the next run writes into.
        return ImageEmbedding(joined(self._path, outputs, self.spec), (content_hash,))

    def close(self) -> None:
        """Give the NPU's memory back; may be called twice."""
        wheel, self._wheel = self._wheel, None
        if wheel is not None:
            with wheel_words():
                wheel.release()
            gc.collect()

    def _open(self, core_mask: int | None, capture: Capture) -> None:
        """Load the file and hand it to librknnrt.so. Peaks at twice the file: the wheel's copy and the runtime's."""
        kind = import_wheel(self._path)
        heard: list[str] = []
        printed: list[str] = []
        options = {} if core_mask is None else {"core_mask": core_mask}
        try:
            with wheel_words() as heard, capture() as printed:
                self._wheel = kind()
                code = self._wheel.load_rknn(str(self._path)) or self._wheel.init_runtime(**options)
        except Exception as exc:  # What the wheel did not catch, like a function that librknnrt.so does not have.
            raise init_error(self._path, [*printed, *heard, str(exc)]) from exc
        if code != 0 or mask_replaced(heard):
            raise init_error(self._path, [*printed, *heard])
        self._wheel.rknn_data = None  # The runtime has copied it: up to 1.4 GB.
        self._watch_runs()
        log_words([*printed, *heard])

    def _watch_runs(self) -> None:
        """Take note of what rknn_run returns: the wheel drops it, and gives the numbers of the picture before."""
        runtime = getattr(self._wheel, "rknn_runtime", None)
        run = getattr(runtime, "run", None)
        if run is None:
            raise RKNNWheelError(
                "This release of rknn-toolkit-lite2 does not show whether a run failed, and pretends that none does; "
                "install one that rkvlm knows: `pip install rknn-toolkit-lite2==2.5.0`."
            )

        def watched(*args: Any, **options: Any) -> Any:
            result = run(*args, **options)
            self._code = result[0] if isinstance(result, tuple) else result
            return result

        runtime.run = watched  # type: ignore[union-attr]

    def _run(self, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        if self._wheel is None:
            raise EncoderError(f"{str(self._path)!r}: the encoder is closed; open it again.")
        self._images += 1
        if self._images % COLLECT_EVERY == 0:
            gc.collect()
        self._code = 0
        with wheel_words() as heard:
            outputs = self._wheel.inference(inputs=[pixels], data_type=["uint8"], data_format=["nhwc"])
        if self._code:
            raise EncoderError(
                f"{str(self._path)!r}: the encoder failed: rknn_run returned {self._code}. What librknnrt.so printed "
                "says why; most often its release is not that of the file, or the NPU's driver is older than it needs."
            )
        if not outputs:
            raise EncoderError(f"{str(self._path)!r}: the encoder failed: {last_words(heard)}")
        log_words(heard)
        return list(outputs)

    def _check_tensors(self) -> None:
        """Compare the file's tensors with the spec: by what the runtime says of them, else by a blank picture."""
        told = self._tensors()
        if told is None:
            shapes = [list(output.shape) for output in self._run(blank(self.spec))]
            names, differences = [f"output {index}" for index in range(len(shapes))], []
        else:
            inputs, outputs = told
            names, shapes = [name for name, _ in outputs], [shape for _, shape in outputs]
            wanted = [1, self.spec.height, self.spec.width_px, 3]
            differences = [
                Difference("input (images, height, width, channels)", words(wanted), words(shape))
                for _, shape in inputs
                if shape != wanted
            ]
            if len(inputs) != 1:
                differences.append(Difference("inputs", "1", f"{len(inputs)} ({', '.join(n for n, _ in inputs)})"))
        differences += count_difference(names, self.spec)
        for shape in shapes:
            differences += output_differences(shape, self.spec)
        refuse_differences(self._path, differences)

    def _tensors(self) -> tuple[list[tuple[str, list[int]]], list[tuple[str, list[int]]]] | None:
        """Name and shape of each input and output. None where the wheel has no such query: it is not public."""
        runtime = getattr(self._wheel, "rknn_runtime", None)
        try:
            with wheel_words():
                inputs, outputs = runtime.get_in_out_num()  # type: ignore[union-attr]
                attributes = [
                    [runtime.get_tensor_attr(index, is_output) for index in range(count)]  # type: ignore[union-attr]
                    for count, is_output in ((inputs, False), (outputs, True))
                ]
            first, second = ([(_name(one), _shape(one)) for one in some] for some in attributes)
        except Exception as exc:  # Another release may have anything here.
            _log.info("The wheel does not tell tensors (%r); a blank picture is encoded instead.", exc)
            return None
        return first, second


def _check_mask(core_mask: int | None) -> None:
    if core_mask is not None and core_mask not in CORE_MASKS.values():
        known = "; ".join(f"{mask} ({cores})" for cores, mask in CORE_MASKS.items())
        raise CoreMaskError(f"{core_mask} is not a core mask of the vendor's; those are {known}.")


def _check_file(path: Path, soc: str | None) -> None:
    """Refuse what the runtime would not take, before gigabytes of it are read."""
    if path.is_dir():
        raise EncoderFileError(f"{str(path)!r} is a directory; give the .rknn file in it.")
    if begins(path, b"RKCE"):
        raise EncoderFileError(f"{str(path)!r} is encrypted, and rkvlm takes no keys; use the plain .rknn.")
    if not begins(path, RKNN_MAGIC):
        raise EncoderFileError(
            f"{str(path)!r} is not a .rknn file by its content; convert the encoder with `vlm convert vision`."
        )
    targets: Sequence[str] = rknn_targets(path)
    if soc is not None and targets and soc.lower() not in targets:
        raise EncoderPlatformError(
            f"{str(path)!r} was built for {' and '.join(targets)}, and this is {soc}; take the file for {soc}, or "
            f"convert the encoder for it with `vlm convert vision`."
        )


def _name(attribute: Any) -> str:
    name = attribute.name
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _shape(attribute: Any) -> list[int]:
    """A tensor's shape; that of an image comes out as (images, height, width, channels)."""
    shape = [int(side) for side in attribute.dims[: attribute.n_dims]]
    return [shape[0], *shape[2:], shape[1]] if len(shape) == 4 and attribute.fmt == _NCHW else shape

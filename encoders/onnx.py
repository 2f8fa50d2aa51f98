"""Vision encoders in ONNX files, on ONNX Runtime: what stands where the NPU is on a PC."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.base import ImageEmbedding, VisionSpec
from encoders.errors import EncoderError, EncoderFileError, EncoderUnavailableError
from encoders.files import RKNN_MAGIC, begins, file_identity
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

_INPUT_TYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)")


class OnnxEncoder:
    """An encoder in an ONNX file; a context manager. Not safe for use by two threads at once.

    The file takes one float32 or float16 tensor (1, 3, height, width), pixels from 0 to 1 less the spec's mean, over
    its std. It gives `spec.outputs` tensors of (1, tokens, width) or (tokens, width), float32 or float16, in the order
    in which the language model wants them interleaved. threads: of one operator, by default one a core.

    Raises EncoderFileError when the file is missing, is not an ONNX file or is no encoder, EncoderMismatchError when it
    is not what the spec says, EncoderUnavailableError when ONNX Runtime is not installed.
    """

    npu = False

    def __init__(self, path: str | os.PathLike[str], spec: VisionSpec, *, threads: int | None = None) -> None:
        self._path = Path(path)
        self.spec = spec
        self.identity = file_identity(self._path)
        self._session: Any = _open(self._path, threads)
        try:
            kind = self._check_input()
            self._input = self._session.get_inputs()[0].name
            self._buffer = np.empty((1, 3, spec.height, spec.width_px), kind)
            levels = np.arange(256)[None, :] / 255
            mean, std = (np.asarray(values)[:, None] for values in (spec.mean, spec.std))
            # Pixels have 256 values: each channel's normalised ones are looked up, rounded once.
            self._levels = ((levels - mean) / std).astype(kind)
            self._check_outputs()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OnnxEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode(self, pixels: NDArray[np.uint8], content_hash: str) -> ImageEmbedding:
        """Embed one image: uint8 RGB (1, height, width, 3) to float32 (1, tokens, width x outputs).

        With one float32 output, the embedding is the very array that ONNX Runtime returned. Raises EncoderError when
        the pixels have another shape or dtype, when the encoder is closed, and when the run fails; EmbeddingError when
        the numbers are not finite.
        """
        check_pixels(pixels, self.spec)
        return ImageEmbedding(joined(self._path, self._run(pixels), self.spec), (content_hash,))

    def close(self) -> None:
        """Give back what ONNX Runtime holds; may be called twice."""
        self._session = None

    def _run(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.floating[Any]]]:
        if self._session is None:
            raise EncoderError(f"{str(self._path)!r}: the encoder is closed; open it again.")
        for channel in range(3):
            # "clip" lets take() write straight into the buffer; uint8 is never out of range.
            np.take(self._levels[channel], pixels[0, :, :, channel], out=self._buffer[0, channel], mode="clip")
        try:
            outputs: list[NDArray[np.floating[Any]]] = self._session.run(None, {self._input: self._buffer})
        except Exception as exc:  # ONNX Runtime's errors have no common class of their own.
            raise EncoderError(f"{str(self._path)!r}: the encoder failed: {_first_line(exc)}") from exc
        return outputs

    def _check_input(self) -> type[np.floating[Any]]:
        """Compare the file's input with the spec; its dtype."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(repr(entry.name) for entry in inputs)
            raise EncoderFileError(f"{str(self._path)!r}: an encoder has one input, the pixels; this has {names}.")
        kind, shape = inputs[0].type, list(inputs[0].shape)
        if kind not in _INPUT_TYPES:
            raise EncoderFileError(f"{str(self._path)!r}: the input must be float32 or float16; it is {kind}.")
        wanted = [1, 3, self.spec.height, self.spec.width_px]
        if len(shape) != 4 or any(
            isinstance(has, int) and has != want for has, want in zip(shape, wanted, strict=True)
        ):
            what = "input (images, channels, height, width)"
            refuse_differences(self._path, [Difference(what, words(wanted), words(shape))])
        return _INPUT_TYPES[kind]

    def _check_outputs(self) -> None:
        """Compare the file's outputs with the spec: by its static shapes, else by what a blank picture gives."""
        outputs = self._session.get_outputs()
        differences = count_difference([entry.name for entry in outputs], self.spec)
        for entry in outputs:
            if entry.type not in _OUTPUT_TYPES:
                raise EncoderFileError(
                    f"{str(self._path)!r}: output {entry.name!r} is {entry.type}, not floating point."
                )
        shapes = [list(entry.shape or ()) for entry in outputs]
        if not differences and not all(_is_static(shape) for shape in shapes):
            shapes = [list(output.shape) for output in self._run(blank(self.spec))]
        for shape in shapes:
            differences += output_differences(shape, self.spec)
        refuse_differences(self._path, differences)


def _open(path: Path, threads: int | None) -> Any:
    """An ONNX Runtime session of the file."""
    runtime = _runtime(path)
    if path.is_dir():
        raise EncoderFileError(f"{str(path)!r} is a directory; give the .onnx file in it.")
    if begins(path, RKNN_MAGIC):
        raise EncoderFileError(f"{str(path)!r} is an .rknn file by its content; name it so.")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # Failures are raised; they need not be printed as well.
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors have no common class of their own.
        raise EncoderFileError(f"{str(path)!r} cannot be opened as an ONNX file: {_first_line(exc)}") from exc


def _runtime(path: Path) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as exc:
        raise EncoderUnavailableError(
            f"{str(path)!r} needs ONNX Runtime, which cannot be imported ({exc}); run `pip install onnxruntime`."
        ) from exc
    return onnxruntime  # type: ignore[no-any-return]


def _is_static(shape: list[Any]) -> bool:
    """Whether the file says tokens and width; the leading 1 may have a name."""
    return len(shape) >= 2 and all(isinstance(side, int) for side in shape[-2:])


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__

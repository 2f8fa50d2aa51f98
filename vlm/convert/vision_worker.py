"""Builds one .rknn file with rknn-toolkit2, and runs it in the toolkit's simulator: `python vision_worker.py JOB.json`.

Runs in the converter's own environment, and so imports nothing of rkvlm. The job is a JSON object:

    onnx, rknn      the encoder's file, and the one to write
    target          the SoC
    mean, std       of each channel, in units of pixels from 0 to 255
    pixels          a .npy file, uint8 (pictures, height, width, 3) RGB, to run in the simulator
    calibration     another one, to quantise to int8 with; null for fp16
    simulated       where the outputs go: a .npz file, float32 output_0, output_1, ... of (pictures, ...)
    reply           where to say how it went: {"toolkit": version} or {"error": what, in words}

What the toolkit prints goes where stdout and stderr go. The simulator runs only what was built in the same process.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


class StepError(Exception):
    """A step of the toolkit did not work; why is in its log only."""


def main(job_file: str) -> int:
    """Do the job; the exit code says whether it worked."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    try:
        build(job, Path(job_file).parent)
        reply = {"toolkit": version("rknn-toolkit2")}
    except StepError as exc:
        reply = {"error": str(exc)}
    except Exception as exc:
        # The toolkit's own errors hold their traceback; what happened stands in its last lines.
        reason = str(exc).rpartition("Error: ")[2].strip() or type(exc).__name__
        reply = {"error": f"rknn-toolkit2 says: {' '.join(reason.split())}"}
    Path(job["reply"]).write_text(json.dumps(reply), encoding="utf-8")
    return 1 if "error" in reply else 0


def build(job: dict[str, Any], folder: Path) -> None:
    """Build the job's .rknn file and run its pictures in the simulator; folder: for files on the way."""
    import numpy as np
    from rknn.api import RKNN

    pixels = np.load(job["pixels"])
    model, input_name = with_plain_weights(Path(job["onnx"]), folder / "plain_weights.onnx")
    dataset = None if job["calibration"] is None else write_dataset(np.load(job["calibration"]), folder)
    rknn = RKNN(verbose=False)
    try:
        rknn.config(mean_values=[job["mean"]], std_values=[job["std"]], target_platform=job["target"])
        shape = [1, 3, *pixels.shape[1:3]]
        _check(rknn.load_onnx(model=str(model), inputs=[input_name], input_size_list=[shape]), "read the ONNX file")
        _check(rknn.build(do_quantization=dataset is not None, dataset=dataset), "build it")
        _check(rknn.export_rknn(job["rknn"]), "write the .rknn file")
        _check(rknn.init_runtime(), "start its simulator")
        rows = [_simulate(rknn, picture[None]) for picture in pixels]
    finally:
        rknn.release()
    outputs: dict[str, Any] = {
        f"output_{number}": np.stack(same) for number, same in enumerate(zip(*rows, strict=True))
    }
    np.savez(job["simulated"], **outputs)


def _simulate(rknn: Any, pixels: Any) -> list[Any]:
    outputs = rknn.inference(inputs=[pixels], data_format=["nhwc"])
    _check(0 if outputs else -1, "run a picture in its simulator")
    return list(outputs)


def _check(code: int, step: str) -> None:
    if code != 0:
        raise StepError(f"rknn-toolkit2 could not {step}")


def write_dataset(pictures: Any, folder: Path) -> str:
    """The toolkit's list of calibration pictures: a text file that names one .npy file, NCHW, a line."""
    import numpy as np

    files = []
    for number, picture in enumerate(pictures):
        files.append(folder / f"calibration_{number}.npy")
        np.save(files[-1], np.ascontiguousarray(picture.transpose(2, 0, 1)[None]))
    listed = folder / "calibration.txt"
    listed.write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    return str(listed)


def with_plain_weights(path: Path, made: Path) -> tuple[Path, str]:
    """A file whose weights are stored as the graph computes with them, and the name of its input.

    The toolkit is given no weights that are stored as fp16 and cast to fp32 as the session opens. Where there are none,
    that is the very file at `path`.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    input_name = next(entry.name for entry in graph.input if entry.name not in stored)
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored]
    if not casts:
        return path, input_name
    for cast in casts:
        kind = onnx.helper.tensor_dtype_to_np_dtype(cast.attribute[0].i)
        values = numpy_helper.to_array(stored[cast.input[0]]).astype(kind)
        graph.initializer.append(numpy_helper.from_array(values, cast.output[0]))
        graph.node.remove(cast)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.save(model, made)
    return made, input_name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

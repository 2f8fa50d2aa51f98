"""A stand-in for rknnlite.api: what the vendor's wheel was seen to do, without librknnrt.so.

It logs and returns -1 or None where others raise; keeps the file's bytes; lets through what rknn_run returns; leaves
reference cycles. Files are those of tests/native/rknn_file.py, and so are the words in them:
    [init=CODE] [mask=CODE] [run=CODE] [outputs=CODE]  that call of librknnrt.so's fails    [say=TEXT]  it prints TEXT
    [library=missing|damaged|old]  what is wrong with librknnrt.so      [soc=rk3588]  the machine's
    [reuse]  outputs are views of one buffer, as 2.5.0 gives them when asked for      [nan]
"""

import json
import logging
import os
import re
import struct
import sys
import traceback
from types import SimpleNamespace

import numpy as np

VERSION = "2.5.0"
TELLS_TENSORS = True  # False: as in a release whose runtime has no such query
last = None  # the RKNNLite made last

_CODES = {-1: "RKNN_ERR_FAIL", -4: "RKNN_ERR_MALLOC_FAIL", -6: "RKNN_ERR_MODEL_INVALID", -8: "RKNN_ERR_INPUT_INVALID"}
_log = logging.getLogger("acuityLogger")
_log.propagate = False
_log.handlers = [logging.StreamHandler(sys.stderr)]


class RKNNLite:
    def __init__(self, verbose=False, verbose_file=None):
        global last  # noqa: PLW0603
        self.rknn_data = self.rknn_runtime = None
        self.released = 0
        last = self

    def load_rknn(self, path):
        with open(path, "rb") as file:
            self.rknn_data = file.read()
        return 0

    def init_runtime(self, target=None, device_id=None, async_mode=False, core_mask=0):
        try:
            self.rknn_runtime = Runtime(self.rknn_data, core_mask)
            self.rknn_runtime.set_core_mask(core_mask)
        except Exception as exc:
            if "set core mask" in str(exc):
                _log.error("Catch exception when set npu core mode.")
                return -1
            _log.error("Catch exception when init runtime!")
            _log.error(traceback.format_exc())
            return -1
        self.rknn_runtime.extend_rt_lib()
        _log.warning("Query dynamic range failed. Ret code: RKNN_ERR_MODEL_INVALID. (If it is a static shape ...)")
        return 0

    def _inference(self, inputs, data_type, data_format, reuse_outputs):
        try:
            self.rknn_runtime.set_inputs(inputs, data_type, data_format)
            self.rknn_runtime.run(False)
            return self.rknn_runtime.get_outputs(reuse_outputs)
        except Exception:
            _log.error("Catch exception when running RKNN model.")
            _log.error(traceback.format_exc())
            return None

    def inference(self, inputs, data_type=None, data_format=None, inputs_pass_through=None, **more):
        unknown = set(more) - ({"reuse_outputs"} if VERSION == "2.5.0" else set())
        if unknown:
            raise TypeError(f"inference() got an unexpected keyword argument {unknown.pop()!r}")
        return self._inference(inputs, data_type, data_format, more.get("reuse_outputs", False))

    def release(self):
        self.released += 1
        self.rknn_runtime = None


class Runtime:
    def __init__(self, data, core_mask):
        self.text = read_text(data)
        self.words = dict(re.findall(r"\[(\w+)=?([^\]]*)\]", self.text.get("name", "")))
        self.mask, self.fed, self.calls = None, None, []
        library = self.words.get("library")
        if library == "missing":
            raise Exception("Can not find dynamic library on RK3588!\nPlease download the librknnrt.so from ...")
        if library == "damaged":
            raise OSError("/usr/lib/librknnrt.so: file too short")
        self.copy = bytes(memoryview(data))
        os.write(1, b"I RKNN: [10:00:00.000] RKNN Runtime Information, librknnrt version: 2.3.2\n")
        if "say" in self.words:
            os.write(2, f"E RKNN: [10:00:00.000] {self.words['say']}\n".encode())
        self._check("init", "RKNN init failed.")
        self.tensors = [one["size"] for one in self.text["norm_tensor"]]
        self.cycle = self  # what the wheel leaves behind
        self.ballast = bytearray(42_000)
        shared = np.empty(sum(int(np.prod(shape)) for shape in self.tensors[1:]), np.float32)
        self.buffers = np.split(shared, np.cumsum([int(np.prod(shape)) for shape in self.tensors[1:]])[:-1])

    def __getattribute__(self, name):
        if name in ("get_in_out_num", "get_tensor_attr") and not TELLS_TENSORS:
            raise AttributeError(f"'RKNNRuntime' object has no attribute {name!r}")
        return super().__getattribute__(name)

    def _check(self, call, what):
        code = int(self.words.get(call, 0))
        if code:
            raise Exception(f"{what} error code: {_CODES.get(code, code)}")

    def set_core_mask(self, core_mask):
        soc = self.words.get("soc", "rk3588")
        if soc == "rk3576" and core_mask & 4:
            _log.warning('"NPU_CORE_0_1_2" is not supported and will be automatically replaced with "NPU_CORE_0_1".')
            core_mask = 3
        if core_mask and soc not in ("rk3588", "rk3576"):
            _log.error("The core_mask is only supported by ['RK3588', 'RK3576']. Please do not set this parameter ...")
            raise Exception("RKNN set core mask failed.")
        self.mask = core_mask
        self._check("mask", "RKNN set core mask failed.")

    def extend_rt_lib(self):
        if self.words.get("library") == "old":
            raise AttributeError("/usr/lib/librknnrt.so: undefined symbol: rknn_set_input_shapes")

    def get_in_out_num(self):
        return 1, len(self.tensors) - 1

    def get_tensor_attr(self, index, is_output=False):
        shape = self.tensors[1 + index if is_output else 0]
        dims = shape if is_output else [shape[0], *shape[2:], shape[1]]
        return SimpleNamespace(name=b"tensor", n_dims=len(dims), dims=[*dims, 0, 0], fmt=3 if is_output else 1)

    def set_inputs(self, inputs, data_type, data_format):
        (pixels,) = inputs
        self.calls.append((data_type, data_format, str(pixels.dtype), pixels.shape))
        if pixels.size != int(np.prod(self.tensors[0])):
            raise Exception("Set inputs failed. error code: RKNN_ERR_INPUT_INVALID")
        self.picture = pixels.tobytes()
        self.cycles = Cycle()

    def run(self, get_frame_id=False):
        code = int(self.words.get("run", 0))
        if not code:
            self.fed = self.picture
        return code

    def get_outputs(self, reuse_outputs):
        self._check("outputs", "E Get outputs failed,")
        flat = np.frombuffer(self.fed or bytes(len(self.picture)), np.uint8).astype(np.float32)
        given = []
        for number, (shape, buffer) in enumerate(zip(self.tensors[1:], self.buffers, strict=True)):
            buffer[:] = (flat[(np.arange(buffer.size) + 31 * number) % flat.size] - 128) / 64
            if "nan" in self.words:
                buffer[0] = np.nan
            view = buffer.reshape(shape)
            given.append(view if reuse_outputs or "reuse" in self.words else view.copy())
        return given


class Cycle:
    """Garbage that only the collector gets at."""

    def __init__(self):
        self.self, self.ballast = self, bytearray(42_000)


def read_text(data):
    body = struct.unpack_from("<Q", data, 16)[0]
    return json.loads(data[64 + body + 8 :])

"""Stands where rknn-toolkit2 is: `rknn.api` of the stand-in wheel.

Writes down what it is given, into the file that RKNN_STANDIN_LOG names, one JSON line a call. "Simulates" by running
the ONNX file in ONNX Runtime on pixels normalised as config() said, so that a wrong mean, std or layout shows in the
outputs. RKNN_STANDIN says what goes wrong:
    load, build, export, runtime, inference   that step fails as the toolkit does: -1, or None
    raise                                     an error with its traceback in the message, as 2.5.0 raises
    killed                                    the process ends by a signal
    swapped                                   every picture gives the outputs of the first one
    flat                                      only the first half of the numbers comes out
"""

import json
import os
import signal

import numpy as np

MODE = os.environ.get("RKNN_STANDIN", "")


class RKNN:
    def __init__(self, verbose=False):
        self._first = None

    def _note(self, call, **what):
        with open(os.environ["RKNN_STANDIN_LOG"], "a") as log:
            log.write(json.dumps({"call": call, **what}) + "\n")
        print(f"I {call}\n\x1b[1;31mE\x1b[0m {call}: what the toolkit prints")
        return -1 if call == MODE else 0

    def config(self, mean_values, std_values, target_platform):
        self._mean, self._std, self._target = np.array(mean_values[0]), np.array(std_values[0]), target_platform
        return self._note("config", mean=mean_values, std=std_values, target=target_platform)

    def load_onnx(self, model, inputs, input_size_list):
        import onnx
        import onnxruntime

        graph = onnx.load(model).graph
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        kinds = sorted({tensor.data_type for tensor in graph.initializer})
        casts = sum(node.op_type == "Cast" for node in graph.node)
        return self._note("load", model=model, inputs=inputs, sizes=input_size_list, kinds=kinds, casts=casts)

    def build(self, do_quantization, dataset):
        if MODE == "raise":
            raise ValueError('Traceback (most recent call last):\n  File "x"\nValueError: Unsupport Op\n   Einsum!\n')
        if MODE == "killed":
            print("I Building : 50%\rI Building : 60%", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if dataset is not None:
            with open(dataset) as lines:
                arrays = [np.load(line.strip()) for line in lines]
            np.save(os.environ["RKNN_STANDIN_LOG"] + ".calibration.npy", np.stack(arrays))
        return self._note("build", quantise=do_quantization, dataset=dataset)

    def export_rknn(self, path):
        with open(path, "wb") as file:
            file.write(b"RKNN " + self._target.encode() + b" " + os.environ.get("MALLOC_PERTURB_", "").encode())
        return self._note("export", path=path)

    def init_runtime(self):
        return self._note("runtime")

    def inference(self, inputs, data_format):
        pixels = inputs[0]
        with open(os.environ["RKNN_STANDIN_LOG"] + ".pixels", "ab") as file:
            file.write(pixels.tobytes())
        if self._note("inference", dtype=str(pixels.dtype), shape=pixels.shape, layout=data_format) != 0:
            return None
        normal = ((pixels - self._mean) / self._std).transpose(0, 3, 1, 2).astype(np.float32)
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: normal})
        if MODE == "swapped":
            outputs = self._first = self._first or outputs
        return [output[:, : output.shape[1] // 2] for output in outputs] if MODE == "flat" else outputs

    def release(self):
        self._note("release")
